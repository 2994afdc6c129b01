"""The limit: the same session and tokenizer in a bare loop, without a server."""

import itertools
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer


class Bare:
    """What a request costs when nobody serves it: tokenise, run, take the best label."""

    def __init__(self, folder: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(folder / "model.onnx"), options)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        card = json.loads((folder / "model.json").read_text())
        self._tokenizer.enable_truncation(card["max_tokens"])
        self._labels = card["labels"]

    def __call__(self, text: str) -> tuple[str, float]:
        """Label and confidence."""
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        probabilities: Any
        (probabilities,) = self._session.run(["probabilities"], feeds)
        best = int(probabilities[0].argmax())
        return self._labels[best], float(probabilities[0, best])


def measure(bare: Bare, texts: list[str], threads: int, seconds: float) -> dict[str, float]:
    """Closed loop in so many threads: requests a second, P50 and P99 in ms."""
    following = itertools.cycle(texts)
    taken: list[float] = []
    end = time.perf_counter() + seconds

    def work() -> None:
        while (started := time.perf_counter()) < end:
            bare(next(following))
            taken.append((time.perf_counter() - started) * 1000)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cuts = statistics.quantiles(taken, n=100)
    return {"per_s": len(taken) / seconds, "p50_ms": cuts[49], "p99_ms": cuts[98]}
