"""What is different between a reference and a window, in words and as two distributions."""

import numpy as np
from numpy.typing import NDArray

from trivium.domain.drift import Shares
from trivium.drift.columns import Labels, Numbers, Profile, Vectors, Words
from trivium.drift.comparisons import RATES, Comparison

NAMED = 4
"""Labels and words that are named, each way."""
SHOWN = 10
"""Labels or ranges in a figure."""
BINS = 8
SUBJECTS = 3
"""A word is named if at least so many subjects used it: a report is kept longer than the texts."""


def change_of(one: Comparison, reference: Profile, window: Profile) -> str:
    """What changed, in words."""
    match one.reference, one.window:
        case Numbers() as was, Numbers() as now if one.name in (*RATES, "new_words"):
            told = f"{was.values.mean():.1%} to {now.values.mean():.1%}"
            return told + _detail(one.name, window)
        case Numbers() as was, Numbers() as now:
            middle = [float(np.median(some.values)) for some in (was, now)]
            what = "distance to the nearest text, " if one.name == "novelty" else ""
            return f"{what}median {middle[0]:.3g} to {middle[1]:.3g}"
        case Labels() as was, Labels() as now:
            return _labels(was, now)
        case Words() as was, Words() as now:
            rose = _risen(was, now, window)
            if not rose:
                return "no word that several subjects used has risen"
            named = [f"{word} {old:.1%} to {new:.1%}" for word, old, new in rose[:NAMED]]
            return f"more often: {', '.join(named)} of the texts"
        case Vectors() as was, Vectors() as now:
            middles = [some.matrix.mean(axis=0) for some in (was, now)]
            lengths = [max(float(np.linalg.norm(middle)), 1e-9) for middle in middles]
            cosine = float(middles[0] @ middles[1]) / (lengths[0] * lengths[1])
            return f"the cosine of the two mean vectors is {cosine:.3f}"
    return ""


def shares_of(one: Comparison, window: Profile) -> Shares | None:
    """The two distributions; None of what has none that can be drawn."""
    match one.reference, one.window:
        case Numbers() as was, Numbers() as now:
            if one.name in RATES:
                return Shares(["no", "yes"], *([1 - m, m] for m in (was.values.mean(), now.values.mean())))
            return _binned(was.values, now.values)
        case Labels() as was, Labels() as now:
            return _most(was, now)
        case Words() as was, Words() as now:
            rose = _risen(was, now, window)[:SHOWN]
            return Shares([w for w, _, _ in rose], [o for _, o, _ in rose], [n for _, _, n in rose])
    return None


def _detail(name: str, window: Profile) -> str:
    if name == "fallback_rate" and window.reasons:
        told = [f"{reason} {count}" for reason, count in list(window.reasons.items())[:NAMED]]
        return f": {', '.join(told)}"
    return " of a text's words are in nobody else's of the reference" if name == "new_words" else ""


def _labels(was: Labels, now: Labels) -> str:
    old, new = _frequencies(was), _frequencies(now)
    order = np.argsort(new - old)
    rose = [code for code in order[::-1][:NAMED] if new[code] > old[code]]
    fell = [code for code in order[:NAMED] if new[code] < old[code]]
    told = []
    for way, codes in (("more", rose), ("less", fell)):
        named = [f"{now.names[code]} {old[code]:.1%} to {new[code]:.1%}" for code in codes]
        told += [f"{way}: {', '.join(named)}"] if named else []
    return "; ".join(told) or "the same shares"


def _most(was: Labels, now: Labels) -> Shares:
    """The labels that differ most, and all others together."""
    old, new = _frequencies(was), _frequencies(now)
    codes = np.argsort(-np.abs(new - old), kind="stable")[:SHOWN]
    names = [now.names[code] for code in codes]
    shares = [[float(some[code]) for code in codes] for some in (old, new)]
    if len(codes) < len(old):
        names.append("all others")
        shares = [[*some, max(0.0, 1 - sum(some))] for some in shares]
    return Shares(names, *shares)


def _frequencies(labels: Labels) -> NDArray[np.float64]:
    counts = np.bincount(labels.codes, minlength=len(labels.names))
    return np.asarray(counts / len(labels.codes))


def _risen(was: Words, now: Words, window: Profile) -> list[tuple[str, float, float]]:
    """Words of several subjects and their shares of the texts, those first that rose most for chance."""
    known, before = _texts_with(was)
    hashes, after = _texts_with(now)
    old = dict(zip(known.tolist(), before.tolist(), strict=True))
    groups = window.groups[now.rows][now.places]
    users = np.unique(np.stack([now.hashes.astype(np.uint64), groups]), axis=1)[0]
    subjects = dict(zip(*(a.tolist() for a in np.unique(users, return_counts=True)), strict=True))
    n, m = len(was.rows), len(now.rows)
    found = []
    for one, count in zip(hashes.tolist(), after.tolist(), strict=True):
        if subjects[one] < SUBJECTS or one not in now.names:
            continue
        a, b = old.get(one, 0) / n, count / m
        pooled = (old.get(one, 0) + count) / (n + m)
        z = (b - a) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m) + 1e-12)
        if b > a:
            found.append((float(z), now.names[one], a, b))
    return [(word, a, b) for _, word, a, b in sorted(found, reverse=True)]


def _texts_with(words: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each hash, and in how many texts it is."""
    pairs = np.unique(np.stack([words.hashes.astype(np.int64), words.places]), axis=1)
    hashes, counts = np.unique(pairs[0], return_counts=True)
    return hashes, counts


def _binned(was: NDArray[np.float64], now: NDArray[np.float64]) -> Shares:
    """Shares of the ranges that hold equal parts of the reference."""
    inner = np.unique(np.quantile(was, np.linspace(0, 1, BINS + 1)[1:-1]))
    edges = np.concatenate([[-np.inf], inner, [np.inf]])
    labels = [f"to {inner[0]:.3g}", *(f"to {edge:.3g}" for edge in inner[1:]), f"over {inner[-1]:.3g}"]
    # A value on an edge is in the range that ends there.
    places = [np.searchsorted(inner, values, side="left") for values in (was, now)]
    shares = [np.bincount(p, minlength=len(edges) - 1) / len(p) for p in places]
    return Shares(labels, *([float(share) for share in some] for some in shares))
