"""What the graph does with an embedding: probabilities and the scope score, always in float32."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_model.training.metrics import Floats
from edge_model.training.scope import ScopeMap

OUTPUTS = ("probabilities", "embedding", "in_scope")


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer of `weight` [labels, hidden] and `bias` [labels], its temperature, and the scope."""

    weight: Floats
    bias: Floats
    temperature: float
    scope: ScopeMap

    def logits(self, embeddings: Floats) -> Floats:
        """Calibrated logits, [n, labels]."""
        return np.asarray((embeddings @ self.weight.T + self.bias) / self.temperature, dtype=np.float32)


def append_head(encoder: Path, head: Head, target: Path) -> None:
    """Writes the graph `encoder` with the head behind its output `embedding`.

    The head comes after quantisation, so none of it is quantised. Outputs `probabilities` float32
    [batch, labels], `embedding` float32 [batch, hidden] of unit length, `in_scope` float32 [batch].
    """
    model = onnx.load(str(encoder))
    graph = model.graph
    for name, values in _constants(head).items():
        graph.initializer.append(numpy_helper.from_array(values, name))
    graph.node.extend(_nodes())
    labels = len(head.bias)
    graph.output.extend(
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", labels]),
            helper.make_tensor_value_info("in_scope", TensorProto.FLOAT, ["batch"]),
        ]
    )
    outputs = {output.name: output for output in graph.output}
    ordered = [outputs[name] for name in OUTPUTS]
    del graph.output[:]
    graph.output.extend(ordered)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _constants(head: Head) -> dict[str, Floats]:
    scope = head.scope
    values = {
        "head/weight": head.weight.T / head.temperature,
        "head/bias": head.bias / head.temperature,
        "scope/centre": scope.distance.centre,
        "scope/projection": scope.distance.projection,
        "scope/means": -2 * scope.distance.means.T,
        "scope/squares": (scope.distance.means**2).sum(axis=1),
        "scope/zero": 0.0,
        "scope/slope": -scope.slope,
        "scope/shift": scope.slope * scope.middle,
    }
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in values.items()}


def _nodes() -> list[onnx.NodeProto]:
    def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], name=f"head/{output}", **attributes)

    return [
        node("MatMul", "embedding head/weight", "head/product"),
        node("Add", "head/product head/bias", "head/logits"),
        node("Softmax", "head/logits", "probabilities", axis=1),
        node("Sub", "embedding scope/centre", "scope/centred"),
        node("MatMul", "scope/centred scope/projection", "scope/white"),
        node("ReduceSumSquare", "scope/white", "scope/norm", axes=[1], keepdims=1),
        node("MatMul", "scope/white scope/means", "scope/cross"),
        node("Add", "scope/cross scope/squares", "scope/partial"),
        node("Add", "scope/partial scope/norm", "scope/distances"),
        node("ReduceMin", "scope/distances", "scope/nearest", axes=[1], keepdims=0),
        # Rounding can leave a square a little under zero.
        node("Max", "scope/nearest scope/zero", "scope/square"),
        node("Sqrt", "scope/square", "scope/distance"),
        node("Mul", "scope/distance scope/slope", "scope/steep"),
        node("Add", "scope/steep scope/shift", "scope/score"),
        node("Sigmoid", "scope/score", "in_scope"),
    ]
