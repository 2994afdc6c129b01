"""The gateway: traffic, availability, latency, what waits, what it leans on, its processes."""

from boards.alerts import firing
from boards.layout import Board, Row
from boards.panels import Placed, Query, lines, number, states
from boards.processes import processes
from boards.queries import (
    PROCESS,
    WINDOW,
    increase,
    largest,
    of,
    of_gateway,
    or_none,
    or_zero,
    quantile,
    rate,
    share,
)

BREAKER = {"0": "closed", "1": "half open", "2": "OPEN"}
ANSWERED = 'outcome=~"ok|degraded|control|generating"'
ASKED = 'outcome!="left"'
TREATED = 'outcome!~"left|control"'
OF_FEATURES = 'feature!~"route/.*"'
BURN = f"{of('trivium:slo_bad:ratio1h')} / on (slo) group_left () trivium:slo_allowed:ratio"


def board() -> Board:
    """The dashboard that is looked at first."""
    return Board(
        name="gateway",
        title="gateway",
        told="Is the platform answering, how fast, and what does it lean on? The first one to look at.",
        rows=(
            Row("Is it well?", _summary()),
            Row("Objectives and alerts", _objectives()),
            Row("Requests", _requests()),
            Row("What waits", _waiting()),
            Row("What it leans on", _around()),
            Row("Callers", _callers()),
            processes(of_gateway),
        ),
    )


def _summary() -> tuple[Placed, ...]:
    asked = rate("trivium_inferences_total", ASKED)
    own = rate("trivium_inferences_total", OF_FEATURES, ASKED)
    treated = rate("trivium_inferences_total", OF_FEATURES, TREATED)
    return (
        number(
            "Answers",
            "A second, of features and routes. Down to nothing while the product has users: are gateways "
            "up, and does the product reach them?",
            Query(asked),
            unit="reqps",
        ),
        number(
            "Availability",
            "Share of requests to features that got an answer; a fallback's is one. Red under the "
            "objective, 99.9 %: see Answers by outcome, then the dashboard of patterns for what fails.",
            Query(share(rate("trivium_inferences_total", OF_FEATURES, ANSWERED), own)),
            unit="percentunit",
            bad_under=0.999,
            decimals=2,
            runbook="answers-failing",
        ),
        number(
            "Degraded",
            "Share of treatment's answers that a fallback gave. Red from the objective, 2 %: users have an "
            "answer, but not the one that was meant. The dashboard of patterns says which step fails, and "
            "why.",
            Query(share(rate("trivium_inferences_total", OF_FEATURES, 'outcome="degraded"'), treated)),
            unit="percentunit",
            bad_over=0.02,
            decimals=2,
            runbook="answers-degraded",
        ),
        number(
            "P99 of an answer",
            "From the request to its answer, over all features. Each feature has its own limit: see its "
            "dashboard before you act.",
            Query(quantile(0.99, "trivium_inference_latency_seconds", ASKED)),
            unit="s",
        ),
        number(
            "Gateways up",
            "Processes that were scraped just now. Red at none; one is no reserve.",
            Query(or_zero(f"count({of('trivium_tasks')} > 0)")),
            bad_under=1,
            runbook="gateway-absent",
        ),
        number(
            "Breakers open",
            "Targets that are left alone because they failed too often. Red from one: Breakers, below, "
            "names it.",
            Query(or_zero(f"count({largest('trivium_breaker_state', by='target')} == 2)")),
            bad_over=1,
            runbook="breaker-open",
        ),
    )


def _objectives() -> tuple[Placed, ...]:
    return (
        lines(
            "Burn of the error budgets in the last hour",
            "By objective, the feature that is worst. At 1 the budget of 30 days is just used up in 30 "
            "days; from the dashed line on (14.4, 2 % of it in an hour) somebody is paged. It is made by "
            "the recording rules.",
            Query(f"max by (slo) ({BURN})", "{{slo}}"),
            unit="short",
            width=12,
            limit=14.4,
        ),
        lines(
            "Alerts that fire",
            "Trivium's own. Each has a page of the same name in the runbooks: what it means for users, "
            "where to look first, what helps. `page` comes before `ticket`.",
            Query(
                or_none(f"count by (severity, alertname) ({of('ALERTS', *firing())})", "alertname"),
                "{{severity}} {{alertname}}",
            ),
            unit="short",
            width=12,
            stacked=True,
        ),
    )


def _requests() -> tuple[Placed, ...]:
    per_handler = of_gateway(f"rate({of('http_requests_total')}[{WINDOW}])")
    failed = 'status=~"5.."'
    errors = of_gateway(f"rate({of('http_requests_total', failed)}[{WINDOW}])")
    buckets = of_gateway(f"rate({of('http_request_duration_seconds_bucket')}[{WINDOW}])")
    return (
        lines(
            "Requests by handler",
            "What callers ask for. A new shape of traffic explains most of what else has changed here. "
            "Chats are counted apart from other HTTP requests.",
            Query(or_none(f"sum by (handler) ({per_handler})", "handler"), "{{handler}}"),
            Query(or_zero(rate("trivium_chat_requests_total")), "chats"),
            unit="reqps",
        ),
        lines(
            "P99 by handler",
            "HTTP as a whole, whatever was answered. A handler that is slower than its feature's answers "
            "waits for keys, budgets or the event loop: see What waits.",
            Query(f"histogram_quantile(0.99, sum by (le, handler) ({buckets}))", "{{handler}}"),
            unit="s",
        ),
        lines(
            "Requests by status",
            "4xx are the callers' own, 429 and 503 are refusals that say when to come again; 500 is a bug "
            "of ours, to be found in the log by its request id.",
            Query(or_none(f"sum by (status) ({per_handler})", "status"), "{{status}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Answers by outcome",
            "Degraded or failed answers rise: the dashboard of patterns says which step and why. Left: "
            "callers went away, mostly because they waited too long.",
            Query(or_none(rate("trivium_inferences_total", by="outcome"), "outcome"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Latency of an answer",
            "Over all features and routes. P99 alone up: look at the slowest target on the dashboard of "
            "patterns; all three up: the machine is busy, see Processes.",
            *(
                Query(quantile(q, "trivium_inference_latency_seconds", ASKED), f"P{q * 100:g}")
                for q in (0.5, 0.95, 0.99)
            ),
            unit="s",
        ),
        lines(
            "Server errors by handler",
            "Answers with a status of 500 and over. 503 with the database away is planned for; 500 is not.",
            Query(or_none(f"sum by (handler, status) ({errors})", "handler"), "{{handler}} {{status}}"),
            unit="reqps",
        ),
    )


def _waiting() -> tuple[Placed, ...]:
    seconds = of_gateway(f"rate({of('http_request_duration_seconds_sum')}[{WINDOW}])")
    journal = of("trivium_queue_depth", 'queue="journal"')
    return (
        lines(
            "In flight",
            "Under way on average: seconds of requests in a second. It grows with latency before anything "
            "fails; where it grows and traffic does not, something that is asked has become slow.",
            Query(or_zero(rate("trivium_inference_latency_seconds_sum")), "answers"),
            Query(or_zero(f"sum({seconds})"), "HTTP requests without chats"),
            unit="short",
            width=6,
        ),
        lines(
            "Tasks of the event loop",
            "By gateway. A constant few plus what is in flight; it must come down again when traffic does. "
            "If it does not, restart that gateway and report the bug.",
            Query(f"{of('trivium_tasks')} > 0", "{{instance}}"),
            unit="short",
            width=6,
        ),
        lines(
            "Journal: filled",
            "What waits for the database, of what the journal holds. It fills while the database is away "
            "or too slow; at 100 % records are dropped, answers are not. Bring the database back first.",
            Query(f"{of('trivium_journal_fill_ratio')} and on ({PROCESS}) {journal}", "{{instance}}"),
            unit="percentunit",
            width=6,
            limit=0.5,
            at_most=1,
            runbook="journal-filling",
        ),
        lines(
            "Journal: records",
            "Waiting, and dropped because the journal was full. What is dropped is missing in costs, "
            "metrics and evaluations; note the time, so that figures of it are not trusted.",
            Query(f"sum({journal})", "waiting"),
            Query(or_zero(increase("trivium_records_dropped_total", over=WINDOW)), "dropped"),
            unit="short",
            width=6,
            runbook="records-dropped",
        ),
    )


def _around() -> tuple[Placed, ...]:
    redis = f"min({of_gateway(of('trivium_limits_redis_up'))})"
    return (
        states(
            "Breakers",
            "By target; half open: one request at a time tries whether it is back. Open: its steps are "
            "passed over at once. Look at the target's own status; nothing is to be reset here.",
            Query(largest("trivium_breaker_state", by="target"), "{{target}}"),
            BREAKER,
            runbook="breaker-open",
        ),
        lines(
            "Redis, as gateways see it",
            "1 while it answers, 0 when one gateway does not reach it. Limits and budgets are then each "
            "gateway's own, a tenth of the whole: callers see 429 sooner. Bring Redis back; nothing else "
            "is to be done.",
            Query(redis, "reached"),
            Query(or_zero(rate("trivium_limits_local_total")), "admitted without it, a second"),
            unit="short",
            width=6,
            runbook="redis-away",
        ),
        lines(
            "Routes read anew",
            "Times that routes.yaml was taken, or refused and the old ones kept. Refused: the log names "
            "the line that is wrong.",
            Query(
                or_none(increase("trivium_routes_reloaded_total", by="result", over=WINDOW), "result"),
                "{{result}}",
            ),
            unit="short",
            width=6,
        ),
    )


def _callers() -> tuple[Placed, ...]:
    return (
        lines(
            "Refused keys by reason",
            "Many of one reason at once: a caller with an old key, or somebody who tries keys. The audit "
            "log and `trivium keys list` tell which.",
            Query(or_none(rate("trivium_auth_refused_total", by="reason"), "reason"), "{{reason}}"),
            unit="reqps",
            runbook="keys-refused",
        ),
        lines(
            "Chat requests by status",
            "/v1/chat/completions and /v1/models. 429: a limit or a budget; 502 to 504: the providers, see "
            "the dashboard of patterns.",
            Query(or_none(rate("trivium_chat_requests_total", by="status"), "status"), "{{status}}"),
            unit="reqps",
        ),
        lines(
            "Flags by arm",
            "Look-ups of flags, by the arm that they gave. The share of treatment is the stage's; if all "
            "turn to control at once, a kill switch was pulled.",
            Query(
                or_none(rate("trivium_flag_evaluations_total", by="flag, arm"), "flag"), "{{flag}} {{arm}}"
            ),
            unit="reqps",
        ),
    )
