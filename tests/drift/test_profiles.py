"""Which columns a feature has, what of them is stored, and what is said of their changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.drifting import Traffic, a_feature, profile
from trivium.domain.drift import Observation
from trivium.drift.columns import Labels, Numbers, Profile, Vectors, Words, packed, unpacked
from trivium.drift.comparisons import novelty, unseen
from trivium.drift.judge import Judge
from trivium.drift.profiles import profile_of, text_fields, to_embed
from trivium.drift.text import language, words
from trivium.features import Feature


@pytest.fixture(scope="module")
def feature(root: Path) -> Feature:
    return a_feature(root)


def _with_schemas(feature: Feature, **schemas: dict[str, object]) -> Feature:
    asked = {name: {"type": "object", "properties": of} for name, of in schemas.items()}
    return replace(feature, manifest=feature.manifest.model_copy(update=asked))


def test_columns_are_those_that_the_schemas_name(feature: Feature) -> None:
    made = _with_schemas(
        feature,
        input={
            "subject": {"type": "string"},
            "body": {"type": ["string", "null"]},
            "name": {"type": "string", "x-sensitive": True},
            "channel": {"enum": ["mail", "chat"]},
        },
        output={
            "label": {"type": "string"},
            "reply": {"type": "string"},
            "urgent": {"type": "boolean"},
            "score": {"type": "number"},
            "tags": {"type": "array"},
        },
    )
    assert text_fields(made.manifest.input) == ["subject", "body"]
    rows = []
    for n in range(60):
        given = {"subject": f"hello {n}", "body": None, "name": "Jane", "channel": "mail"}
        said = {"label": f"q{n % 7}", "reply": f"dear {n}", "urgent": n % 2 == 0, "score": n, "tags": [1] * n}
        rows.append(Observation(str(n), n, "u", given, said, 0.5, False))
    found = profile_of(made, rows, "no model").columns
    assert {name: type(column) for name, column in found.items()} == {
        **dict.fromkeys(("length", "output.reply.length", "output.score", "output.tags.length"), Numbers),
        **dict.fromkeys(("language", "input.channel", "output.label", "output.urgent"), Labels),
        **dict.fromkeys(("confidence", "override_rate", "fallback_rate"), Numbers),
        "words": Words,
    }
    assert to_embed(made, rows)[1][3] == "hello 3"
    lengths, tags = found["output.reply.length"], found["output.tags.length"]
    assert isinstance(lengths, Numbers) and isinstance(tags, Numbers)
    assert lengths.values[:11].tolist() == [6.0] * 10 + [7.0]
    assert tags.values.tolist() == list(range(60))


def test_what_is_stored_holds_no_text_and_comes_back_the_same(feature: Feature) -> None:
    made = profile(feature, Traffic().draw(60, np.random.default_rng(1)))
    stored = json.dumps(packed(made))
    assert "topic" not in stored and "queue-3" in stored
    back = unpacked(json.loads(stored))
    assert (back.groups == made.groups).all()
    assert back.columns.keys() == made.columns.keys()
    for name, column in made.columns.items():
        other = back.columns[name]
        for part in ("rows", "values", "codes", "starts", "hashes", "matrix"):
            if hasattr(column, part):
                assert np.array_equal(getattr(other, part), getattr(column, part)), (name, part)
    vectors = back.columns["embedding"]
    assert isinstance(vectors, Vectors) and vectors.model == "m/1"
    assert Judge(back, 0.05).of(made) == Judge(made, 0.05).of(made)


def test_words_of_one_subject_alone_are_new_in_the_reference_too(feature: Feature) -> None:
    texts = [("a", "alpha beta"), ("a", "alpha"), ("b", "beta gamma"), ("c", "beta 17")]
    rows = [Observation(str(n), n, who, {"text": text}) for n, (who, text) in enumerate(texts)]
    made = profile_of(feature, rows, "no model")
    own = made.columns["words"]
    assert isinstance(own, Words)
    assert unseen(own, made.groups, own, made.groups).tolist() == [0.5, 1.0, 0.5, 0.5]
    asked = [
        Observation("x", 0, "a", {"text": "alpha delta"}),
        Observation("y", 0, "z", {"text": "Alpha 99"}),
    ]
    window = profile_of(feature, asked, "no model")
    new = window.columns["words"]
    assert isinstance(new, Words)
    assert unseen(own, made.groups, new, window.groups).tolist() == [1.0, 0.0]


def test_the_nearest_is_another_subjects() -> None:
    matrix = np.asarray([[1, 0], [1, 0], [0, 1]], np.float32)
    vectors, groups = Vectors(np.arange(3), matrix, "m"), np.asarray([1, 1, 2], np.uint64)
    assert novelty(vectors, groups, vectors, groups).tolist() == [1.0, 1.0, 1.0]
    assert novelty(vectors, groups, vectors, np.asarray([7, 8, 9], np.uint64)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I get my card back?", "en"),
        ("Wie kann ich meine Karte sperren?", "de"),
        ("Où est ma carte, elle n'est pas dans la boîte", "fr"),
        ("¿Dónde está mi tarjeta nueva?", "es"),
        ("Где моя карта?", "cyrillic"),
        ("我的卡在哪里", "han"),
        ("12 34 !!", "unknown"),
        ("", "unknown"),
    ],
)
def test_languages(text: str, expected: str) -> None:
    assert language(text) == expected


def test_words_of_a_text() -> None:
    assert words("Don't pay 12,50 EUR: 我 twice!") == ["don't", "pay", "#", "#", "eur", "我", "twice"]


def _window(feature: Feature, like: Profile, said: list[tuple[str, str, str]]) -> Profile:
    rows = [
        Observation(str(n), n, who, {"text": text}, {"label": label}, 0.9, False)
        for n, (who, text, label) in enumerate(said)
    ]
    return profile_of(feature, rows, "no model", like=like)


def test_changes_are_told_and_a_word_only_if_several_subjects_used_it(feature: Feature) -> None:
    usual = [(f"u{n}", "where is my card", f"queue-{n % 4}") for n in range(100)]
    reference = _window(feature, profile_of(feature, [], "x"), usual)
    reference = replace(
        reference, columns={n: c for n, c in reference.columns.items() if n != "output.label.length"}
    )
    said = [("one", "smith wants a loan", "queue-9")] * 20
    said += [(f"v{n}", "where is my mortgage", "queue-1") for n in range(30)]
    rows = [Observation(str(n), n, who, {"text": text}) for n, (who, text, _) in enumerate(said)]
    window = profile_of(feature, rows, "no model", like=reference)
    told = {column.name: column.change for column in Judge(reference, 0.05).of(window).columns}
    assert "mortgage 0.0% to 60.0%" in told["words"]
    assert "smith" not in str(told)
    assert told["length"] == "median 16 to 20"
