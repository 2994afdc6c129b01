"""From the trained network to a fused, int8 ONNX graph with two outputs."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer as fusion
from tokenizers import Tokenizer

from edge_model.training.network import TextClassifier, encode


def export(network: TextClassifier, tokenizer: Tokenizer, folder: Path) -> tuple[Path, Path]:
    """Writes `float.onnx` (fused, fp32) and `model.onnx` (int8, per channel); returns both paths.

    Inputs `input_ids`, `attention_mask`: int64 [batch, tokens]. Outputs `logits` float32
    [batch, labels], `embedding` float32 [batch, hidden], of unit length.
    """
    raw, fused, quantised = (folder / f"{name}.onnx" for name in ("raw", "float", "model"))
    sample = encode(tokenizer, ["My card has not arrived.", "Why?"])
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but its graph is the one that the fusion rules know.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            sample,
            str(raw),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "embedding"],
            dynamic_axes={
                "input_ids": axes,
                "attention_mask": axes,
                "logits": {0: "batch"},
                "embedding": {0: "batch"},
            },
            opset_version=17,
            dynamo=False,
        )
    config = network.encoder.config
    optimised = fusion.optimize_model(
        str(raw),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
    )
    optimised.save_model_to_file(str(fused))
    quantize_dynamic(
        str(fused),
        str(quantised),
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    raw.unlink()
    return fused, quantised


def run_graph(
    path: Path, tokenizer: Tokenizer, texts: list[str], batch_size: int = 32
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Runs an exported graph over texts; returns logits [n, labels], embeddings [n, hidden]."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = []
    for start in range(0, len(texts), batch_size):
        input_ids, mask = encode(tokenizer, texts[start : start + batch_size])
        feeds = {"input_ids": input_ids.numpy(), "attention_mask": mask.numpy()}
        parts.append(session.run(["logits", "embedding"], feeds))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
