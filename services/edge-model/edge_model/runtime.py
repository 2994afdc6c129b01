"""One loaded model: token ids in, probabilities, embedding and scope out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_model.artefacts import Artefact
from edge_model.costs import MAX_ROWS, CostModel
from trivium.errors import ConfigurationError
from trivium.metrics import EDGE_BATCH, EDGE_COST_RATIO, EDGE_ITEMS, EDGE_LATENCY

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
SAME = 1e-4
GRAPH_OUTPUTS = ["probabilities", "embedding", "in_scope"]


@dataclass(frozen=True, slots=True)
class Row:
    """One text as token ids, int64 [tokens]; `truncated` if it was longer than the model reads."""

    ids: Ids
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Outputs:
    """For n rows: probabilities [n, labels], embeddings of unit length [n, hidden], in_scope [n]."""

    probabilities: Floats
    embedding: Floats
    in_scope: Floats

    def rows(self, start: int, stop: int) -> "Outputs":
        """The part from row `start` up to `stop`, without a copy."""
        return Outputs(self.probabilities[start:stop], self.embedding[start:stop], self.in_scope[start:stop])

    @staticmethod
    def joined(parts: Sequence["Outputs"]) -> "Outputs":
        """The rows of all parts, one after the other."""
        return Outputs(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.embedding for part in parts]),
            np.concatenate([part.in_scope for part in parts]),
        )


class ModelMetrics:
    """The metrics of one version: looked up once, not at every request."""

    def __init__(self, *labels: str) -> None:
        self.items = EDGE_ITEMS.labels(*labels)
        self.batch = EDGE_BATCH.labels(*labels)
        self.cost_ratio = EDGE_COST_RATIO.labels(*labels)
        self.latency = EDGE_LATENCY.labels(*labels)


class Model:
    """An artefact whose checksums hold; safe to call from several threads.

    It serves only after `check_canary`, once `batches` is decided and `costs` are calibrated.
    """

    def __init__(self, artefact: Artefact, threads_per_run: int = 1) -> None:
        """Makes the session.

        Raises:
            ConfigurationError: the files do not load, or are not what the card says.
        """
        self.card = artefact.card
        self.costs = CostModel(self.card.max_tokens)
        self.users = 0
        self.batches = False
        self.metrics = ModelMetrics(self.card.name, self.card.version)
        try:
            self._tokenizer = Tokenizer.from_buffer(artefact.files["tokenizer.json"])
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._session = ort.InferenceSession(
                artefact.files["model.onnx"], _options(threads_per_run), providers=["CPUExecutionProvider"]
            )
            self.vocabulary = self._tokenizer.get_vocab_size()
            self._separator = self._tokenizer.encode("").ids[-1]
            self._check_interface()
        except Exception as error:  # whatever a broken file makes the libraries raise
            raise ConfigurationError(f"{artefact.where}: the model does not load: {error}") from error

    def __str__(self) -> str:
        return f"{self.card.name}/{self.card.version}"

    def encode(self, texts: Sequence[str]) -> list[Row]:
        """Token ids of each text; what is longer than `max_tokens` is cut there, its end mark kept."""
        longest = self.card.max_tokens
        rows = []
        for encoding in self._tokenizer.encode_batch_fast(list(texts)):
            ids = np.array(encoding.ids, dtype=np.int64)
            cut = len(ids) > longest
            if cut:
                ids = ids[:longest]
                ids[-1] = self._separator
            rows.append(Row(ids, cut))
        return rows

    def cost_ms(self, rows: Sequence[Row]) -> float:
        """Predicted milliseconds of `answer`."""
        if self.batches:
            return self.costs.predict_ms(max(len(row.ids) for row in rows), len(rows))
        return sum(self.costs.predict_ms(len(row.ids)) for row in rows)

    def answer(self, rows: Sequence[Row]) -> Outputs:
        """Answers rows so that each gets what it would get alone: in one run, or one by one."""
        if self.batches or len(rows) == 1:
            return self.run(rows)
        return Outputs.joined([self.run([row]) for row in rows])

    def run(self, rows: Sequence[Row]) -> Outputs:
        """Runs one batch, padded to its longest row."""
        width = max(len(row.ids) for row in rows)
        input_ids = np.zeros((len(rows), width), dtype=np.int64)
        attention_mask = np.zeros((len(rows), width), dtype=np.int64)
        for position, row in enumerate(rows):
            input_ids[position, : len(row.ids)] = row.ids
            attention_mask[position, : len(row.ids)] = 1
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        return Outputs(*self._session.run(GRAPH_OUTPUTS, feeds))

    def probe(self, width: int, rows: int) -> list[Row]:
        """`rows` rows of `width` tokens, the same in every process."""
        ids = np.random.default_rng(width).integers(0, self.vocabulary, (rows, width), dtype=np.int64)
        return [Row(row) for row in ids]

    def check_canary(self, width: int, rows: int = 1) -> None:
        """Runs a batch whose answer must have the card's shapes and be finite probabilities.

        Raises:
            ConfigurationError: naming the output and what is wrong with it.
        """
        try:
            outputs = self.run(self.probe(width, rows))
        except Exception as error:  # a broken graph fails in many ways
            raise ConfigurationError(f"{self}: the model does not run: {error}") from error
        expected = {
            "probabilities": (rows, len(self.card.labels)),
            "embedding": (rows, self.card.hidden_size),
            "in_scope": (rows,),
        }
        for name, shape in expected.items():
            values = getattr(outputs, name)
            if values.shape != shape:
                raise ConfigurationError(
                    f"{self}: {name} has the shape {values.shape}, the card says {shape}"
                )
            if not np.isfinite(values).all():
                raise ConfigurationError(f"{self}: {name} is not finite")
        if not np.allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-3):
            raise ConfigurationError(f"{self}: the probabilities do not add up to 1")
        if not ((outputs.in_scope >= 0) & (outputs.in_scope <= 1)).all():
            raise ConfigurationError(f"{self}: in_scope lies outside of 0 to 1")

    def is_exact_in_batches(self) -> bool:
        """Tries whether a row's answer is the same in a batch as alone.

        It is not where int8 activations are scaled over the whole batch, as dynamic quantisation does.
        """
        rows = self.probe(self.costs.widths[len(self.costs.widths) // 2], MAX_ROWS)
        rows = [Row(row.ids[: len(row.ids) - position]) for position, row in enumerate(rows)]
        together, alone = self.run(rows), Outputs.joined([self.run([row]) for row in rows])
        return bool(np.allclose(together.probabilities, alone.probabilities, atol=SAME))

    def _check_interface(self) -> None:
        found: dict[str, Any] = {output.name: output.shape for output in self._session.get_outputs()}
        missing = [name for name in GRAPH_OUTPUTS if name not in found]
        if missing:
            raise ValueError(f"the graph lacks the outputs {', '.join(missing)}; it has {', '.join(found)}")


def _options(threads_per_run: int) -> ort.SessionOptions:
    """One run, `threads_per_run` threads, none of them spinning; the arena grows by what is asked for."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_per_run
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
