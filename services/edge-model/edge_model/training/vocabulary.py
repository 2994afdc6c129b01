"""Trims a WordPiece vocabulary to what the messages use and what is frequent anyway."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class TrimmedVocabulary:
    """A smaller tokenizer and, for each of its ids, the id in the original."""

    tokenizer: Tokenizer
    original_ids: list[int]


def trim(tokenizer: Tokenizer, texts: Iterable[str], most_frequent: int) -> TrimmedVocabulary:
    """Keeps the special tokens, every token of `texts`, and the first `most_frequent` ids.

    BERT's vocabulary stands in order of frequency, single characters first, so whatever is cut can
    still be spelt from what is kept. Rows of the embedding matrix are to be taken by `original_ids`.
    """
    spec = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    special = {token["id"] for token in spec["added_tokens"]}
    seen: set[int] = set()
    for encoding in tokenizer.encode_batch(list(texts)):
        seen.update(encoding.ids)
    kept = [
        (token, old_id)
        for token, old_id in sorted(vocabulary.items(), key=lambda item: item[1])
        if old_id in special or old_id in seen or (old_id < most_frequent and not token.startswith("[unused"))
    ]
    new_ids = {token: new_id for new_id, (token, _) in enumerate(kept)}
    spec["model"]["vocab"] = new_ids
    for token in spec["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [new_ids[content] for content in token["tokens"]]
    return TrimmedVocabulary(Tokenizer.from_str(json.dumps(spec)), [old for _, old in kept])
