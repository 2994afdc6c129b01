"""The same ONNX session and tokenizer as a custom MLServer runtime, as a user of MLServer writes one."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from tokenizers import Tokenizer


class Triage(MLModel):
    """Text in, label and confidence out."""

    async def load(self) -> bool:
        """Called once in each worker."""
        folder = Path(os.environ["BENCH_MODEL"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(folder / "model.onnx"), options)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        card = json.loads((folder / "model.json").read_text())
        self._tokenizer.enable_truncation(card["max_tokens"])
        self._labels = card["labels"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request."""
        texts = StringCodec.decode_input(payload.inputs[0])
        encodings = self._tokenizer.encode_batch(texts)
        width = max(len(encoding.ids) for encoding in encodings)
        ids = np.zeros((len(texts), width), dtype=np.int64)
        mask = np.zeros((len(texts), width), dtype=np.int64)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        (probabilities,) = self._session.run(["probabilities"], {"input_ids": ids, "attention_mask": mask})
        labels = [self._labels[best] for best in probabilities.argmax(axis=1)]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("label", labels),
                NumpyCodec.encode_output("confidence", probabilities.max(axis=1)),
            ],
        )
