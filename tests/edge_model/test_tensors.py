"""Tensors as JSON and as bytes: every datatype there and back, and each fault by name."""

from typing import Any

import numpy as np
import pytest
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from edge_model.tensors import BYTES, NUMBERS, Tensor, from_json, from_raw, numbers, strings, to_raw
from trivium.errors import InvalidRequest

TEXTS = ["", "plain", "größe 🙂", "line\nbreak", "\x00"]


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_are_what_tritons_client_sends_and_reads(datatype: str) -> None:
    theirs = triton_to_np_dtype(datatype)
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(theirs)
    read = from_raw("x", datatype, [2, 3], values.tobytes())
    assert (read.values.reshape(2, 3) == values).all()
    assert np_to_triton_dtype(read.values.dtype) == datatype
    assert to_raw(numbers("x", datatype, values)) == values.tobytes()


def test_texts_are_what_tritons_client_sends_and_reads() -> None:
    sent = serialize_byte_tensor(np.array([text.encode() for text in TEXTS], dtype=object)).item()
    assert from_raw("text", BYTES, [len(TEXTS)], sent).values == TEXTS
    back = deserialize_bytes_tensor(to_raw(strings("label", TEXTS)))
    assert [item.decode() for item in back] == TEXTS


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("INT64", [[1, 2], [3, 4]]), ("FP32", [1, 2.5, [3, 4]]), ("BOOL", [True, False, [True, True]])],
)
def test_data_may_be_flat_or_nested(datatype: str, data: list[Any]) -> None:
    assert from_json("x", datatype, [2, 2], data).values.shape == (4,)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FLOAT", [1], [1], "must be one of BYTES, BOOL"),
        ("INT64", [2], [1], "shape"),
        ("INT64", [], [], "shape"),
        ("INT64", [-1], [1], "shape"),
        ("INT64", [0], [], "shape"),
        ("INT64", [1], [1.5], "every item must be a INT64"),
        ("INT64", [1], ["1"], "every item"),
        ("INT64", [1], [None], "every item"),
        ("INT64", [1], [True], "every item"),
        ("INT64", [1], [2**70], "every item"),
        ("UINT8", [1], [256], "does not fit"),
        ("INT8", [1], [-129], "does not fit"),
        ("UINT64", [1], [-1], "does not fit"),
        ("FP32", [2], [1, "a"], "every item"),
        ("BOOL", [1], [1], "every item"),
        ("BYTES", [1], [7], "string"),
        ("BYTES", [1], [None], "string"),
        ("BYTES", [2], ["a", {"b": 1}], "string"),
    ],
)
def test_what_is_wrong_in_json_is_named(datatype: str, shape: list[int], data: list[Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        from_json("x", datatype, shape, data)
    assert "inputs.x" in caught.value.detail


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "said"),
    [
        ("FP32", [1], b"\0\0\0", "multiple"),
        ("FP32", [2], b"\0\0\0\0", "shape"),
        ("BYTES", [1], b"\x01\0", "cut off"),
        ("BYTES", [1], b"\x05\0\0\0abc", "cut off"),
        ("BYTES", [1], b"\x02\0\0\0\xff\xfe", "UTF-8"),
        ("BYTES", [2], b"\x01\0\0\0a", "shape"),
        ("STRING", [1], b"", "must be one of"),
    ],
)
def test_what_is_wrong_in_bytes_is_named(datatype: str, shape: list[int], raw: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        from_raw("x", datatype, shape, raw)
    assert "inputs.x" in caught.value.detail


def test_a_tensor_is_little_endian_whatever_the_array_was() -> None:
    big = np.array([1, 2], dtype=">f4")
    assert to_raw(numbers("x", "FP32", big)) == np.array([1, 2], dtype="<f4").tobytes()
    assert isinstance(from_json("x", "FP16", [1], [0.5]), Tensor)
