"""One feature: its stage, the four metrics beside their gates, the guard, and how sure its answers are."""

from boards.layout import Board, Row, one_of
from boards.panels import Placed, Query, heat, lines, number
from boards.queries import PROCESS, WINDOW, largest, of, or_none, quantile, rate, share

FEATURE = 'feature="$feature"'
ARMS = "{{arm}}"
GATE = "limit: the gate"
ASKED = 'outcome!="left"'


def board() -> Board:
    """What a review of a rollout looks at."""
    stage = f"{largest('trivium_rollout_stage', FEATURE, by='stage')} == 1"
    before = f"max by (stage) ({of('trivium_rollout_stage', FEATURE)} offset 5m) == 1"
    return Board(
        name="feature",
        title="feature",
        told="One feature's rollout: the stage, the four metrics by arm, what the guard says, and how sure "
        "the answers are. `trivium rollout` gives the same figures with their intervals, and decides.",
        variable=one_of("trivium_rollout_stage", "feature", "Feature"),
        since="now-24h",
        events=(("Stage begun", f"{stage} unless {before}"),),
        rows=(
            Row("Stage", _stage(stage)),
            Row("The four metrics, since the stage began", _four()),
            Row("Answers", _answers()),
            Row("The guard", _guard()),
            Row("Confidence, shadow and feedback", _quality()),
        ),
    )


def _stage(stage: str) -> tuple[Placed, ...]:
    asked = rate("trivium_inferences_total", FEATURE, ASKED)
    degraded = rate("trivium_inferences_total", FEATURE, 'outcome="degraded"')
    control = rate("trivium_inferences_total", FEATURE, 'outcome="control"')
    looked = largest("trivium_guard_last_look_timestamp_seconds", FEATURE)
    return (
        number(
            "Stage",
            "Where the rollout stands. Go on with `trivium rollout <feature> --advance`; take back at once "
            "with `--roll-back`, the kill switch.",
            Query(stage, "{{stage}}"),
            named=True,
            when_empty="unknown",
            width=4,
        ),
        number(
            "Answers",
            "A second, both arms. The verdicts need 200 subjects in treatment, or what the manifest says.",
            Query(asked),
            unit="reqps",
            width=4,
        ),
        number(
            "In control",
            "Share of answers by the non-AI version because the subject is in control. It should be what "
            "the stage leaves: 90 % in `limited`, none in `ga`.",
            Query(share(control, asked)),
            unit="percentunit",
            width=4,
            decimals=1,
        ),
        number(
            "Degraded",
            "Share of answers that a fallback gave. Red from 2 %, the objective. The dashboard of patterns "
            "says which step fails.",
            Query(share(degraded, asked)),
            unit="percentunit",
            width=4,
            bad_over=0.02,
            decimals=2,
        ),
        number(
            "Past its gate",
            "Metrics whose whole 95 % interval is on the wrong side of the gate. Red from one: the figures "
            "support a roll-back.",
            Query(f"{largest('trivium_feature_gate_broken', FEATURE, by='metric')} == 1", "{{metric}}"),
            named=True,
            when_empty="none",
            bad_over=1,
            runbook="gate-broken",
        ),
        number(
            "The guard's last look",
            "Ago. It looks every half minute; red after 10 minutes: nobody rolls back by himself now. Is a "
            "worker up, does it reach the database and the flags?",
            Query(f"time() - {looked}"),
            unit="s",
            bad_over=600,
            when_empty="not yet",
            runbook="guard-silent",
        ),
    )


def _four() -> tuple[Placed, ...]:
    return (
        _metric(
            "Adoption",
            "adoption",
            "Subjects with any feedback, of all. It should be over the gate; under it the feature is hard "
            "to find or not compelling: ask its users, don't advance.",
            "percentunit",
        ),
        _metric(
            "Override rate",
            "override_rate",
            "Answers put right or dismissed, of those judged. It should be under the gate; over it the "
            "answers are not good enough: roll back, learn from the corrections. Under 10 % it may be "
            "measured wrongly.",
            "percentunit",
            "overrides-rising",
        ),
        _metric(
            "Errors",
            "error_rate",
            "Degraded and failed answers, of all. It should be under the gate; over it see the dashboard "
            "of patterns, and roll back if it does not pass.",
            "percentunit",
        ),
        _metric(
            "P99",
            "p99_ms",
            "Latency of an answer. It should be under the gate; over it answer ahead or asynchronously, "
            "take a faster model, or roll back.",
            "ms",
        ),
    )


def _metric(title: str, name: str, told: str, unit: str, runbook: str = "gate-broken") -> Placed:
    metric = f'metric="{name}"'
    return lines(
        title,
        f"{told} Treatment is a solid line, control is dashed.",
        Query(largest("trivium_feature_metric", FEATURE, metric, by="arm"), ARMS),
        Query(largest("trivium_feature_gate", FEATURE, metric), GATE),
        unit=unit,
        width=6,
        runbook=runbook,
    )


def _answers() -> tuple[Placed, ...]:
    asked = rate("trivium_inferences_total", FEATURE, ASKED)
    parts = ("degraded", "failed")
    return (
        lines(
            "Outcomes",
            "All answers. Degraded and failed together are the metric Errors.",
            Query(or_none(rate("trivium_inferences_total", FEATURE, by="outcome"), "outcome"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Degraded and failed",
            "Their share now, where the four metrics are means since the stage began: here it shows first "
            "that something broke, and first that it is mended.",
            *(
                Query(share(rate("trivium_inferences_total", FEATURE, f'outcome="{part}"'), asked), part)
                for part in parts
            ),
            unit="percentunit",
            limit=0.02,
            at_most=1,
        ),
        lines(
            "Latency now",
            "Of treatment's answers in the last minutes; control's are next to nothing and left out.",
            *(
                Query(
                    quantile(q, "trivium_inference_latency_seconds", FEATURE, 'outcome!~"left|control"'),
                    f"P{q * 100:g}",
                )
                for q in (0.5, 0.95, 0.99)
            ),
            unit="s",
        ),
    )


def _guard() -> tuple[Placed, ...]:
    newest = f"max by (feature) ({of('trivium_guard_last_look_timestamp_seconds', FEATURE)})"
    looker = (
        f"({of('trivium_guard_last_look_timestamp_seconds', FEATURE)} == on (feature) group_left () {newest})"
    )
    bound = f"{of('trivium_guard_lower_bound', FEATURE)} and on ({PROCESS}) {looker}"
    return (
        lines(
            "At least so much worse than control",
            "The guard's lower bound of treatment less control, by the worker that looked last. Over the "
            "margin it rolls back: errors at the gate of the error rate, slow at 0.01, overrides at 0. "
            "Under 0 nothing is proven. Nearing it: be ready, or roll back yourself.",
            Query(f"max by (metric) ({bound})", "{{metric}}"),
            unit="percentunit",
            limit=0,
            from_zero=False,
        ),
        lines(
            "Looks by what they found",
            "not_running: no stage between staging and ga. not_enough: too few subjects. away: the "
            "database or the flags were; nobody guards meanwhile. regression and sample_ratio are followed "
            "by a decision.",
            Query(
                or_none(rate("trivium_guard_checks_total", FEATURE, by="outcome"), "outcome"), "{{outcome}}"
            ),
            unit="cps",
        ),
        lines(
            "Decisions of the guard",
            "roll_back: treatment was proven worse; see `GET /v1/features/{feature}/decisions` for the "
            "figures. hold: the arms are not of the sizes that they should be, so find out why before you "
            "advance.",
            Query(
                or_none(
                    f"sum by (action) (increase({of('trivium_guard_actions_total', FEATURE)}[{WINDOW}]))",
                    "action",
                ),
                "{{action}}",
            ),
            unit="short",
            runbook="guard-rolled-back",
        ),
    )


def _quality() -> tuple[Placed, ...]:
    confidence = of("trivium_confidence_bucket", FEATURE)
    compared = rate("trivium_shadow_answers_total", FEATURE, 'outcome=~"agrees|differs"')
    agrees = rate("trivium_shadow_answers_total", FEATURE, 'outcome="agrees"')
    return (
        heat(
            "Confidence",
            "How many answers were how sure. It slides down: inputs are no longer those that the model "
            "knows; see the dashboard of drift, and find edge cases.",
            Query(f"sum by (le) (increase({confidence}[{WINDOW}]))", "{{le}}"),
            unit="percentunit",
        ),
        lines(
            "Shadow: agreement",
            "Share of the shadow's answers that say the same as the served variant's. Low is not bad in "
            "itself: read where they differ before you promote or drop the candidate. Empty without a "
            "shadow.",
            Query(share(agrees, compared), "agrees"),
            unit="percentunit",
            width=6,
            at_most=1,
        ),
        lines(
            "Feedback by kind",
            "Of all features together. None at all while answers are shown: the product does not send it, "
            "and adoption and overrides mean nothing.",
            Query(or_none(rate("trivium_feedback_total", by="kind"), "kind"), "{{kind}}"),
            unit="cps",
            width=6,
        ),
    )
