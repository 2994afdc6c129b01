"""One loaded model: text in, label, confidence, probabilities and embedding out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import Tokenizer

from edge_model.card import ARTEFACTS, Card, sha256_of
from trivium.errors import ConfigurationError

Floats = NDArray[np.float32]
WARM_UP = "The card that I ordered has not arrived."


@dataclass(frozen=True, slots=True)
class Outputs:
    """For n texts: labels (n), probabilities (n, labels) and unit-length embeddings (n, hidden)."""

    labels: list[str]
    confidence: Floats
    probabilities: Floats
    embedding: Floats


class Model:
    """An artefact that passed its checksums and a canary; safe to call from several threads."""

    def __init__(self, folder: Path) -> None:
        """Loads `folder`.

        Raises:
            ConfigurationError: a file is missing, is not what the card says, or answers nonsense.
        """
        self.card = _read_card(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._tokenizer.enable_truncation(self.card.max_tokens)
            self._tokenizer.no_padding()
            self._session = ort.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            self._canary()
        except Exception as error:
            raise ConfigurationError(f"{folder}: the model does not run: {error}") from error

    def lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text, after truncation."""
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]

    def run(self, texts: list[str]) -> Outputs:
        """Runs one batch; texts beyond `max_tokens` are cut there."""
        encodings = self._tokenizer.encode_batch(texts)
        width = max(len(encoding.ids) for encoding in encodings)
        input_ids = np.zeros((len(texts), width), dtype=np.int64)
        attention_mask = np.zeros((len(texts), width), dtype=np.int64)
        for row, encoding in enumerate(encodings):
            input_ids[row, : len(encoding.ids)] = encoding.ids
            attention_mask[row, : len(encoding.ids)] = 1
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        logits, embedding = self._session.run(["logits", "embedding"], feeds)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        best = probabilities.argmax(axis=1)
        if len(self.card.labels) != logits.shape[1]:
            raise ValueError(f"{logits.shape[1]} logits, the card says {len(self.card.labels)} labels")
        return Outputs(
            [self.card.labels[position] for position in best],
            probabilities.max(axis=1),
            probabilities,
            embedding,
        )

    def _canary(self) -> None:
        for texts in ([WARM_UP], [WARM_UP, "Why?"], [WARM_UP * 20]):
            outputs = self.run(texts)
            shapes = outputs.probabilities.shape, outputs.embedding.shape
            expected = (len(texts), len(self.card.labels)), (len(texts), self.card.hidden_size)
            if shapes != expected:
                raise ValueError(f"outputs have shapes {shapes}, the card says {expected}")
            if not (np.isfinite(outputs.probabilities).all() and np.isfinite(outputs.embedding).all()):
                raise ValueError("outputs are not finite")


def _read_card(folder: Path) -> Card:
    try:
        card = Card.model_validate_json((folder / "model.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{folder / 'model.json'}: {error}") from error
    for name in ARTEFACTS:
        path = folder / name
        if not path.is_file():
            raise ConfigurationError(f"{path} is missing")
        if sha256_of(path) != card.sha256.get(name):
            raise ConfigurationError(f"{path}: its SHA-256 is not the one on the card")
    if (folder.parent.name, folder.name) != (card.name, card.version):
        raise ConfigurationError(f"{folder}: the card says {card.name}/{card.version}")
    return card
