"""What the server and its models are, as both protocols tell it."""

from typing import Any

from edge_model.card import Card
from edge_model.outputs import described
from edge_model.tensors import BYTES

SERVER = "trivium-edge-model"
VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "classification", "model_repository(index)"]
PLATFORM = "onnxruntime_onnx"


def server_metadata() -> dict[str, Any]:
    """Name, version and the extensions of the protocol."""
    return {"name": SERVER, "version": VERSION, "extensions": EXTENSIONS}


def model_metadata(card: Card, versions: list[str]) -> dict[str, Any]:
    """Inputs and outputs; -1 stands for the number of rows, of tokens or of classes.

    A request has `text`, or the arrays.
    """
    return {
        "name": card.name,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": [
            {"name": "text", "datatype": BYTES, "shape": [-1]},
            {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]},
        ],
        "outputs": described(card),
    }
