"""The gates: a version that fails one of them is not written."""

from dataclasses import dataclass

from pydantic import BaseModel, Field


class Limits(BaseModel):
    """What each gate demands."""

    accuracy: float = Field(0.9, ge=0, le=1, description="Least held-out accuracy.")
    macro_f1: float = Field(0.9, ge=0, le=1, description="Least held-out macro-F1.")
    int8_loss: float = Field(0.005, ge=0, description="Most accuracy that int8 may lose against fp32.")
    export_gap: float = Field(
        0.001, ge=0, description="Largest gap of a probability between the network and the fp32 graph."
    )
    served_gap: float = Field(
        0.03,
        ge=0,
        description="Mean distance (total variation) of the served from the trained probabilities.",
    )
    ece: float = Field(0.03, ge=0, le=1, description="Largest expected calibration error.")
    p99_ms: float = Field(25.0, ge=0, description="Largest P99 of single runs on one thread.")


@dataclass(frozen=True, slots=True)
class Gate:
    """One figure and its limit."""

    name: str
    figure: float
    limit: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the limit; a NaN does not."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def __str__(self) -> str:
        sign = "at least" if self.at_least else "at most"
        return f"{self.name} is {self.figure:.4g}, the gate demands {sign} {self.limit:.4g}"


def gates(figures: dict[str, float], limits: Limits) -> list[Gate]:
    """Every gate over the figures of a trained model, by the names that the card has."""
    return [
        Gate("accuracy", figures["accuracy"], limits.accuracy, at_least=True),
        Gate("macro_f1", figures["macro_f1"], limits.macro_f1, at_least=True),
        Gate("int8_loss", figures["int8_loss"], limits.int8_loss, at_least=False),
        Gate("export_gap", figures["export_gap"], limits.export_gap, at_least=False),
        Gate("served_gap", figures["served_gap"], limits.served_gap, at_least=False),
        Gate("ece", figures["ece"], limits.ece, at_least=False),
        Gate("p99_ms", figures["p99_ms"], limits.p99_ms, at_least=False),
    ]


class GateFailed(Exception):
    """At least one gate failed; nothing was written."""

    def __init__(self, failed: list[Gate]) -> None:
        super().__init__("; ".join(map(str, failed)))
        self.failed = failed
