"""Budgets and limits on the way of a request: reserved before money is spent, settled with what was."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trivium.domain.fallback import Step
from trivium.domain.inference import Attempt, Usage
from trivium.errors import BudgetExhausted, LimitReached
from trivium.llm.prices import Tariff
from trivium.store.keys import Key
from trivium.store.limits import Bucket, Draw, Limits, Reservation

HOLD_S = 120.0
"""Longer than a request may usually take: what nobody settled is given back then."""
_CHARS_A_TOKEN = 3
_MAX_CHARS = 1_000_000  # images as data are longer, and fewer tokens
"""Fewer than most texts have, so that an estimate is rather too high."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What features, routes and keys may still spend."""

    limits: Limits
    tariff: Tariff

    async def enter(self, key: Key) -> None:
        """Counts a request of a key; raises LimitReached."""
        per_minute = key.allowance.requests_per_minute
        if per_minute is not None:
            bucket = Bucket(f"key:{key.id}", per_minute, "requests", "minute", "key")
            await self.limits.reserve([Draw(bucket, 1)], HOLD_S)

    def spending(
        self, owner: str, monthly_usd: float | None, key: Key, estimate: Callable[[], Usage]
    ) -> "Spending":
        """What a request of a feature or a route may spend; `estimate` says its tokens, if it comes to it."""
        money, tokens, allowed = [], [], key.allowance
        if monthly_usd is not None:
            money.append(Bucket(f"feature:{owner}", monthly_usd, "usd", "month", "feature"))
        if allowed.monthly_usd is not None:
            money.append(Bucket(f"key:{key.id}", allowed.monthly_usd, "usd", "month", "key"))
        if allowed.tokens_per_minute is not None:
            tokens.append(Bucket(f"key:{key.id}", allowed.tokens_per_minute, "tokens", "minute", "key"))
        return Spending(self, money, tokens, estimate)


def estimated(chars: int, max_output: int) -> Usage:
    """The tokens that a request of so many characters may cost, rather too many than too few."""
    return Usage(min(chars, _MAX_CHARS) // _CHARS_A_TOKEN + 1, max_output)


@dataclass(slots=True)
class Spending:
    """One request's reservations."""

    purse: Purse
    money: list[Bucket]
    tokens: list[Bucket]
    estimate: Callable[[], Usage]
    _held: list[tuple[Reservation, list[Bucket]]] = field(default_factory=list)
    _reserved: set[Bucket] = field(default_factory=set)

    @property
    def limited(self) -> bool:
        """Whether there is anything to ask for."""
        return bool(self.money or self.tokens)

    async def admit(self, step: Step[Any, Any]) -> None:
        """Reserves what a step may cost, unless that was done.

        Raises:
            BudgetExhausted: the feature's, the route's or the key's budget has not enough left.
        """
        if step.served_by.pattern != "api":
            return
        wanted = self.tokens if self.purse.tariff.is_free(step.target) else [*self.tokens, *self.money]
        buckets = [bucket for bucket in wanted if bucket not in self._reserved]
        if not buckets:
            return
        tokens = self.estimate()
        cost = self.purse.tariff.cost_usd(step.target, tokens) or 0.0
        amounts = {"tokens": float(tokens.input + tokens.output), "usd": cost}
        draws = [Draw(bucket, amounts[bucket.unit]) for bucket in buckets]
        try:
            self._held.append((await self.purse.limits.reserve(draws, HOLD_S), buckets))
        except LimitReached as error:
            raise BudgetExhausted(error.detail, retry_after_s=error.retry_after_s) from error
        self._reserved.update(buckets)

    def settle(self, attempts: list[Attempt]) -> None:
        """Settles with what priced attempts did cost; what is not known stays as it was estimated."""
        if not self._held:
            return
        costs = [attempt.cost_usd for attempt in attempts]
        usages = [attempt.usage for attempt in attempts if attempt.usage]
        spent: dict[str, float | None] = {
            "usd": None if None in costs else sum(cost for cost in costs if cost),
            "tokens": float(sum(usage.input + usage.output for usage in usages)),
        }
        for reservation, buckets in self._held:
            reservation.settle([spent[bucket.unit] for bucket in buckets])
        self._held.clear()
