"""Fixed scales for int8 activations, so that an answer does not depend on what shares a run."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from tokenizers import Tokenizer

from edge_model.training.network import encode

DYNAMIC = "DynamicQuantizeLinear"
LEVELS = 255
Ranges = dict[str, tuple[float, float]]


def freeze_scales(graph: Path, tokenizer: Tokenizer, texts: list[str]) -> None:
    """Gives each activation the scale of the widest range that it has over `texts`, in place.

    Dynamic quantisation takes the scale of a run's own range, that of the whole batch; a text's answer
    then depends on its neighbours. What lies outside of the fixed range is cut to it.
    """
    model = onnx.load(str(graph))
    dynamic = [node for node in model.graph.node if node.op_type == DYNAMIC]
    ranges = _ranges(model, [node.input[0] for node in dynamic], tokenizer, texts)
    fixed = {node.name: _fixed(node, ranges[node.input[0]], model.graph.initializer) for node in dynamic}
    nodes = [fixed.get(node.name, node) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(graph))


def _ranges(model: Any, names: list[str], tokenizer: Tokenizer, texts: list[str]) -> Ranges:
    """Least and greatest value of every tensor in `names` over the texts, 0 within."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    wanted = list(dict.fromkeys(names))
    probe.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in wanted)
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges = dict.fromkeys(wanted, (0.0, 0.0))
    for text in texts:
        input_ids, mask = encode(tokenizer, [text])
        feeds = {"input_ids": input_ids.numpy(), "attention_mask": mask.numpy()}
        for name, values in zip(wanted, session.run(wanted, feeds), strict=True):
            low, high = ranges[name]
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


def _fixed(node: Any, found: tuple[float, float], initializers: Any) -> Any:
    """The node with constants for the scale and the zero point that it used to compute."""
    low, high = found
    scale = np.float32((high - low) / LEVELS or 1.0)
    zero_point = np.uint8(np.clip(round(-low / scale), 0, LEVELS))
    _, scale_name, zero_name = node.output
    initializers.append(numpy_helper.from_array(np.asarray(scale), scale_name))
    initializers.append(numpy_helper.from_array(np.asarray(zero_point), zero_name))
    inputs = [node.input[0], scale_name, zero_name]
    return helper.make_node("QuantizeLinear", inputs, [node.output[0]], name=node.name)
