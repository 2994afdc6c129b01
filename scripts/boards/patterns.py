"""The three patterns side by side: what each answers, how fast, and where it fails."""

from collections.abc import Callable

from boards.gateway import ASKED
from boards.layout import Board, Row
from boards.panels import Placed, Query, lines
from boards.queries import or_none, quantile, rate, share

PATTERNS = {
    "api": "a foundation model is asked",
    "precomputed": "a stored result is read",
    "edge": "the edge model is asked",
}
_Make = Callable[[str, str], Placed]
INFERENCES = "trivium_inferences_total"


def board() -> Board:
    """One column for each pattern."""
    return Board(
        name="patterns",
        title="patterns",
        told="The three ways to answer, a column each. A degraded answer stands in the column of who gave "
        "it; what failed before stands under Fallbacks in the column of who failed.",
        rows=(
            Row("All together", _together()),
            Row("Answers", _each(_answers)),
            Row("Latency", _each(_latency)),
            Row("Fallbacks by reason", _each(_fallbacks)),
            Row("Attempts by target", _each(_attempts)),
            Row("Attempts that failed", _each(_failures)),
        ),
    )


def _together() -> tuple[Placed, ...]:
    asked = rate(INFERENCES, ASKED, by="feature")
    degraded = rate(INFERENCES, 'outcome="degraded"', by="feature")
    failed = rate(INFERENCES, 'outcome="failed"', by="feature")
    return (
        lines(
            "Answers by who gave them",
            "`static` is the non-AI version: control, and the end of every fallback chain. If it grows at "
            "the expense of a pattern, that pattern fails.",
            Query(or_none(rate(INFERENCES, ASKED, by="pattern"), "pattern"), "{{pattern}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Degraded by feature",
            "Share of a feature's answers that a fallback gave. One feature: its served step is broken. "
            "All of one pattern: what stands behind it is.",
            Query(share(degraded, asked), "{{feature}}"),
            unit="percentunit",
            limit=0.02,
            at_most=1,
            runbook="answers-degraded",
        ),
        lines(
            "Failed by feature",
            "Share of a feature's requests without any answer. It should be 0: every chain ends with the "
            "non-AI version. The log has the reason under the request's id.",
            Query(share(failed, asked), "{{feature}}"),
            unit="percentunit",
            limit=0.001,
            at_most=1,
            runbook="answers-failing",
        ),
    )


def _each(make: _Make) -> tuple[Placed, ...]:
    return tuple(make(pattern, told) for pattern, told in PATTERNS.items())


def _answers(pattern: str, told: str) -> Placed:
    return lines(
        f"{pattern}: answers by outcome",
        f"Here {told}. Degraded: it answered as somebody's fallback. Nothing at all, where there was "
        "something: see its fallbacks below.",
        Query(or_none(rate(INFERENCES, _of(pattern), by="outcome"), "outcome"), "{{outcome}}"),
        unit="reqps",
        stacked=True,
    )


def _latency(pattern: str, told: str) -> Placed:
    found = (
        Query(quantile(q, "trivium_inference_latency_seconds", _of(pattern), ASKED), f"P{q * 100:g}")
        for q in (0.5, 0.95, 0.99)
    )
    return lines(
        f"{pattern}: latency",
        f"Of the answers where {told}, with all that was tried before. P99 near the deadline: answers come "
        "from fallbacks soon. See which target is slow in its own dashboard.",
        *found,
        unit="s",
        runbook="answers-slow",
    )


def _fallbacks(pattern: str, told: str) -> Placed:
    return lines(
        f"{pattern}: passed over",
        f"Steps where {told} and which failed, by reason. timeout and overloaded: capacity. rate_limited and "
        "budget_exhausted: limits. low_confidence: the inputs, see drift. breaker_open: it failed before.",
        Query(or_none(rate("trivium_fallbacks_total", _of(pattern), by="reason"), "reason"), "{{reason}}"),
        unit="reqps",
    )


def _attempts(pattern: str, told: str) -> Placed:
    return lines(
        f"{pattern}: attempts",
        "Who was asked, with retries. More attempts than answers: retries or hedges, which cost. A target "
        "that is no longer asked has an open breaker.",
        Query(or_none(rate("trivium_attempts_total", _of(pattern), by="target"), "target"), "{{target}}"),
        unit="reqps",
    )


def _failures(pattern: str, told: str) -> Placed:
    failed = rate("trivium_attempts_total", _of(pattern), 'outcome!="ok"', by="target, outcome")
    return lines(
        f"{pattern}: failed attempts",
        "By target and reason. One target: it is to be taken out of the manifest or the route, or waited "
        "for. All of them: look at the network and at the keys of providers.",
        Query(or_none(failed, "target"), "{{target}} {{outcome}}"),
        unit="reqps",
    )


def _of(pattern: str) -> str:
    return f'pattern="{pattern}"'
