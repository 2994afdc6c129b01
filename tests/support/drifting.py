"""Made-up traffic of ticket-triage, whose drift a test plants."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trivium.domain.drift import Observation
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, StepAnswer
from trivium.domain.manifest import Drift
from trivium.drift.checking import served_by
from trivium.drift.columns import Matrix, Profile
from trivium.drift.profiles import profile_of
from trivium.features import Feature, find_feature
from trivium.store.engine import Database
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.telemetry import new_id

TOPICS, HIDDEN = 8, 16
COMMON = ["the", "my", "is", "to", "of", "please", "can", "you", "not", "and", "it", "a", "on", "for"]


def a_feature(root: Path, name: str = "ticket-triage", **drift: Any) -> Feature:
    """A shipped feature with other figures for its drift."""
    feature = find_feature(root / "features", name)
    return replace(feature, manifest=feature.manifest.model_copy(update={"drift": Drift(**drift)}))


@dataclass
class Traffic:
    """What users send, and what becomes of it; each of the fields may drift."""

    topics: Sequence[float] = (1.0,) * TOPICS
    words: int = 9
    rare: float = 0.02
    foreign: float = 0.0
    away: float = 0.0
    confidence: tuple[float, float] = (9.0, 1.5)
    override: float = 0.2
    fallback: float = 0.05
    requests: int = 1
    center: Matrix = field(
        default_factory=lambda: np.random.default_rng(0).normal(size=(TOPICS, HIDDEN)).astype(np.float32)
    )

    def draw(self, count: int, random: np.random.Generator) -> tuple[list[Observation], Matrix]:
        """Observations and the vectors of their texts; a subject sends `requests` about one topic."""
        made, vectors = [], np.empty((count, HIDDEN), np.float32)
        shares = np.asarray(self.topics) / sum(self.topics)
        subjects = -(-count // self.requests)
        topics = random.choice(TOPICS, subjects, p=shares)
        names = random.integers(0, 2**60, subjects)
        for row in range(count):
            topic = int(topics[row // self.requests])
            fell = bool(random.random() < self.fallback)
            made.append(
                Observation(
                    id=f"{names[0]}-{row}",
                    at=float(row),
                    subject_id=f"user-{names[row // self.requests]}",
                    input={"text": self._text(topic, random)},
                    output=None if fell else {"label": f"queue-{topic}"},
                    confidence=None if fell else float(random.beta(*self.confidence)),
                    fell_back=fell,
                    reason="timeout" if fell else None,
                    overridden=bool(random.random() < self.override),
                )
            )
            strange = random.random() < self.away
            middle = np.roll(self.center[topic], 3) if strange else self.center[topic]
            vectors[row] = middle + 0.6 * random.normal(size=HIDDEN)
        return made, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _text(self, topic: int, random: np.random.Generator) -> str:
        if random.random() < self.foreign:
            return "ich habe das nicht und die ist mit der"
        own = [f"topic{'abcdefgh'[topic]}{'klmno'[n]}" for n in range(5)]
        said = []
        for _ in range(max(2, int(random.poisson(self.words)))):
            if random.random() < self.rare:
                said.append("".join(random.choice(list("qwertzuiop"), 8)))
            else:
                said.append(str(random.choice(COMMON if random.random() < 0.6 else own)))
        return " ".join(said)


def profile(
    feature: Feature, drawn: tuple[list[Observation], Matrix], like: Profile | None = None
) -> Profile:
    """The columns of drawn traffic."""
    observations, vectors = drawn
    return profile_of(feature, observations, (list(range(len(observations))), vectors), "m/1", like)


async def store(
    database: Database,
    feature: Feature,
    texts: Sequence[str],
    *,
    start: float | None = None,
    output: Callable[[str], dict[str, Any]] = lambda _: {"label": "card_arrival"},
    degraded: bool = False,
) -> list[Inference]:
    """Stores inferences of the served version, a second apart, each of a subject of its own."""
    served = served_by(feature)
    pattern = feature.variants[served.variant].spec.pattern
    by = ServedBy(served.variant, pattern, served.variant, served.version, "m")
    static = ServedBy("static", "static")
    begin = time.time() - len(texts) if start is None else start
    made = []
    for place, text in enumerate(texts):
        tried = [Attempt(by, "edge/m", "timeout" if degraded else "ok", 1.0)]
        made.append(
            Inference(
                id=new_id(),
                feature=feature.name,
                arm=Arm.TREATMENT,
                subject_id=f"user-{new_id()}",
                key_id="key",
                question=Question({"text": text}),
                answer=StepAnswer(output(text), confidence=None if degraded else 0.9),
                served_by=static if degraded else by,
                degraded=degraded,
                fallback_reason="timeout" if degraded else None,
                attempts=[*tried, Attempt(static, "static", "ok", 0.1)] if degraded else tried,
                deadline_ms=1_000,
                latency_ms=5.0,
                created_at=begin + place,
            )
        )
    rows = [rows_of(one) for one in made]
    await InferenceRepository(database).add([row for row, _ in rows], [a for _, some in rows for a in some])
    return made
