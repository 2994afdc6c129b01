"""Each evaluator by hand, and what a manifest may say of them."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.evaluated import MANIFEST
from trivium.errors import ConfigurationError
from trivium.evals.cases import Answered, Asked
from trivium.evals.evaluators import evaluators_sha256, make_evaluators
from trivium.evals.evaluators.text import rouge_l
from trivium.features import Feature, load_feature

OWN = """
from __future__ import annotations
from dataclasses import dataclass
from trivium.evals.evaluators import Scorer

@dataclass(repr=False)
class Length(Scorer):
    most: int = 5
    metrics = ("short",)

    def evaluate(self, ctx):
        return {"short": len(ctx.output.output["label"]) <= self.most}

@dataclass(repr=False)
class Silent(Scorer):
    def evaluate(self, ctx):
        return {}

class Other:
    pass
"""
IDLE = """
from trivium.evals.evaluators import Scorer

class Idle(Scorer):
    metrics = ("idle",)
"""


@dataclass
class Context:
    """What pydantic-evals hands to an evaluator, as far as ours look at it."""

    inputs: Asked
    output: Answered
    expected_output: dict[str, Any]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Feature]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_installed", raising=False)

    def write(evaluators: str = "[]", gates: str = "{}") -> Feature:
        folder = tmp_path / "reply"
        folder.mkdir(exist_ok=True)
        (folder / "feature.yaml").write_text(MANIFEST.format(evaluators=evaluators, gates=gates))
        (folder / "golden.jsonl").write_text('{"id": "1", "expected": {}}\n')
        (folder / "own.py").write_text(OWN)
        (folder / "idle.py").write_text(IDLE)
        (folder / "strict.json").write_text('{"properties": {"label": {"enum": ["a"]}}}')
        (folder / "broken.json").write_text("{")
        (folder / "empty.md").write_text(" \n")
        (folder / "latin.md").write_bytes(b"Sch\xf6n.")
        (tmp_path / "own_installed.py").write_text(OWN)
        return load_feature(folder / "feature.yaml")

    return write


def _score(feature: Feature, output: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    answered = Answered(output, None, None, 1.0, 0.0)
    found: dict[str, Any] = {}
    for scorer in make_evaluators(feature, None):
        context: Any = Context(Asked({}), answered, expected)
        found |= scorer.evaluate(context)
    return found


@pytest.mark.parametrize(
    ("spec", "output", "expected", "scores"),
    [
        ("exact", {"label": "a"}, {"label": "a"}, {"exact": True}),
        ("exact", {"label": "a", "score": 1}, {"label": "a"}, {"exact": False}),
        ("{exact: {field: label}}", {"label": "a", "score": 1}, {"label": "a"}, {"exact": True}),
        ("accuracy", {"label": "b"}, {"label": "a"}, {"accuracy": False}),
        ("{accuracy: {field: more.kind}}", {"more": {"kind": 1}}, {"more": {"kind": 1}}, {"accuracy": True}),
        ("contains", {"label": "A Refund."}, {"label": "refund"}, {"contains": True}),
        ("{contains: {all: [x, y]}}", {"label": "x z"}, {}, {"contains": False}),
        ("{contains: {any: [x, y]}}", {"label": "x z"}, {}, {"contains": True}),
        ("{contains: {all: [X], ignore_case: false}}", {"label": "x"}, {}, {"contains": False}),
        ("{contains: {all: [x], any: [y, z]}}", {"label": "x"}, {}, {"contains": False}),
        ("contains", {"label": "x"}, {}, {"contains": False}),
        ("{regex: {pattern: '^[0-9]+$'}}", {"label": "123"}, {}, {"regex": True}),
        ("{regex: {pattern: '^[0-9]+$'}}", {"label": "12a"}, {}, {"regex": False}),
        ("{regex: {all: ['^a', 'z$']}}", {"label": "a to z"}, {}, {"regex": True}),
        ("{regex: {all: ['^a', 'z$']}}", {"label": "a to y"}, {}, {"regex": False}),
        ("{regex: {any: ['^b', 'z$']}}", {"label": "a to z"}, {}, {"regex": True}),
        ("{regex: {pattern: '^a', any: ['x', 'y']}}", {"label": "a to z"}, {}, {"regex": False}),
        ("{regex: {pattern: '^A'}}", {"label": "a"}, {}, {"regex": False}),
        ("{regex: {pattern: '^A', ignore_case: true}}", {"label": "a"}, {}, {"regex": True}),
        ("{numeric: {field: score, absolute: 0.5}}", {"score": 1.5}, {"score": 1}, {"numeric": True}),
        ("{numeric: {field: score, relative: 0.1}}", {"score": 1.5}, {"score": 1}, {"numeric": False}),
        ("{numeric: {field: score}}", {"score": True}, {"score": 1}, {"numeric": False}),
        ("{numeric: {field: score, absolute: 0.1}}", {"score": 1.1}, {"score": 1}, {"numeric": True}),
        ("{numeric: {field: score, relative: 0.1}}", {"score": -1.1}, {"score": -1.0}, {"numeric": True}),
        ("{numeric: {field: score}}", {"label": "a"}, {"score": 1}, {"numeric": False}),
        ("{exact: {field: score}}", {"score": True}, {"score": 1}, {"exact": False}),
        ("exact", {"more": {"of": [1, {"a": 2.0}]}}, {"more": {"of": [1.0, {"a": 2}]}}, {"exact": True}),
        ("exact", {"more": {"of": [1]}}, {"more": {"of": [1, 2]}}, {"exact": False}),
        ("{json_schema: {schema: {required: [score]}}}", {"label": "a"}, {}, {"json_schema": False}),
        ("{json_schema: {schema: {required: [label]}}}", {"label": "a"}, {}, {"json_schema": True}),
        ("{json_schema: {file: strict.json}}", {"label": "b"}, {}, {"json_schema": False}),
        ("{json_schema: {file: strict.json}}", {"label": "a"}, {}, {"json_schema": True}),
        ("rouge_l", {"label": "the cat sat"}, {"label": "the cat lay"}, {"rouge_l": 2 / 3}),
        ("{'own.py:Length': {most: 2}}", {"label": "abc"}, {}, {"short": False}),
        ("own.py:Length", {"label": "abc"}, {}, {"short": True}),
        ("{'own_installed.Length': {most: 2}}", {"label": "abc"}, {}, {"short": False}),
    ],
)
def test_each_scores_as_it_says(
    make: Callable[..., Feature],
    spec: str,
    output: dict[str, Any],
    expected: dict[str, Any],
    scores: dict[str, Any],
) -> None:
    assert _score(make(f"[{spec}]"), output, expected) == pytest.approx(scores)


@pytest.mark.parametrize(
    ("got", "wanted", "value"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),
        ("the gunman police killed", "police killed the gunman", 2 / 4),
        ("", "something", 0.0),
        ("Ends, with: POINTS!", "ends with points", 1.0),
        ("a b c d e f", "a c e", 2 * 3 / 9),
    ],
)
def test_rouge_l_is_the_papers(got: str, wanted: str, value: float) -> None:
    assert rouge_l(got, wanted) == pytest.approx(value)


def test_without_any_those_are_made_that_the_gates_name(make: Callable[..., Feature]) -> None:
    feature = make(gates="{macro_f1: {min: 0.5}, rouge_l: {min: 0.1}}")
    metrics = [metric for scorer in make_evaluators(feature, None) for metric in scorer.gives()]
    assert metrics == ["accuracy", "macro_f1", "rouge_l"]


@pytest.mark.parametrize(
    ("evaluators", "gates", "told"),
    [
        ("[nonsense]", "{}", "nonsense: there is no such evaluator; there are accuracy"),
        ("[{accuracy: {fild: x}}]", "{}", "accuracy: 'fild' is no parameter; there are field, name"),
        (
            "[{accuracy: {field: colour}}]",
            "{}",
            "field 'colour' is not a property of output; there are label",
        ),
        ("[{numeric: {field: score, absolute: much}}]", "{}", "absolute: .* not 'much'"),
        ("[{judge: {rubric: own.py, model: a/b, scale: true}}]", "{}", "scale: .* integer, not True"),
        (
            "[{exact: {field: label.name}}]",
            "{}",
            "'label.name' is not a property of output.label; there are none",
        ),
        ("[{json_schema: {}}]", "{}", "give either `schema` or `file`"),
        ("[{json_schema: {file: none.json}}]", "{}", "none.json: No such file"),
        ("[{json_schema: {file: broken.json}}]", "{}", "broken.json: not JSON"),
        ("[{json_schema: {schema: {type: text}}}]", "{}", "schema: not a JSON Schema"),
        ("[{contains: {any: []}}]", "{}", "contains: any is empty"),
        ("[own.py:Silent]", "{}", "own.py:Silent: it gives no metric"),
        ("[idle.py:Idle]", "{}", "idle.py:Idle: Idle must implement all abstract methods: 'evaluate'"),
        ("[own.py]", "{}", "name the class, too: own.py:Mine"),
        ("[not_there_at_all.Mine]", "{}", "No module named 'not_there_at_all'"),
        ("[{judge: {rubric: empty.md, model: a/b}}]", "{}", "empty.md is empty"),
        ("[{judge: {rubric: latin.md, model: a/b}}]", "{}", "latin.md: not UTF-8 at byte 3"),
        ("[{judge: {model: a/b}}]", "{}", "judge: rubric is missing"),
        ("[similarity]", "{other: {min: 1}}", "gates.other: no evaluator gives it; there are similarity"),
        ("[regex]", "{}", "regex: pattern is missing"),
        ("[{regex: {pattern: '('}}]", "{}", "pattern"),
        ("[accuracy, accuracy]", "{}", "two give the metric 'accuracy'; give one a name"),
        ("[accuracy]", "{rouge_l: {min: 1}}", "gates.rouge_l: no evaluator gives it; there are accuracy"),
        ("[]", "{own_metric: {min: 1}}", "own_metric: no evaluator gives it; there are none"),
        ("[own.py:Nothing]", "{}", "Nothing"),
        ("[own.py:Other]", "{}", "is no trivium.evals.evaluators.Scorer"),
        ("[nowhere.py:Mine]", "{}", "nowhere.py is not there"),
        ("[{judge: {rubric: none.md, model: a/b}}]", "{}", "none.md: No such file"),
        ("[{accuracy: {}, exact: {}}]", "{}", "must be a name"),
    ],
)
def test_what_cannot_be_made_is_told(
    make: Callable[..., Feature], evaluators: str, gates: str, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        make_evaluators(make(evaluators, gates), None)


def test_the_hash_is_of_words_gates_and_files(make: Callable[..., Feature]) -> None:
    def hashed(evaluators: str, gates: str = "{}") -> str:
        feature = make(evaluators, gates)
        return evaluators_sha256(feature, make_evaluators(feature, None))

    plain = hashed("[own.py:Length]")
    assert hashed("[own.py:Length]") == plain
    assert hashed("[{'own.py:Length': {most: 9}}]") != plain
    assert hashed("[own.py:Length]", "{short: {min: 0.5}}") != plain
    feature = make("[own.py:Length]")
    (feature.folder / "own.py").write_text(OWN + "\n# changed\n")
    assert evaluators_sha256(feature, make_evaluators(feature, None)) != plain
    files = {
        "{json_schema: {file: strict.json}}": "strict.json",
        "own_installed.Length": "../own_installed.py",
    }
    for spec, name in files.items():
        feature = make(f"[{spec}]")
        before = evaluators_sha256(feature, make_evaluators(feature, None))
        path = feature.folder / name
        path.write_text(path.read_text() + "\n")
        assert evaluators_sha256(feature, make_evaluators(feature, None)) != before


def test_macro_f1_weighs_labels_alike_and_a_failure_is_wrong(make: Callable[..., Feature]) -> None:
    (scorer,) = make_evaluators(make("[accuracy]"), None)
    (macro_f1,) = scorer.summaries().values()
    pairs = [("a", "a"), ("a", "a"), ("a", "b"), ("b", "b"), (None, "b"), ("c", "a")]
    answered = [
        (Answered({"label": said}, None, None, 1.0, 0.0) if said else None, {"label": truth})
        for said, truth in pairs
    ]
    # a: precision 2/3, recall 2/3; b: precision 1, recall 1/3; c is expected nowhere.
    assert macro_f1(answered) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_same_intent_counts_what_is_missing_as_wrong(root: Path) -> None:
    feature = load_feature(root / "features/similar-tickets/feature.yaml")
    lines = (feature.folder / "archive.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    intent = records[0]["intent"]
    same = [one["id"] for one in records if one["intent"] == intent]
    other = [one["id"] for one in records if one["intent"] != intent]
    for keys, share in [(same[:2] + other[:3], 2 / 5), (same[:3], 3 / 5), (other[:5] + same[:5], 0), ([], 0)]:
        output = {"similar": [{"entity_key": key, "score": 1.0, "text": "x"} for key in keys]}
        assert _score(feature, output, {"intent": intent}) == {"same_intent_at_5": pytest.approx(share)}
    (scorer,) = make_evaluators(feature, None)
    assert scorer.files(feature) == ["archive.jsonl"]


def test_the_documents_examples_are_as_they_say(root: Path, make: Callable[..., Feature]) -> None:
    page = (root / "docs/how-to/evaluate.md").read_text()
    (spec,) = re.findall(r"```yaml\n(evaluation:.*?)```", page, re.DOTALL)
    evaluation = yaml.safe_load(spec)["evaluation"]
    feature = make()
    (feature.folder / "evals").mkdir()
    (feature.folder / "evals/strict.json").write_text('{"required": ["label"]}')
    (feature.folder / "evals/rubric.md").write_text("Be good.")
    (own,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (feature.folder / "evals/own.py").write_text(own)
    loaded = make(json.dumps(evaluation["evaluators"]), json.dumps(evaluation["gates"]))
    metrics = {metric for scorer in make_evaluators(loaded, None) for metric in scorer.gives()}
    assert {"accuracy", "macro_f1", "judge_consistency", "short", "same_label"} <= metrics
