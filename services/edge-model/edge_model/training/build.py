"""From a trained network to the files of an artefact; nothing here sees the held-out messages."""

from pathlib import Path

from edge_model.training.calibration import fit_temperature
from edge_model.training.export import embeddings_of, export_encoder, quantise
from edge_model.training.head import Head, append_head
from edge_model.training.job import Trained, texts_of
from edge_model.training.scales import freeze_scales
from edge_model.training.scope import fit_distance, fit_map

SCALED_BY = 1_000
"""Messages of the training part whose activations give the scales of int8."""
FLOAT = "float.onnx"
"""The graph before quantisation, with the same head: what int8 is compared with."""


def build(trained: Trained, folder: Path, reduce_range: bool) -> Head:
    """Writes `model.onnx`, `tokenizer.json` and `float.onnx`; returns the head that both graphs have.

    Temperature, distance and threshold are fitted to embeddings of the int8 encoder, as they are served:
    the distance to the training messages, the other two to the validation messages.
    """
    fused = export_encoder(trained.network, trained.tokenizer, folder)
    quantised = quantise(fused, reduce_range)
    freeze_scales(quantised, trained.tokenizer, texts_of(trained.split.train)[:SCALED_BY])
    train, validation = trained.split.train, trained.split.validation
    known = embeddings_of(quantised, trained.tokenizer, texts_of(train))
    unseen = embeddings_of(quantised, trained.tokenizer, texts_of(validation))
    weight = trained.network.head.weight.detach().numpy()
    bias = trained.network.head.bias.detach().numpy()
    temperature = fit_temperature(unseen @ weight.T + bias, trained.targets(validation))
    scope = fit_map(fit_distance(known, trained.targets(train)), unseen)
    head = Head(weight, bias, temperature, scope)
    append_head(fused, head, folder / FLOAT)
    append_head(quantised, head, folder / "model.onnx")
    trained.tokenizer.save(str(folder / "tokenizer.json"))
    return head
