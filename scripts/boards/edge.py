"""The edge model service: how fast, how full, and whether the machine is as fast as it was."""

from boards.layout import Board, Row
from boards.panels import Placed, Query, lines, number
from boards.processes import processes
from boards.queries import largest, mean, of, of_edge, or_none, or_zero, quantile, rate, share

MODEL = "model, version"
NAMED = "{{model}}/{{version}}"


def board() -> Board:
    """What whoever sizes the edge model looks at."""
    return Board(
        name="edge",
        title="edge model",
        told="Is the edge model answering in time, does it refuse, and is a slot free? Whatever it refuses "
        "is answered by the next step of the chain.",
        rows=(
            Row("Is it well?", _summary()),
            Row("Requests", _requests()),
            Row("Runs", _runs()),
            processes(of_edge),
        ),
    )


def _summary() -> tuple[Placed, ...]:
    asked = rate("trivium_edge_requests_total")
    refused = rate("trivium_edge_requests_total", 'status=~"503|504|UNAVAILABLE|DEADLINE_EXCEEDED"')
    return (
        number(
            "Models ready",
            "By version, on how many servers. None: every feature that is served from the edge falls back. "
            "The index of the repository names what is wrong: docs/how-to/call-the-edge-model.md.",
            Query(or_none(f"sum by (model, version) ({of('trivium_model_ready')})", "model"), NAMED),
            width=6,
            bad_under=1,
            runbook="edge-model-not-ready",
        ),
        number(
            "Requests",
            "A second, over both doors.",
            Query(asked),
            unit="reqps",
        ),
        number(
            "Refused",
            "Share that was refused because the line was too long for its deadline. Red from 5 %: add "
            "servers or CPUs, or give large requests a longer deadline.",
            Query(share(refused, asked)),
            unit="percentunit",
            bad_over=0.05,
            decimals=2,
            runbook="edge-overloaded",
        ),
        number(
            "P99",
            "From a request's arrival to its answer, over all models.",
            Query(quantile(0.99, "trivium_edge_latency_seconds")),
            unit="s",
        ),
        number(
            "Slots",
            "Runs at once that the granted CPUs allow, of all servers together. Fewer than you gave CPUs: "
            "see the log's line about slots.",
            Query(or_zero(f"sum({of('trivium_edge_slots')})")),
            width=3,
        ),
        number(
            "Slowest machine",
            "Milliseconds of the latest runs over those of the calibration at start. Red from 2: somebody "
            "else uses these CPUs, or they are throttled.",
            Query(or_zero(f"max({of('trivium_edge_cost_ratio')})")),
            width=3,
            bad_over=2,
            decimals=2,
            runbook="edge-model-slow",
        ),
    )


def _requests() -> tuple[Placed, ...]:
    failed = rate("trivium_edge_requests_total", 'status!~"200|OK"', by="door, status")
    return (
        lines(
            "Requests by door and status",
            "REST and gRPC. 503 and UNAVAILABLE are refusals of a line that is full; left: the caller went "
            "away, mostly at its own deadline.",
            Query(
                or_none(rate("trivium_edge_requests_total", by="door, status"), "door"), "{{door}} {{status}}"
            ),
            unit="reqps",
            stacked=True,
            width=6,
        ),
        lines(
            "Refused or failed",
            "By status. 400 and 404: a caller is wrong, or a version was taken away. 503 and 504: too much "
            "at once.",
            Query(or_none(failed, "door"), "{{door}} {{status}}"),
            unit="reqps",
            width=6,
        ),
        lines(
            "Latency",
            "Of all requests, large ones too. P50 up: a slower machine or longer texts; P99 alone: the line.",
            *(
                Query(quantile(q, "trivium_edge_latency_seconds", by=MODEL), f"{NAMED} P{q * 100:g}")
                for q in (0.5, 0.95, 0.99)
            ),
            unit="s",
            width=6,
        ),
        lines(
            "Items",
            "Texts run through each version. A new version takes over at once; the old one drains to "
            "nothing.",
            Query(or_none(rate("trivium_edge_items_total", by=MODEL), "model"), NAMED),
            unit="cps",
            width=6,
        ),
    )


def _runs() -> tuple[Placed, ...]:
    return (
        lines(
            "Predicted wait",
            "Of a request that came now, by server. It is what requests are refused by: near the features' "
            "time-out for the edge step, answers come from the next step.",
            Query(of_edge(of("trivium_edge_wait_seconds")), "{{instance}}"),
            unit="s",
            width=6,
        ),
        lines(
            "Waiting",
            "Rows in the line, by server. It should touch 0 again and again.",
            Query(of("trivium_queue_depth", 'queue="edge"'), "{{instance}}"),
            unit="short",
            width=6,
        ),
        lines(
            "Rows that ran together",
            "On average. It is 1 while slots are free, and grows as they are not: batching is a sign of "
            "load here, not a goal.",
            Query(mean("trivium_edge_batch_rows", by=MODEL), NAMED),
            unit="short",
            width=6,
        ),
        lines(
            "Cost ratio",
            "Milliseconds of the latest runs over those of the calibration, by server. At 2 the machine is "
            "half as fast as when it started: look for neighbours and for CPU throttling.",
            Query(
                largest("trivium_edge_cost_ratio", by="instance, model, version"), f"{{{{instance}}}} {NAMED}"
            ),
            unit="short",
            width=6,
            limit=2,
        ),
    )
