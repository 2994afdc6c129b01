"""Features in a stage, and traffic in both arms, for tests of what watches rollouts."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trivium.domain.feedback import Kind
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, StepAnswer
from trivium.domain.rollout import Decision, Stage
from trivium.features import Feature, find_feature
from trivium.flag_admin import FileAdmin
from trivium.rollouts.guard import Guard
from trivium.rollouts.stages import Rollouts
from trivium.store.attempts import AttemptRepository
from trivium.store.decisions import DecisionRepository
from trivium.store.engine import Database
from trivium.store.feedback import FeedbackRepository
from trivium.store.inferences import InferenceRepository, rows_of
from trivium.store.outcomes import OutcomeRepository
from trivium.telemetry import new_id

STATIC = ServedBy("static", "static")


@dataclass
class Watched:
    """A feature with a flags file of its own, on a database."""

    database: Database
    feature: Feature
    flags: Path

    def __post_init__(self) -> None:
        if not self.flags.exists():
            self.flags.write_text('{"version": 1, "features": []}')
        self.rollouts = Rollouts(DecisionRepository(self.database), FileAdmin(self.flags))
        outcomes, attempts = OutcomeRepository(self.database), AttemptRepository(self.database)
        self.guard = Guard(self.rollouts, outcomes, attempts, settle_s=0.0)

    @property
    def version(self) -> str:
        """The served variant's."""
        return self.feature.variants[self.feature.manifest.serve].version

    async def enter(self, stage: Stage) -> None:
        """Moves the feature, as a person would."""
        await self.rollouts.move(self.feature, "advance", stage, by="ann", reason="why not", figures={})

    async def decisions(self) -> list[Decision]:
        """The guard's, the newest first."""
        found = await self.rollouts.decisions.list(self.feature.name, 1_000)
        return [one for one in found if one.decided_by == "guard"]

    def strategies(self) -> Any:
        """Of the flag, as the file has it."""
        flag = self.feature.manifest.rollout.flag
        (one,) = [one for one in json.loads(self.flags.read_text())["features"] if one["name"] == flag]
        return one["strategies"] if one["enabled"] else []

    async def serve(
        self,
        arm: Arm,
        subjects: int,
        *,
        requests: int = 2,
        degraded: int = 0,
        slow: int = 0,
        overridden: int | None = None,
        version: str | None = None,
    ) -> None:
        """Records an arm's traffic; `degraded`, `slow` and `overridden` are numbers of subjects.

        All of such a subject's requests are so. Without `overridden` nobody says anything.
        """
        variant = self.feature.manifest.serve
        ai = ServedBy(variant, "edge", variant, version or self.version, "m")
        made: list[Inference] = []
        said: list[dict[str, Any]] = []
        now = time.time()
        for number in range(subjects):
            for _ in range(requests):
                tried = Attempt(ai, "edge/m", "timeout" if number < degraded else "ok", 5.0)
                one = Inference(
                    new_id(),
                    self.feature.name,
                    arm,
                    f"{arm.value}-{number}",
                    "key",
                    Question({"text": "?"}),
                    StepAnswer({"label": "a"}),
                    STATIC if arm is Arm.CONTROL or number < degraded else ai,
                    number < degraded,
                    "timeout" if number < degraded else None,
                    [tried] if arm is Arm.TREATMENT else [],
                    1_000,
                    9_000.0 if number < slow else 20.0,
                    now,
                )
                made.append(one)
                if overridden is not None:
                    kind = Kind.DISMISSED if number < overridden else Kind.ACCEPTED
                    said.append(_event(one.id, kind, now))
        rows = [rows_of(one) for one in made]
        attempts = [attempt for _, some in rows for attempt in some]
        await InferenceRepository(self.database).add([row for row, _ in rows], attempts)
        if said:
            await FeedbackRepository(self.database).add_rows(said)


def _event(inference_id: str, kind: Kind, at: float) -> dict[str, Any]:
    return {
        "id": new_id(),
        "inference_id": inference_id,
        "key_id": "key",
        "idempotency_key": new_id(),
        "kind": kind.value,
        "value": None,
        "edit_distance": None,
        "occurred_at": at,
        "received_at": at,
    }


def watched(database: Database, root: Path, folder: Path, **rollout: Any) -> Watched:
    """A shipped feature whose rollout has 60 subjects as its minimum exposure, and what is given."""
    feature = find_feature(root / "features", "ticket-triage")
    manifest = feature.manifest
    changed = manifest.rollout.model_copy(update={"min_subjects": 60, **rollout})
    feature = replace(feature, manifest=manifest.model_copy(update={"rollout": changed}))
    return Watched(database, feature, folder / "flags.json")
