"""Budgets and rate limits that all replicas share: reserved in Redis before, settled after.

A minute is a fixed window of Redis's clock; a month is UTC's. Without Redis each process admits by its own
counting up to LOCAL_SHARE of a limit a period, at least one request: never without limit, never closed. What
it spent meanwhile is settled when Redis is back.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from trivium.errors import BudgetExhausted, LimitReached, Unavailable
from trivium.metrics import BUDGET_LIMIT, BUDGET_USED, LIMITS_LOCAL
from trivium.store.limits_lua import BASE, RESERVE, SETTLE
from trivium.store.redis_guard import RedisAway, RedisGuard
from trivium.telemetry import new_id, run_in_background
from trivium.waiting import TookTooLong, at_most

log = structlog.get_logger()
LOCAL_SHARE = 0.1
LAG_S = 300.0
"""Attempts reach the ledger within seconds; until so long ago it is taken to be whole."""
RECONCILE_S = 60.0
LEDGER_S = 1.0
_MAX_WAITING = 100_000
_PORTION = 200
Ledger = Callable[[str, float, float], Awaitable[float]]
"""The sum of what is spent by a bucket's name, since and until; raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is limited: so much a period. `scope` says whose the limit is."""

    name: str
    limit: float
    unit: Literal["usd", "requests", "tokens"]
    period: Literal["minute", "month"]
    scope: Literal["key", "feature"]

    @property
    def keys(self) -> list[str]:
        """Its hash and its set."""
        own = f"trivium:limit:{{{self.name}}}:{self.unit}"
        return [own, f"{own}:held"]

    def month(self) -> str:
        """The month as `2026-11`, empty for a minute's bucket."""
        return datetime.now(UTC).strftime("%Y-%m") if self.period == "month" else ""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a request needs of a bucket, by an estimate."""

    bucket: Bucket
    amount: float


@dataclass(frozen=True, slots=True)
class _Settlement:
    bucket: Bucket
    id: str
    reserved: str
    amount: float
    month: str
    window: str


class Reservation:
    """What is held for one request, until it is settled or lapses."""

    def __init__(self, limits: "Limits", draws: Sequence[Draw], local: bool) -> None:
        self.id = new_id()
        self.draws = draws
        self.months = [draw.bucket.month() for draw in draws]
        self.window = f"{int(time.time() // 60):010d}"
        self._limits = limits
        self._local = local
        self._open = True

    def settle(self, amounts: Sequence[float | None]) -> None:
        """Puts what was used in the place of what was reserved, once; None stays as it was reserved.

        Waits for nothing.
        """
        if not self._open:
            return
        self._open = False
        for draw, month, amount in zip(self.draws, self.months, amounts, strict=True):
            actual = draw.amount if amount is None else amount
            if draw.bucket.unit == "requests":
                continue  # counted when it was made
            reserved = "0" if self._local else _shown(draw.amount)
            if self._local:
                self._limits.local.settle(draw, actual)
            settled = _Settlement(draw.bucket, self.id, reserved, actual, month, self.window)
            self._limits.note(settled)


@dataclass(slots=True)
class LocalBound:
    """What this process admitted by itself."""

    share: float = LOCAL_SHARE
    _used: dict[str, tuple[str, float]] = field(default_factory=dict)

    def take(self, draws: Sequence[Draw]) -> None:
        """Counts draws, all or none; raises as `reserve`."""
        for draw in draws:
            used = self._in_period(draw.bucket)
            if used and used + draw.amount > draw.bucket.limit * self.share:
                raise refusal(draw.bucket, used, _left_s(draw.bucket), self.share)
        for draw in draws:
            self._add(draw.bucket, draw.amount)

    def settle(self, draw: Draw, actual: float) -> None:
        """Puts what was used in the place of what was taken."""
        self._add(draw.bucket, actual - draw.amount)

    def _in_period(self, bucket: Bucket) -> float:
        period, used = self._used.get(bucket.keys[0], ("", 0.0))
        return used if period == _period(bucket) else 0.0

    def _add(self, bucket: Bucket, amount: float) -> None:
        self._used[bucket.keys[0]] = (_period(bucket), self._in_period(bucket) + amount)


class Limits:
    """Reserves and settles; `start` begins what it does in the background."""

    def __init__(self, redis: RedisGuard, ledger: Ledger | None = None) -> None:
        self.local = LocalBound()
        self._redis = redis
        self._ledger = ledger
        self._waiting: deque[_Settlement] = deque(maxlen=_MAX_WAITING)
        self._wake = asyncio.Event()
        self._months: dict[str, Bucket] = {}
        self._shown: dict[str, str] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._reserve, self._base = redis.script(RESERVE), redis.script(BASE)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to settle, and to reconcile with the ledger."""
        self._tasks = [
            run_in_background(self._settle_for_ever(), "limits"),
            run_in_background(self._reconcile_for_ever(), "budgets"),
        ]

    async def stop(self) -> None:
        """Settles what is left, if Redis is there."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.flush()

    async def reserve(self, draws: Sequence[Draw], hold_s: float) -> Reservation:
        """Holds what a request needs of all its buckets, or of none, for up to `hold_s`.

        Raises:
            LimitReached: of a key. BudgetExhausted: of a feature or a route; both say when there is more.
        """
        made = Reservation(self, draws, local=False)
        try:
            await self._reserved(made, hold_s)
        except RedisAway:
            LIMITS_LOCAL.inc()
            self.local.take(draws)
            made = Reservation(self, draws, local=True)
            for draw in draws:
                if draw.bucket.unit == "requests":
                    self.note(_Settlement(draw.bucket, made.id, "0", draw.amount, "", made.window))
        for draw in draws:
            if draw.bucket.period == "month":
                self._months[draw.bucket.keys[0]] = draw.bucket
        return made

    def note(self, settlement: _Settlement) -> None:
        """Has something settled soon."""
        self._waiting.append(settlement)
        self._wake.set()

    async def flush(self) -> None:
        """Settles what waits; what Redis is not there for waits on."""
        while self._waiting:
            portion = [self._waiting.popleft() for _ in range(min(_PORTION, len(self._waiting)))]
            try:
                told = await self._redis.call(lambda redis, some=portion: _settled(redis, some), 1.0)  # type: ignore[misc]
            except RedisAway:
                self._waiting.extendleft(reversed(portion))
                return
            for settlement, answer in zip(portion, told, strict=True):
                self._alert(settlement.bucket, answer)

    async def reconcile(self, bucket: Bucket) -> None:
        """Takes what a month has cost so far from the ledger, and keeps only what was settled since.

        Raises:
            Unavailable: the ledger is away. RedisAway: Redis is.
        """
        await self._load(bucket, time.time() - LAG_S, only_if_absent=False)

    async def _reserved(self, made: Reservation, hold_s: float) -> None:
        keys = [key for draw in made.draws for key in draw.bucket.keys]
        given: list[str] = [made.id, str(hold_s)]
        for draw, month in zip(made.draws, made.months, strict=True):
            given += [repr(draw.bucket.limit), _shown(draw.amount), month]
        for _ in range(len(made.draws) + 1):
            answer = await self._redis.call(lambda redis: self._reserve(keys, given, redis))
            if answer[0] == 1:
                return
            bucket = made.draws[int(answer[1])].bucket
            if answer[0] == -1:
                left_s = float(answer[3]) if bucket.period == "minute" else _left_s(bucket)
                raise refusal(bucket, float(answer[2]), left_s)
            await self._first_load(bucket)
        raise RedisAway

    async def _first_load(self, bucket: Bucket) -> None:
        """What the month has cost before Redis knew of it: once for all that ask at the same time."""
        async with self._loading.setdefault(bucket.keys[0], asyncio.Lock()):
            try:
                await self._load(bucket, time.time(), only_if_absent=True)
            except (Unavailable, TookTooLong):
                log.warning("budget_without_ledger", bucket=bucket.name)
                await self._set_base(bucket, 0.0, 0, only_if_absent=True)

    async def _load(self, bucket: Bucket, until: float, *, only_if_absent: bool) -> None:
        begin = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
        minute = int(until // 60)
        # What Redis did not see is to be counted to the very moment.
        until = until if only_if_absent else minute * 60.0
        spent = 0.0
        if self._ledger and until > begin:
            spent = await at_most(LEDGER_S, self._ledger(bucket.name, begin, until))
        await self._set_base(bucket, spent, minute, only_if_absent=only_if_absent)

    async def _set_base(self, bucket: Bucket, spent: float, minute: int, *, only_if_absent: bool) -> None:
        given = [bucket.month(), _shown(spent), str(minute), "1" if only_if_absent else "0"]
        await self._redis.call(lambda redis: self._base(bucket.keys, given, redis))

    def _alert(self, bucket: Bucket, answer: list[Any]) -> None:
        if not answer:
            return
        used = float(answer[0])
        BUDGET_LIMIT.labels(bucket.name).set(bucket.limit)
        BUDGET_USED.labels(bucket.name).set(used / bucket.limit)
        self._shown[bucket.name] = bucket.month()
        for percent in answer[1:]:
            log.warning(
                "budget_alert",
                bucket=bucket.name,
                percent=int(percent),
                used_usd=round(used, 6),
                limit_usd=bucket.limit,
            )

    def _turn_over(self, bucket: Bucket) -> None:
        """Of a new month nothing is used, even if no request says so."""
        if self._shown.get(bucket.name, bucket.month()) != bucket.month():
            BUDGET_USED.labels(bucket.name).set(0)
            del self._shown[bucket.name]

    async def _settle_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            if self._waiting:
                await asyncio.sleep(1.0)
                self._wake.set()

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_S)
            for bucket in list(self._months.values()):
                self._turn_over(bucket)
                try:
                    await self.reconcile(bucket)
                except (Unavailable, TookTooLong, RedisAway) as error:
                    log.warning("budget_not_reconciled", bucket=bucket.name, error=type(error).__name__)


def refusal(bucket: Bucket, used: float, left_s: float, share: float = 1.0) -> LimitReached | BudgetExhausted:
    """The error of a bucket that has not enough left."""
    limit = bucket.limit * share
    local = " (this gateway's share, while Redis is away)" if share < 1 else ""
    detail = f"{bucket.name}: {used:,.6g} of {limit:,.6g} {bucket.unit} a {bucket.period} are used{local}"
    kind = LimitReached if bucket.scope == "key" else BudgetExhausted
    return kind(detail, retry_after_s=left_s)


async def _settled(redis: Any, portion: list[_Settlement]) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipe:
        for one in portion:
            given = [one.id, one.reserved, _shown(one.amount), one.month, repr(one.bucket.limit), one.window]
            pipe.eval(SETTLE, 2, *one.bucket.keys, *given)
        told: list[Any] = await pipe.execute()
        return told


def _shown(amount: float) -> str:
    return f"{amount:.12f}".rstrip("0").rstrip(".") or "0"


def _period(bucket: Bucket) -> str:
    return bucket.month() or str(int(time.time() // 60))


def _left_s(bucket: Bucket) -> float:
    """Seconds until the period ends."""
    now = datetime.now(UTC)
    if bucket.period == "minute":
        return 60 - now.timestamp() % 60
    following = (now.replace(day=28, hour=0, minute=0, second=0, microsecond=0).timestamp()) + 4 * 86_400
    begin = datetime.fromtimestamp(following, UTC).replace(day=1)
    return begin.timestamp() - now.timestamp()
