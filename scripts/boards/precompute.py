"""Computing ahead: what is to be done, how fast it is done, and whether what is stored still holds."""

from boards.layout import Board, Row
from boards.panels import Placed, Query, lines, number, rows
from boards.processes import processes
from boards.queries import increase, largest, mean, of, or_none, or_zero, quantile, rate

PENDING = 'queue="chunks"'
TROUBLE = 'outcome=~"failed|lost"'


def board() -> Board:
    """What whoever runs pre-computations looks at."""
    return Board(
        name="precompute",
        title="pre-computation",
        told="Runs and their chunks, what the workers do, and whether stored results are fresh when they "
        "are read.",
        since="now-12h",
        rows=(
            Row("Is it well?", _summary()),
            Row("Chunks", _chunks()),
            Row("Runs", _runs()),
            Row("What is stored, and read", _results()),
            processes(_of_worker),
        ),
    )


def _summary() -> tuple[Placed, ...]:
    silent = largest("trivium_run_silent_seconds", by="feature")
    running = 'state="running"'
    return (
        number(
            "Chunks pending",
            "What waits for a worker. It grows and no chunk is done: are workers up, and does what they "
            "ask answer?",
            Query(or_zero(largest("trivium_queue_depth", PENDING))),
            width=5,
            decimals=0,
        ),
        number(
            "Runs under way",
            "Of all features. More than planned: cancel with POST /v1/precompute/<run_id>/cancel.",
            Query(or_zero(f"sum({largest('trivium_runs', running, by='feature')})")),
            width=5,
            decimals=0,
        ),
        number(
            "Silent for",
            "Since the longest-silent run ended a chunk. Red after 15 minutes, unless a vendor's batch is "
            "waited for: see the run at GET /v1/precompute/<run_id>, then the worker's log.",
            Query(or_zero(f"max({silent})")),
            unit="s",
            width=5,
            bad_over=900,
            runbook="run-stuck",
        ),
        number(
            "Chunks failed or lost",
            "In the time shown. Failed: GET /v1/precompute/<run_id>/dead says why. Lost: a worker's lease "
            "ended, because it was killed or frozen; another took over.",
            Query(or_zero(increase("trivium_chunks_total", TROUBLE))),
            width=5,
            bad_over=1,
            decimals=0,
        ),
        number(
            "Stale answers",
            "Served in the time shown: stored results whose input, variant or age no longer held. They are "
            "computed anew in the background; many of them ask for a run, or a nearer schedule.",
            Query(or_zero(increase("trivium_stale_answers_total"))),
            decimals=0,
            runbook="stale-answers",
        ),
    )


def _chunks() -> tuple[Placed, ...]:
    return (
        lines(
            "Pending",
            "By all workers' count the same; KEDA scales workers on it. Flat and not 0: nobody works on it.",
            Query(or_zero(largest("trivium_queue_depth", PENDING)), "chunks"),
            unit="short",
            width=6,
        ),
        lines(
            "Chunks by outcome",
            "waits: a vendor's batch is under way. handed_back: a worker was told to end, or what it asks "
            "is away; many of these and few done: look at the edge model or the vendor.",
            Query(or_none(rate("trivium_chunks_total", by="outcome"), "outcome"), "{{outcome}}"),
            unit="cps",
            width=6,
            stacked=True,
        ),
        lines(
            "Seconds of a chunk",
            "P95 by phase. Longer than a worker's lease (15 s) is no harm while the worker lives; a phase "
            "that grows says where time goes: import is the source, compute the models.",
            Query(quantile(0.95, "trivium_chunk_seconds", by="phase"), "{{phase}} P95"),
            Query(mean("trivium_chunk_seconds", by="phase"), "{{phase}} mean"),
            unit="s",
            width=6,
        ),
        lines(
            "Results written",
            "A second, by feature. Pending chunks over this pace is the time that is left.",
            Query(or_none(rate("trivium_results_stored_total", by="feature"), "feature"), "{{feature}}"),
            unit="cps",
            width=6,
        ),
    )


def _runs() -> tuple[Placed, ...]:
    return (
        lines(
            "Runs by state",
            "Queued and running now; ended in the last day. Queued for long: another run of the variant is "
            "before it. failed or done_with_errors: see the run, then POST /v1/precompute/<run_id>/replay.",
            Query(or_none(largest("trivium_runs", by="feature, state"), "feature"), "{{feature}} {{state}}"),
            unit="short",
        ),
        lines(
            "Silence of running runs",
            "Seconds since the longest-silent run of a feature ended a chunk.",
            Query(or_none(largest("trivium_run_silent_seconds", by="feature"), "feature"), "{{feature}}"),
            unit="s",
            limit=900,
            runbook="run-stuck",
        ),
        lines(
            "Chunks in trouble",
            "By feature and outcome. A row that makes its chunk fail is found by bisection, so a few fail "
            "for one bad row.",
            Query(
                or_none(rate("trivium_chunks_total", TROUBLE, by="feature, outcome"), "feature"),
                "{{feature}} {{outcome}}",
            ),
            unit="cps",
        ),
    )


def _results() -> tuple[Placed, ...]:
    return (
        rows(
            "Stored results",
            "Rows and bytes, counted every five minutes. A variant that the manifest no longer has: "
            "`trivium results prune` drops it.",
            Query(largest("trivium_results", by="feature, variant"), "results"),
            Query(largest("trivium_results_bytes", by="feature, variant"), "bytes"),
            units=("short", "bytes"),
            shown=("feature", "variant"),
        ),
        lines(
            "Stale answers by reason",
            "input: entities change between runs. variant: the manifest did, start a run. age: the "
            "schedule is slower than `max_age_s`.",
            Query(
                or_none(rate("trivium_stale_answers_total", by="feature, reason"), "reason"),
                "{{feature}} {{reason}}",
            ),
            unit="reqps",
            runbook="stale-answers",
        ),
        lines(
            "Asked to be computed anew",
            "By reason. It follows stale and missing answers; if it stays high while nothing is stored, "
            "the worker does not keep up.",
            Query(
                or_none(rate("trivium_refreshes_total", by="feature, reason"), "reason"),
                "{{feature}} {{reason}}",
            ),
            unit="reqps",
        ),
    )


def _of_worker(expr: str) -> str:
    """Of the workers alone: only they have slots for chunks."""
    return f"{expr} and on (namespace, job, instance) ({of('trivium_worker_slots')} > 0)"
