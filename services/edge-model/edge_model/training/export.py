"""From the trained encoder to a fused and an int8 ONNX graph, each with one output, `embedding`."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer as fusion
from tokenizers import Tokenizer
from torch import Tensor, nn

from edge_model.training.metrics import Floats
from edge_model.training.network import TextClassifier, encode


class _Embedder(nn.Module):
    def __init__(self, network: TextClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.network.embed(input_ids, attention_mask)


def export_encoder(network: TextClassifier, tokenizer: Tokenizer, folder: Path) -> Path:
    """Writes `encoder.onnx`, fused, fp32, and returns its path.

    Inputs `input_ids`, `attention_mask`: int64 [batch, tokens]. Output `embedding`: float32
    [batch, hidden], of unit length.
    """
    raw, fused = folder / "raw.onnx", folder / "encoder.onnx"
    sample = encode(tokenizer, ["My card has not arrived.", "Why?"])
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but its graph is the one that the fusion rules know.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Embedder(network).eval(),
            sample,
            str(raw),
            input_names=["input_ids", "attention_mask"],
            output_names=["embedding"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "batch"}},
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
    raw.unlink()
    return fused


def quantise(fused: Path, reduce_range: bool) -> Path:
    """Writes `encoder.int8.onnx` beside a fused graph and returns its path.

    Weights are int8 with a scale per channel, activations int8 with a scale per run, until
    `freeze_scales` fixes them. With `reduce_range` weights keep to 7 bits.
    """
    quantised = fused.with_suffix(".int8.onnx")
    quantize_dynamic(
        str(fused),
        str(quantised),
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return quantised


def embeddings_of(encoder: Path, tokenizer: Tokenizer, texts: list[str]) -> Floats:
    """Runs an exported encoder over texts, one a run; returns embeddings [n, hidden]."""
    session = ort.InferenceSession(str(encoder), providers=["CPUExecutionProvider"])
    rows = []
    for text in texts:
        input_ids, mask = encode(tokenizer, [text])
        feeds = {"input_ids": input_ids.numpy(), "attention_mask": mask.numpy()}
        rows.append(session.run(["embedding"], feeds)[0])
    return np.concatenate(rows)
