"""Drift: whether a feature's traffic still looks like that which it was evaluated on."""

from boards.layout import Board, Row
from boards.panels import Placed, Query, heat, lines, number, rows, states
from boards.queries import WINDOW, largest, of, or_zero, rate, share

DRIFTED = {"0": "no", "1": "DRIFTED"}


def board() -> Board:
    """What the owner of a feature looks at once a week."""
    return Board(
        name="drift",
        title="drift",
        told="The last report on each feature's traffic, made once a day by default. A score is a column's "
        "distance to the reference in thresholds: over 1 it has drifted. `trivium drift <feature> --html` "
        "shows what changed.",
        since="now-7d",
        rows=(
            Row("The last reports", _summary()),
            Row("By column", _columns()),
            Row("What the models say meanwhile", _confidence()),
        ),
    )


def _summary() -> tuple[Placed, ...]:
    detected = largest("trivium_drift_detected", by="feature, variant")
    return (
        number(
            "Features that drifted",
            "In their last report. Red from one. One alarm in twenty unchanged windows is chance; two in a "
            "row are not. Read the report first, then label some of the new messages.",
            Query(or_zero(f"count({detected} == 1)")),
            width=6,
            bad_over=1,
            decimals=0,
            runbook="drift-detected",
        ),
        number(
            "Largest score",
            "Of all columns, in thresholds.",
            Query(f"max({of('trivium_drift_score')})"),
            width=6,
            bad_over=1,
            decimals=2,
            when_empty="no report yet",
        ),
        number(
            "Features with a report",
            "A feature has none before its reference (2,000 inferences) and a window (500) are whole, or "
            "if its payloads are not kept.",
            Query(or_zero(f"count({detected})")),
            width=6,
            decimals=0,
        ),
        number(
            "Columns over 1",
            "Of all features. Many at once: the traffic is another. One: see which, below.",
            Query(or_zero(f"count({largest('trivium_drift_score', by='feature, variant, column')} > 1)")),
            width=6,
            decimals=0,
        ),
    )


def _columns() -> tuple[Placed, ...]:
    scores = largest("trivium_drift_score", by="feature, variant, column")
    return (
        states(
            "Drifted or not",
            "By feature and variant. `trivium drift <feature> --reset-reference` if what traffic is like "
            "now is right.",
            Query(largest("trivium_drift_detected", by="feature, variant"), "{{feature}} {{variant}}"),
            DRIFTED,
            width=8,
            runbook="drift-detected",
        ),
        lines(
            "Score by column",
            "The dashed line is the threshold. words, new_words, novelty: other texts; output and "
            "confidence: the model does otherwise with them; override_rate and fallback_rate: users and "
            "steps do.",
            Query(scores, "{{feature}} {{column}}"),
            unit="short",
            limit=1,
        ),
        rows(
            "Scores of the last reports",
            "In thresholds. Over 1 has drifted.",
            Query(scores, "score"),
            units=("short",),
            shown=("feature", "variant", "column"),
        ),
    )


def _confidence() -> tuple[Placed, ...]:
    buckets = f"sum by (le) (increase({of('trivium_confidence_bucket')}[{WINDOW}]))"
    mean = (
        f"{rate('trivium_confidence_sum', by='feature')} / {rate('trivium_confidence_count', by='feature')}"
    )
    asked = rate("trivium_inferences_total", 'outcome!="left"', by="feature")
    return (
        heat(
            "Confidence of all answers",
            "It slides down with the first odd messages, long before a report. Then see the feature's own.",
            Query(buckets, "{{le}}"),
            unit="percentunit",
            width=8,
        ),
        lines(
            "Mean confidence by feature",
            "For half a day under what it was: look at the messages that the model is least sure of, "
            "`trivium edge-cases <feature>`.",
            Query(mean, "{{feature}}"),
            unit="percentunit",
            at_most=1,
            runbook="confidence-drop",
        ),
        lines(
            "Degraded by feature",
            "Out-of-scope messages show here as well: the edge model abstains, and a fallback answers.",
            Query(
                share(rate("trivium_inferences_total", 'outcome="degraded"', by="feature"), asked),
                "{{feature}}",
            ),
            unit="percentunit",
            at_most=1,
        ),
    )
