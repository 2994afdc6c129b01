"""A feature whose answers are corrected, and what is said of them, for tests."""

import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

from trivium.domain.corrections import Opinion
from trivium.domain.feedback import Feedback, Kind
from trivium.domain.inference import Arm, Inference, Question, ServedBy, StepAnswer
from trivium.domain.sameness import input_hash
from trivium.features import Feature, load_feature
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.telemetry import new_id

MANIFEST = """
feature: sort
owner: tests
assessment: {problem: p, data: d, acceptable_error_rate: 0.1, when_wrong: w}
success_metric: {name: m, direction: down}
input:
  type: object
  required: [text]
  properties: {text: {type: string, minLength: 1}, secret: {type: string, x-sensitive: true}}
output:
  type: object
  required: [label]
  properties: {label: {type: string, minLength: 1}, in_scope: {type: number}}
  additionalProperties: false
deadline_ms: 5000
variants: {edge-v1: {pattern: edge, model: sort/1}}
serve: edge-v1
fallback: [{static: {label: nothing}}]
rollout: {flag: sort}
evaluation: {dataset: golden.jsonl}
budget: {monthly_usd: 1}
example: {input: {text: hello}}
"""
AI = ServedBy("edge-v1", "edge", "edge-v1", "v1", "sort/1")
_numbers = itertools.count()


def write_sort(folder: Path, golden: list[dict[str, Any]] | None = None, manifest: str = MANIFEST) -> Feature:
    """The feature `sort`, with a golden set of its own."""
    (folder / "sort").mkdir(parents=True, exist_ok=True)
    (folder / "sort" / "feature.yaml").write_text(manifest)
    lines = golden or [case("a golden question", "gold")]
    (folder / "sort" / "golden.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return load_feature(folder / "sort" / "feature.yaml")


def case(text: str, label: str) -> dict[str, Any]:
    """A line of the golden set."""
    return {"id": text[:40], "input": {"text": text}, "expected": {"label": label}}


def opinion(text: str, right: str | dict[str, Any] | None, subject: str = "u-1", **changes: Any) -> Opinion:
    """What a subject says of the answer `wrong`; `right=None` refuses it."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "input_hash": input_hash({"text": text}),
        "input": {"text": text},
        "entity_key": None,
        "subject": subject,
        "inference_id": f"i-{number:06d}",
        "feedback_id": f"f-{number:06d}",
        "answered": {"label": "wrong"},
        "variant": "edge-v1/v1",
        "right": {"label": right} if isinstance(right, str) else right,
        "occurred_at": float(number),
        "received_at": float(number),
    }
    return Opinion(**{**values, **changes})


def accepts(text: str, label: str | dict[str, Any], subject: str = "u-1", **changes: Any) -> Opinion:
    """A subject takes the answer as it was."""
    return opinion(text, label, subject, answered={"label": label}, accepts=True, **changes)


def random_opinions(rng: random.Random, count: int, texts: int = 30, subjects: int = 4) -> list[Opinion]:
    """What a few subjects say of a few inputs, in several spellings and with disagreement."""
    made = []
    for _ in range(count):
        text = f"question number {rng.randrange(texts)}"
        spelt = rng.choice([text, text.upper(), f"  {text.replace(' ', '   ')} "])
        subject = f"u-{rng.randrange(subjects)}"
        label = f"label-{rng.randrange(2) if rng.random() < 0.2 else 0}"
        kind = rng.random()
        if kind < 0.45:
            made.append(opinion(spelt, label, subject))
        elif kind < 0.85:
            made.append(accepts(spelt, label, subject))
        else:
            made.append(opinion(spelt, None, subject, withdraws=kind < 0.93))
    return made


async def store_answer(database: Database, text: str, label: str, **changes: Any) -> str:
    """Stores an inference of `sort`; returns its id."""
    values: dict[str, Any] = {
        "id": new_id(),
        "feature": "sort",
        "arm": Arm.TREATMENT,
        "subject_id": "u-1",
        "key_id": "k-1",
        "question": Question({"text": text}),
        "answer": StepAnswer({"label": label}, confidence=0.8),
        "served_by": AI,
        "degraded": False,
        "fallback_reason": None,
        "attempts": [],
        "deadline_ms": 1_000,
        "latency_ms": 3.0,
        "created_at": time.time(),
    }
    kept = changes.pop("kept", True)
    made = Inference(**{**values, **changes})
    row, attempts = rows_of(made)
    if not kept:
        row = {**row, "input": None, "output": None}
    await InferenceRepository(database).add([row], attempts)
    return made.id


async def say(
    database: Database, inference_id: str, kind: Kind, right: str | None = None, **more: Any
) -> str:
    """Stores feedback on an inference; returns its id."""
    now = time.time()
    values: dict[str, Any] = {
        "id": new_id(),
        "inference_id": inference_id,
        "key_id": "k-1",
        "idempotency_key": new_id(),
        "kind": kind,
        "value": None if right is None else {"label": right},
        "occurred_at": now,
        "received_at": now,
    }
    return (await FeedbackRepository(database).add(Feedback(**{**values, **more}))).id
