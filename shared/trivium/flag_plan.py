"""What a stage makes of a feature's flag.

A stage is a gradual rollout, sticky by the subject's id within one group, so that whoever is in at 10 % stays
in at 25 %. Beside it stand those who always get the AI: the staging subjects, from `limited` on the cohort.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SecretStr

from trivium.domain.manifest import Rollout
from trivium.domain.rollout import Stage
from trivium.flags import FlagSettings

Strategy = dict[str, Any]
Part = Literal["gradual", "always", "cohort"]
GRADUAL = "flexibleRollout"
SUBJECT = "userId"
"""What Unleash calls the subject."""


class FlagAdminSettings(FlagSettings):
    """Where flags come from, and what it takes to set them."""

    unleash_admin_token: SecretStr | None = Field(
        None, description="An admin token of Unleash; `trivium rollout` and the guard set flags with it."
    )
    unleash_project: str = Field("default", description="Unleash's project in which flags are made.")
    unleash_environment: str | None = Field(
        None, description="Unleash's environment; by default it is called as TRIVIUM_ENVIRONMENT."
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a flag is to be: the percentage, and who gets the AI besides."""

    flag: str
    percent: int
    always: tuple[str, ...] = ()
    cohort: tuple[str, tuple[str, ...]] | None = None

    @classmethod
    def of(cls, rollout: Rollout, stage: Stage) -> "Plan":
        """The plan of a stage. In `limited` the cohort takes the percentage's place, and stays in after."""
        cohort = rollout.limited_cohort
        percent = stage.percent(rollout.limited_percent)
        if stage is Stage.LIMITED and cohort:
            percent = 0
        chosen = (cohort.property, tuple(cohort.values)) if cohort and stage is not Stage.STAGING else None
        return cls(rollout.flag, percent, tuple(rollout.staging_subjects), chosen)

    @property
    def enabled(self) -> bool:
        """Whether anybody gets the AI; a flag that is on without a strategy would be on for everybody."""
        return bool(self.percent or self.always or self.cohort)

    @property
    def closed(self) -> bool:
        """Whether nobody gets the AI but the staging subjects."""
        return not self.percent and not self.cohort

    def parts(self) -> dict[Part, Strategy]:
        """The strategies, in the form that the flags file and Unleash share."""
        found: dict[Part, Strategy] = {}
        if self.percent:
            found["gradual"] = _gradual(self.flag, self.percent)
        if self.always:
            found["always"] = _for(self.flag, SUBJECT, self.always)
        if self.cohort:
            found["cohort"] = _for(self.flag, *self.cohort)
        return found


def percent_of(flag: Mapping[str, Any]) -> int:
    """The percentage for whom a flag is on by its gradual strategies, but for those that not all may use."""
    if not flag.get("enabled"):
        return 0
    strategies = flag.get("strategies") or [{"name": "default"}]
    return max((_share(one) for one in strategies), default=0)


def _share(strategy: Strategy) -> int:
    if strategy.get("constraints") or strategy.get("segments") or strategy.get("disabled"):
        return 0
    match strategy.get("name"):
        case "default":
            return 100
        case "flexibleRollout":
            return int(float((strategy.get("parameters") or {}).get("rollout", 0)))
        case _:
            return 0


def _gradual(flag: str, percent: int) -> Strategy:
    parameters = {"rollout": str(percent), "stickiness": SUBJECT, "groupId": flag}
    return {"name": GRADUAL, "parameters": parameters}


def _for(flag: str, name: str, values: Sequence[str]) -> Strategy:
    """For everybody in whose context a field has one of the values."""
    wanted = {"contextName": name, "operator": "IN", "values": list(values)}
    return {**_gradual(flag, 100), "constraints": [wanted]}
