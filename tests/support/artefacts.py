"""Versions of the shipped model, as they should be and broken in ways that happen."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

STUCK_TOKEN = 7
"""A row that begins with this id never ends, in a model that was given `make_stuck`."""


def publish(registry: Path, source: Path, version: str, change: Callable[[Path], None] | None = None) -> Path:
    """Puts a copy of `source` into a registry as `version`, changed; as a trainer does, all at once."""
    target = registry / source.parent.name / version
    partial = target.with_name(f".{version}.partial")
    shutil.copytree(source, partial)
    edit_card(partial, version=version)
    if change:
        change(partial)
    partial.rename(target)
    return target


def edit_card(folder: Path, **changes: Any) -> None:
    """Changes fields of the card and signs the files as they are now."""
    path = folder / "model.json"
    card = {**json.loads(path.read_text()), **changes}
    for name in card["sha256"]:
        if (folder / name).exists():
            card["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(card))


def truncate(folder: Path) -> None:
    """Half of the graph is missing; the card does not know."""
    raw = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(raw[: len(raw) // 2])


def flip_a_bit(folder: Path) -> None:
    """One bit of the graph differs; the card does not know."""
    raw = bytearray((folder / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "model.onnx").write_bytes(raw)


def lose_the_tokenizer(folder: Path) -> None:
    """A file is missing."""
    (folder / "tokenizer.json").unlink()


def forget_a_label(folder: Path) -> None:
    """The card has fewer labels than the graph."""
    edit_card(folder, labels=json.loads((folder / "model.json").read_text())["labels"][:-1])


def replace_by_garbage(folder: Path) -> None:
    """The graph is none, and the card has signed it."""
    (folder / "model.onnx").write_bytes(b"not a graph")
    edit_card(folder)


def spoil_the_card(folder: Path) -> None:
    """The card is no JSON."""
    (folder / "model.json").write_text("{")


def make_nan(folder: Path) -> None:
    """Every answer is NaN, and the card has signed it."""
    graph = onnx.load(str(folder / "model.onnx"))
    _replace_output(graph, "embedding", "Div", np.zeros(1, dtype=np.float32), times=0.0)
    _write(graph, folder)


def make_stuck(folder: Path) -> None:
    """A row that begins with STUCK_TOKEN sends the run into a loop without end."""
    graph = onnx.load(str(folder / "model.onnx"))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("Add", ["sum", "sum"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    constants = {
        "zero_at": np.array([0, 0], dtype=np.int64),
        "stuck_token": np.array(STUCK_TOKEN, dtype=np.int64),
        "for_ever": np.array(2**62, dtype=np.int64),
        "not_once": np.array(0, dtype=np.int64),
        "yes": np.array(True),
        "nothing": np.array(0.0, dtype=np.float32),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    graph.graph.node.extend(
        [
            helper.make_node("GatherND", ["input_ids", "zero_at"], ["first_token"]),
            helper.make_node("Equal", ["first_token", "stuck_token"], ["is_stuck"]),
            helper.make_node("Where", ["is_stuck", "for_ever", "not_once"], ["rounds"]),
            helper.make_node("Loop", ["rounds", "yes", "nothing"], ["added"], body=body),
        ]
    )
    _rename_producer(graph, "in_scope", "in_scope_before")
    graph.graph.node.append(helper.make_node("Add", ["in_scope_before", "added"], ["in_scope"]))
    _write(graph, folder)


def _replace_output(graph: Any, name: str, operator: str, by: Any, times: float) -> None:
    _rename_producer(graph, name, f"{name}_before")
    graph.graph.initializer.extend(
        [
            numpy_helper.from_array(by, "by"),
            numpy_helper.from_array(np.array([times], dtype=np.float32), "times"),
        ]
    )
    graph.graph.node.extend(
        [
            helper.make_node("Mul", [f"{name}_before", "times"], [f"{name}_scaled"]),
            helper.make_node(operator, [f"{name}_scaled", "by"], [name]),
        ]
    )


def _rename_producer(graph: Any, old: str, new: str) -> None:
    for node in graph.graph.node:
        for names in (node.output, node.input):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new


def _write(graph: Any, folder: Path) -> None:
    onnx.save(graph, str(folder / "model.onnx"))
    edit_card(folder)


def make_dynamic(folder: Path) -> None:
    """A small graph of the same interface whose scales are taken anew at each run, from the whole batch."""
    card = json.loads((folder / "model.json").read_text())
    shipped = onnx.load(str(folder / "model.onnx"))
    vocabulary = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    draw = np.random.default_rng(5)
    table = draw.normal(size=(vocabulary, card["hidden_size"])).astype(np.float32)
    head = draw.normal(size=(card["hidden_size"], len(card["labels"]))).astype(np.float32)
    axes = {"at_the_end": np.array([-1]), "over_tokens": np.array([1])}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["words"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "at_the_end"], ["column"]),
            helper.make_node("Mul", ["words", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "over_tokens"], ["sum"], keepdims=0),
            helper.make_node("LpNormalization", ["sum"], ["embedding"], axis=-1, p=2),
            helper.make_node("MatMul", ["embedding", "head"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
            helper.make_node("ReduceMax", ["probabilities"], ["in_scope"], axes=[1], keepdims=0),
        ],
        "float",
        list(shipped.graph.input),
        list(shipped.graph.output),
        [numpy_helper.from_array(v, k) for k, v in {"table": table, "head": head, **axes}.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, str(folder / "float.onnx"))
    quantize_dynamic(str(folder / "float.onnx"), str(folder / "model.onnx"))
    (folder / "float.onnx").unlink()
    edit_card(folder)
