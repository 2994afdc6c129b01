"""Texts as vectors without a model, and the words that tell one group of texts from the others."""

import re
from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
DIMENSIONS = 1_024
WORDS_A_NAME = 4
_WORD = re.compile(r"[^\W\d_]{3,}")


def text_of(given: dict[str, Any]) -> str:
    """The strings of an input, one after the other."""
    return " ".join(value for value in given.values() if isinstance(value, str))


def words_of(text: str) -> list[str]:
    """Runs of three letters or more, in lower case."""
    return _WORD.findall(text.lower())


def tf_idf(texts: Sequence[str]) -> Vectors:
    """Unit vectors of hashed words, each weighed by how few of the texts have it; [n, DIMENSIONS]."""
    made = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    counts = [Counter(crc32(word.encode()) % DIMENSIONS for word in words_of(text)) for text in texts]
    having = Counter(place for some in counts for place in some)
    for row, some in enumerate(counts):
        for place, count in some.items():
            made[row, place] = count * log((1 + len(texts)) / (1 + having[place]) + 1e-9)
    norms = np.linalg.norm(made, axis=1, keepdims=True)
    return np.asarray(made / np.maximum(norms, 1e-9), dtype=np.float32)


def names(groups: Sequence[Sequence[str]], others: Sequence[str]) -> list[str]:
    """Each group's distinctive words: frequent in it, and rare in all texts together.

    Class-based TF-IDF (Grootendorst, BERTopic, 2022), by the share of the group's texts that have a word, so
    that words of every text, in whatever language, weigh nothing; no list of stop words is needed.
    """
    everywhere = Counter(word for text in others for word in set(words_of(text)))
    n = max(len(others), 1)
    found = []
    for group in groups:
        within = Counter(word for text in group for word in set(words_of(text)))
        weights = {
            word: count / len(group) * log((1 + n) / (1 + everywhere[word])) for word, count in within.items()
        }
        best = sorted(weights, key=lambda word: (-weights[word], word))[:WORDS_A_NAME]
        found.append(", ".join(best) or "(no words)")
    return found
