"""How many of the five most similar tickets are about the same: their intents stand in the archive."""

import json
from dataclasses import dataclass
from typing import Any

from trivium.evals.evaluators import Scorer

ARCHIVE = "archive.jsonl"


@dataclass(repr=False)
class SameIntent(Scorer):
    """`same_intent_at_5`: the share of the first five whose intent is the expected one."""

    metrics = ("same_intent_at_5",)

    def bind(self, feature: Any, backends: Any) -> None:
        """Reads the intents."""
        with (feature.folder / ARCHIVE).open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        self._intents = {record["id"]: record["intent"] for record in records}

    def files(self, feature: Any) -> list[str]:
        """The archive."""
        return [ARCHIVE]

    def evaluate(self, ctx: Any) -> dict[str, bool | float]:
        """Fewer than five count as if the others were wrong."""
        similar = ctx.output.output["similar"][:5]
        same = sum(self._intents.get(one["entity_key"]) == ctx.expected_output["intent"] for one in similar)
        return {"same_intent_at_5": same / 5}
