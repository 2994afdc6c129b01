"""What it costs: by feature, variant and model, of budgets, and what the month will come to."""

from boards.layout import Board, Row
from boards.panels import Placed, Query, lines, number, rows
from boards.queries import SHOWN, increase, largest, or_none, or_zero, rate, share

HOUR_S = 3600
DAY = "1d"


def board() -> Board:
    """What the owner of a budget looks at."""
    return Board(
        name="cost",
        title="cost",
        told="What models cost, where it goes, how much of the budgets is used and what the month will "
        "come to. The ledger is the truth: `trivium costs` reads it. Counters lose what a killed process "
        "had not shown yet.",
        since="now-24h",
        rows=(
            Row("This month", _summary()),
            Row("Projection and budgets", _budgets()),
            Row("Where it goes", _spent()),
            Row("Tokens", _tokens()),
            Row("What is saved", _saved()),
        ),
    )


def _summary() -> tuple[Placed, ...]:
    looked = rate("trivium_cache_total", 'outcome=~"hit|miss"')
    return (
        number(
            "The month's projection",
            "What this month will have cost at this pace, all features. Over what was planned: see below "
            "which feature, then put a small model first, keep answers, or lower a budget.",
            Query(or_zero(f"sum({largest('trivium_cost_projected_usd', by='feature')})")),
            unit="currencyUSD",
            width=5,
            decimals=2,
        ),
        number(
            "Spent in the time shown",
            "By attempts with a known price, failed and hedged ones too.",
            Query(or_zero(increase("trivium_cost_usd_total"))),
            unit="currencyUSD",
            width=5,
            decimals=2,
        ),
        number(
            "Fullest budget",
            "Of a month. Red from 80 %. At 100 % the next step of the chain answers, and keys are refused.",
            Query(or_zero(f"max({largest('trivium_budget_used_ratio', by='bucket')})")),
            unit="percentunit",
            width=5,
            bad_over=0.8,
            decimals=1,
            runbook="budget-nearly-used",
        ),
        number(
            "Attempts without a price",
            "In the time shown. They cost something that nobody counts: give the target a `price` in the "
            "manifest or the route.",
            Query(or_zero(increase("trivium_unpriced_attempts_total"))),
            width=5,
            bad_over=1,
            decimals=0,
        ),
        number(
            "Answers from the cache",
            "Share of look-ups of kept answers that found one. They cost nothing.",
            Query(share(rate("trivium_cache_total", 'outcome="hit"'), looked)),
            unit="percentunit",
            when_empty="nothing is kept",
            decimals=1,
        ),
    )


def _budgets() -> tuple[Placed, ...]:
    return (
        lines(
            "Projection of the month by feature",
            "From the ledger: this month so far, and its pace carried on. It is shaky in the first days of "
            "a month.",
            Query(or_none(largest("trivium_cost_projected_usd", by="feature"), "feature"), "{{feature}}"),
            unit="currencyUSD",
            runbook="budget-projected-over",
        ),
        lines(
            "Budgets used",
            "Share of the month's budget by feature, route or key. Steeper than the month: raise the "
            "budget, or find out in Where it goes what is asked so much.",
            Query(or_none(largest("trivium_budget_used_ratio", by="bucket"), "bucket"), "{{bucket}}"),
            unit="percentunit",
            limit=1,
            runbook="budget-nearly-used",
        ),
        rows(
            "Budgets",
            "The limits that hold now. A feature's is in its manifest, a route's in routes.yaml, a key's "
            "was given when the key was made.",
            Query(largest("trivium_budget_limit_usd", by="bucket"), "USD a month"),
            Query(largest("trivium_budget_used_ratio", by="bucket"), "used"),
            units=("currencyUSD", "percentunit"),
            shown=("bucket",),
        ),
    )


def _spent() -> tuple[Placed, ...]:
    hourly = f"{HOUR_S} * {rate('trivium_cost_usd_total', by='feature')}"
    asked = rate("trivium_inferences_total", 'outcome!="left"', by="feature")
    return (
        lines(
            "An hour's cost by feature",
            "At the pace of the last minutes. A step up without a step in traffic: longer inputs, retries, "
            "or a new variant.",
            Query(or_none(hourly, "feature"), "{{feature}}"),
            unit="currencyUSD",
            stacked=True,
        ),
        lines(
            "Cost of a thousand answers",
            "By feature. It should fall when a small model goes first; it rises when fallbacks are dearer "
            "than what is served.",
            Query(f"1000 * {rate('trivium_cost_usd_total', by='feature')} / {asked}", "{{feature}}"),
            unit="currencyUSD",
        ),
        rows(
            "Spent by feature, variant and model",
            "In the time shown, the dearest first to be looked at. Sort by a column's head.",
            Query(
                increase("trivium_cost_usd_total", by="feature, variant, model", over=SHOWN),
                "USD",
            ),
            units=("currencyUSD",),
            shown=("feature", "variant", "model"),
        ),
    )


def _tokens() -> tuple[Placed, ...]:
    def by_kind(kind: str) -> str:
        return rate("trivium_tokens_total", f'kind="{kind}"', by="feature")

    return (
        lines(
            "Tokens by kind",
            "Input holds cached_input and cache_write, output holds reasoning: they are not to be added. "
            "Much input and little output: shorten the prompt; much reasoning: a smaller model may do.",
            Query(or_none(rate("trivium_tokens_total", by="kind"), "kind"), "{{kind}}"),
            unit="short",
        ),
        lines(
            "Input and output by feature",
            "Tokens a second. Input that grows while traffic does not: inputs have become longer, and "
            "dearer.",
            Query(or_none(by_kind("input"), "feature"), "{{feature}} input"),
            Query(or_none(by_kind("output"), "feature"), "{{feature}} output"),
            unit="short",
        ),
        lines(
            "Attempts without a price",
            "By model, a second. Not one is free: its price is unknown. Give the target a `price`.",
            Query(
                or_none(rate("trivium_unpriced_attempts_total", by="feature, model"), "model"),
                "{{feature}} {{model}}",
            ),
            unit="reqps",
        ),
    )


def _saved() -> tuple[Placed, ...]:
    cascades = rate("trivium_cascades_total", by="feature, reason")
    saved = increase("trivium_cascade_saved_usd_total", by="feature", over=DAY)
    return (
        lines(
            "Cascades: saved in a day",
            "An estimate: what the next step would have cost for what the small model answered, by its "
            "mean cost so far. Near nothing: the cascade earns no keep.",
            Query(or_none(saved, "feature"), "{{feature}}"),
            unit="currencyUSD",
        ),
        lines(
            "Cascades: handed on",
            "Abstentions that went to the next step by design. They grow: inputs have changed, and the "
            "bill follows.",
            Query(or_none(cascades, "feature"), "{{feature}} {{reason}}"),
            unit="reqps",
        ),
        lines(
            "Kept answers by outcome",
            "away: Redis was, and the model was asked. Only misses: questions do not repeat, `cache_s` may "
            "go.",
            Query(or_none(rate("trivium_cache_total", by="outcome"), "outcome"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
    )
