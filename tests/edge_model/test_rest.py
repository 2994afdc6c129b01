"""The Open Inference Protocol over REST, on the wire."""

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

from support.edge import Reply, RunningEdge, outputs_of, text_tensor

PATH = "/v2/models/ticket-triage/infer"
LENGTH = "Inference-Header-Content-Length"


def _asked(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def test_text_in_answer_out(edge: RunningEdge, artefact: Any) -> None:
    reply = edge.infer("How do I change my PIN?", "I lost my card", id="7")
    assert (reply.body["id"], reply.body["model_name"]) == ("7", "ticket-triage")
    assert reply.body["model_version"] == artefact.name
    told = outputs_of(reply)
    assert list(told["label"]) == ["change_pin", "lost_or_stolen_card"]
    assert told["probabilities"].shape == (2, 77)
    assert told["probabilities"].sum(axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert told["confidence"] == pytest.approx(told["probabilities"].max(axis=1))
    assert np.linalg.norm(told["embedding"], axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert ((told["in_scope"] >= 0) & (told["in_scope"] <= 1)).all()
    assert not told["truncated"].any()


def test_outputs_are_chosen_by_name_and_come_in_that_order(edge: RunningEdge) -> None:
    reply = edge.infer("hello", outputs=_asked("embedding", "label"))
    assert [o["name"] for o in reply.body["outputs"]] == ["embedding", "label"]
    assert "id" not in reply.body


def test_top_k_gives_the_best_classes_and_their_names(edge: RunningEdge) -> None:
    told = outputs_of(edge.infer("I lost my card", "Why?", parameters={"top_k": 3}))
    assert told["probabilities"].shape == told["labels"].shape == (2, 3)
    assert (np.diff(told["probabilities"], axis=1) <= 0).all()
    assert list(told["labels"][:, 0]) == list(told["label"])
    assert outputs_of(edge.infer("a", parameters={"top_k": 500}))["labels"].shape == (1, 77)


def test_nested_data_a_version_in_the_path_and_several_texts_in_a_shape(
    edge: RunningEdge, artefact: Any
) -> None:
    tensor = text_tensor("hello", "bye", shape=[2, 1], data=[["hello"], ["bye"]])
    reply = edge.post(f"/v2/models/ticket-triage/versions/{artefact.name}/infer", {"inputs": [tensor]})
    assert outputs_of(reply)["label"].shape == (2,)


def test_arrays_that_the_client_tokenised_give_what_the_text_gives(edge: RunningEdge, model: Any) -> None:
    texts = ["I lost my card", "How do I change my PIN, please?"]
    rows = [list(map(int, row.ids)) for row in model.encode(texts)]
    width = max(map(len, rows))
    ids = [row + [0] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    inputs = [
        {"name": "input_ids", "datatype": "INT64", "shape": [2, width], "data": ids},
        {
            "name": "attention_mask",
            "datatype": "INT32",
            "shape": [2, width],
            "data": [bit for row in mask for bit in row],
        },
    ]
    by_ids = outputs_of(edge.post(PATH, {"inputs": inputs}))
    by_text = outputs_of(edge.infer(*texts))
    assert by_ids["probabilities"] == pytest.approx(by_text["probabilities"], abs=1e-6)
    assert list(by_ids["tokens"]) == [len(row) for row in rows]


def test_a_large_request_is_answered_in_the_order_of_its_texts(edge: RunningEdge) -> None:
    texts = [f"{'please ' * (n % 9)}tell me where transfer {n} is" for n in range(83)]
    together = outputs_of(edge.infer(*texts))["embedding"]
    for row in (0, 8, 41, 82):
        alone = outputs_of(edge.infer(texts[row]))["embedding"][0]
        assert together[row] == pytest.approx(alone, abs=1e-5)


def test_binary_tensors_both_ways(edge: RunningEdge) -> None:
    texts = ["I lost my card", "größe"]
    items = [text.encode() for text in texts]
    raw = b"".join(len(item).to_bytes(4, "little") + item for item in items)
    tensor = {
        "name": "text",
        "shape": [2],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps(
        {
            "inputs": [tensor],
            "outputs": [
                {"name": "probabilities", "parameters": {"binary_data": True}},
                {"name": "label"},
                {"name": "tokens", "parameters": {"binary_data": True}},
            ],
        }
    ).encode()
    reply = edge.post(PATH, raw=head + raw, headers={LENGTH: str(len(head))})
    length = int(reply.headers[LENGTH.lower()])
    answer = json.loads(reply.raw[:length])
    first, label, tokens = answer["outputs"]
    at = length + first["parameters"]["binary_data_size"]
    probabilities = np.frombuffer(reply.raw[length:at], "<f4").reshape(first["shape"])
    assert tokens["parameters"]["binary_data_size"] == len(reply.raw) - at == 8
    by_json = outputs_of(edge.infer(*texts))
    assert probabilities == pytest.approx(by_json["probabilities"], abs=1e-6)
    assert label["data"] == list(by_json["label"])
    assert reply.headers["content-type"] == "application/octet-stream"


def test_all_outputs_in_binary_if_the_request_says_so(edge: RunningEdge) -> None:
    reply = edge.infer("hello", parameters={"binary_data_output": True})
    head = json.loads(reply.raw[: int(reply.headers[LENGTH.lower()])])
    assert all("data" not in output for output in head["outputs"])


@pytest.mark.parametrize(
    ("encoding", "compressed"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_bodies_may_be_compressed(edge: RunningEdge, encoding: str, compressed: Any) -> None:
    body = json.dumps({"inputs": [text_tensor("hello")]}).encode()
    reply = edge.post(PATH, raw=compressed(body), headers={"Content-Encoding": encoding})
    assert reply.status == 200, reply


def test_a_compressed_bomb_is_413_and_a_cut_stream_400(edge: RunningEdge) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert edge.post(PATH, raw=bomb, headers={"Content-Encoding": "gzip"}).status == 413
    cut = gzip.compress(b'{"inputs": []}')[:-9]
    for encoding, raw in (("gzip", cut), ("gzip", b"{}"), ("br", b"{}")):
        reply = edge.post(PATH, raw=raw, headers={"Content-Encoding": encoding})
        assert (reply.status, list(reply.body)) == (400, ["error"])


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "inputs"),
    ({"inputs": []}, 400, "inputs"),
    ({"inputs": "text"}, 400, "inputs"),
    ({"inputs": [text_tensor("a", name="words")]}, 400, "'text'"),
    ({"inputs": [text_tensor("a"), text_tensor("a")]}, 400, "same name"),
    ({"inputs": [text_tensor("a", datatype="FP32", data=[1])]}, 400, "BYTES"),
    ({"inputs": [text_tensor("a", datatype="STRING")]}, 400, "must be one of"),
    ({"inputs": [text_tensor("a", shape=[2])]}, 400, "shape"),
    ({"inputs": [text_tensor("a", shape=["two"])]}, 400, "inputs.0.shape.0"),
    ({"inputs": [text_tensor(7)]}, 400, "string"),
    ({"inputs": [text_tensor()]}, 400, "shape"),
    ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}, 400, "neither data"),
    ({"inputs": [text_tensor(*["a"] * 1025)]}, 413, "at most 1024"),
    ({"inputs": [text_tensor("a" * 20_001)]}, 413, "at most 20000"),
    ({"inputs": [text_tensor("a")], "outputs": [{"name": "mood"}]}, 400, "embedding"),
    ({"inputs": [text_tensor("a")], "parameters": {"top_k": 0}}, 400, "parameters.top_k"),
    ({"inputs": [text_tensor("a")], "parameters": {"top_k": "3"}}, 400, "parameters.top_k"),
    ({"inputs": [text_tensor("a")], "parameters": {"truncate": 1}}, 400, "parameters.truncate"),
    ({"inputs": [text_tensor("a")], "parameters": {"deadline_ms": "soon"}}, 400, "parameters.deadline_ms"),
    ({"inputs": [text_tensor("a")], "parameters": {"deadline_ms": -1}}, 400, "parameters.deadline_ms"),
    ({"inputs": [text_tensor("word " * 200)], "parameters": {"truncate": False}}, 400, "more than 64 tokens"),
    ({"inputs": [text_tensor("a", parameters={"binary_data_size": 5})]}, 400, "binary_data_size"),
    ({"inputs": [{"name": "input_ids", "datatype": "FP32", "shape": [1, 1], "data": [2]}]}, 400, "INT64"),
    (
        {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1], "data": [2]}]},
        400,
        "[rows, tokens]",
    ),
    (
        {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [-1]}]},
        400,
        "from 0 to",
    ),
    (
        {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": [10**9]}]},
        400,
        "from 0 to",
    ),
    (
        {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [1, 65], "data": [5] * 65}]},
        400,
        "1 to 64 tokens",
    ),
    (
        {
            "inputs": [
                {"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [5, 5]},
                {"name": "attention_mask", "datatype": "INT64", "shape": [1, 2], "data": [0, 1]},
            ]
        },
        400,
        "ones, then zeros",
    ),
]


@pytest.mark.parametrize(("body", "status", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said(edge: RunningEdge, body: dict[str, Any], status: int, said: str) -> None:
    reply = edge.post(PATH, body)
    assert (reply.status, list(reply.body)) == (status, ["error"])
    assert said in reply.body["error"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"inputs": NaN}', b"\xff\xfe", b"[" * 5_000])
def test_what_is_no_request_is_400(edge: RunningEdge, raw: bytes) -> None:
    reply = edge.post(PATH, raw=raw)
    assert (reply.status, list(reply.body)) == (400, ["error"])


@pytest.mark.parametrize("length", ["-1", "x", "99999", ""])
def test_a_header_length_that_is_wrong_is_400(edge: RunningEdge, length: str) -> None:
    reply = edge.post(PATH, {"inputs": [text_tensor("a")]}, headers={LENGTH: length})
    assert (reply.status, list(reply.body)) == (400, ["error"])


def test_bytes_that_belong_to_no_input_are_400(edge: RunningEdge) -> None:
    body = json.dumps({"inputs": [text_tensor("a")]}).encode()
    reply = edge.post(PATH, raw=body + b"xyz", headers={LENGTH: str(len(body))})
    assert (reply.status, reply.body["error"]) == (400, "3 bytes behind the JSON belong to no input")


def test_what_is_not_there_is_404(edge: RunningEdge) -> None:
    body = {"inputs": [text_tensor("a")]}
    for path in ("/v2/models/x/infer", "/v2/models/ticket-triage/versions/99/infer", "/v2/nothing"):
        reply = edge.post(path, body)
        assert (reply.status, list(reply.body)) == (404, ["error"])
    for path in ("/v2/models/x", "/v2/models/x/ready", "/v2/models/ticket-triage/versions/99"):
        reply = edge.get(path)
        assert (reply.status, list(reply.body)) == (404, ["error"])
    assert edge.get(PATH).status == 405


def test_every_way_to_tell_a_deadline_counts(edge: RunningEdge) -> None:
    body = {"inputs": [text_tensor("a")]}

    def told(headers: dict[str, str] | None = None, **parameters: Any) -> Reply:
        return edge.post(PATH, {**body, "parameters": parameters}, headers=headers)

    past = [told({"X-Deadline-Ms": "0"}), told(deadline_ms=0), told(timeout=1)]
    past.append(told({"X-Deadline-Ms": "5000"}, deadline_ms=0))
    assert [(reply.status, list(reply.body)) for reply in past] == [(504, ["error"])] * 4
    assert told({"X-Deadline-Ms": "5000"}, deadline_ms=5000, timeout=5_000_000).status == 200
    assert told(timeout=0).status == 200
    for nonsense in ("soon", "-1", "nan", "inf", "1e99"):
        assert told({"X-Deadline-Ms": nonsense}).status == 400


def test_a_text_is_cut_at_the_models_length_and_said_to_be(edge: RunningEdge) -> None:
    told = outputs_of(edge.infer("card " * 500, "card"))
    assert (list(told["truncated"]), told["tokens"][0]) == ([True, False], 64)


@pytest.mark.parametrize(
    "text", ["", " ", "x" * 20_000, "🙂" * 50, "日本語のメッセージ", "\x00\n\t", "\u200b"]
)
def test_any_text_is_answered(edge: RunningEdge, text: str) -> None:
    told = outputs_of(edge.infer(text))
    assert np.isfinite(told["probabilities"]).all()
    assert np.isfinite(told["in_scope"]).all()


def test_nothing_but_health_is_open_without_a_key(edge: RunningEdge) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/health/live", "/health/ready"):
        assert edge.get(path, key=None).status == 200
    for path in (
        "/v2",
        "/v2/models/ticket-triage",
        "/v2/models/ticket-triage/ready",
        "/metrics",
        "/openapi.json",
    ):
        assert edge.get(path, key=None).status == 401
    for key in (None, "wrong", "key-of-the-edge-testsx"):
        for path in (PATH, "/v2/repository/index"):
            reply = edge.post(path, {"inputs": [text_tensor("a")]}, key=key)
            assert (reply.status, list(reply.body)) == (401, ["error"])
            assert "www-authenticate" in reply.headers


def test_metadata_names_inputs_outputs_and_versions(edge: RunningEdge, artefact: Any) -> None:
    found = edge.get("/v2/models/ticket-triage").body
    assert found["versions"] == [artefact.name]
    assert [i["name"] for i in found["inputs"]] == ["text", "input_ids", "attention_mask"]
    assert [o["name"] for o in found["outputs"]] == [o["name"] for o in edge.infer("a").body["outputs"]]
    assert "binary_tensor_data" in edge.get("/v2").body["extensions"]
    assert edge.get("/v2/models/ticket-triage/ready").body == {"name": "ticket-triage", "ready": True}
    assert edge.states() == {artefact.name: "READY"}


def test_the_request_id_comes_back_and_requests_are_counted(edge: RunningEdge) -> None:
    before = edge.metric('trivium_edge_requests_total{door="rest",status="200"}')
    reply = edge.infer("hello", headers={"X-Request-Id": "abc-1"})
    assert reply.headers["x-request-id"] == "abc-1"
    assert edge.metric('trivium_edge_requests_total{door="rest",status="200"}') == before + 1


def test_infer_stands_in_the_openapi_document(edge: RunningEdge) -> None:
    document = edge.get("/openapi.json").body
    told = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert {"200", "400", "404", "413", "503", "504"} <= told["responses"].keys()
    assert document["components"]["schemas"]["InferBody"]["required"] == ["inputs"]
