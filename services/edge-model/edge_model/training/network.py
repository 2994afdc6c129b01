"""The network: a sentence encoder whose mean-pooled embedding also feeds a linear head."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel

from edge_model.training.vocabulary import trim

HEAD_SCALE = 10.0  # cosine similarities lie in [-1, 1]; logits need a wider range


class TextClassifier(nn.Module):
    """Encoder, masked mean, unit length, linear head.

    The head's rows start as the class centroids of the untrained embedding, so that the first step
    already classifies.
    """

    def __init__(self, encoder: BertModel, labels: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, labels)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns unit-length embeddings, [batch, hidden]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return nn.functional.normalize(pooled.float(), dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [batch, labels] and embeddings [batch, hidden]."""
        embedding = self.embed(input_ids, attention_mask)
        return self.head(self.dropout(embedding)), embedding

    @torch.no_grad()
    def start_head_from_centroids(self, embeddings: Tensor, targets: Tensor) -> None:
        """Sets each row of the head to its class's mean embedding, scaled."""
        for label in range(self.head.out_features):
            centroid = embeddings[targets == label].mean(0)
            self.head.weight[label] = HEAD_SCALE * nn.functional.normalize(centroid, dim=0)
        self.head.bias.zero_()


def start(
    base: Path, texts: list[str], labels: int, dropout: float, max_tokens: int, most_frequent: int
) -> tuple[TextClassifier, Tokenizer]:
    """An untrained classifier on the encoder in `base`, and its tokenizer, both of a trimmed vocabulary."""
    original = Tokenizer.from_file(str(base / "tokenizer.json"))
    original.no_truncation()
    original.no_padding()
    trimmed = trim(original, texts, most_frequent)
    trimmed.tokenizer.enable_truncation(max_tokens)
    encoder = BertModel.from_pretrained(base, add_pooling_layer=False, attn_implementation="eager")
    keep_embedding_rows(encoder, trimmed.original_ids)
    return TextClassifier(encoder, labels, dropout), trimmed.tokenizer


def keep_embedding_rows(encoder: BertModel, original_ids: list[int]) -> None:
    """Shrinks the word embeddings to the rows of a trimmed vocabulary and freezes them."""
    old = encoder.embeddings.word_embeddings.weight.detach()
    table = nn.Embedding.from_pretrained(old[torch.tensor(original_ids)].clone(), freeze=True)
    encoder.embeddings.word_embeddings = table
    encoder.config.vocab_size = len(original_ids)


def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Tokenises texts to padded ids and mask, both int64 [batch, longest]."""
    encodings = tokenizer.encode_batch(texts)
    width = max(len(encoding.ids) for encoding in encodings)
    input_ids = torch.zeros(len(texts), width, dtype=torch.int64)
    attention_mask = torch.zeros(len(texts), width, dtype=torch.int64)
    for row, encoding in enumerate(encodings):
        input_ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
        attention_mask[row, : len(encoding.ids)] = 1
    return input_ids, attention_mask
