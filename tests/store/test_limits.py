"""Budgets and limits on a real Valkey: shared, exact, without leaks, and bounded when it is gone."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs

from support.valkey import Valkey
from trivium.errors import BudgetExhausted, LimitReached, Unavailable
from trivium.store.limits import LOCAL_SHARE, Bucket, Draw, Limits
from trivium.store.redis_guard import RedisGuard

HOLD_S = 60.0


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("limits")
    with Valkey(folder) as server:
        yield server


class Ledger:
    """Knows what was entered, and when it can be read."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, float]] = []
        self.away = False
        self.asked = 0

    async def __call__(self, name: str, since: float, until: float) -> float:
        self.asked += 1
        if self.away:
            raise Unavailable("the ledger is away")
        return sum(amount for at, amount in self.entries if since <= at < until)


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Any]:
    client = Redis.from_url(valkey.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def limits(valkey: Valkey, redis: Any, ledger: Ledger) -> AsyncIterator[Limits]:
    guard = RedisGuard(valkey.url, timeout_s=1.0)
    made = Limits(guard, ledger)
    made.start()
    yield made
    await made.stop()
    await guard.close()


def _budget(limit: float = 1.0, name: str = "f") -> Bucket:
    return Bucket(f"feature:{name}", limit, "usd", "month", "feature")


def _rate(limit: float = 10, unit: Any = "requests") -> Bucket:
    return Bucket("key:k", limit, unit, "minute", "key")


async def _used(redis: Any, bucket: Bucket) -> dict[str, float]:
    found = await redis.hgetall(bucket.keys[0])
    names = ("base", "spent", "held")
    return {name: round(float(found.get(name.encode(), 0)), 9) for name in names}


async def _spend(limits: Limits, bucket: Bucket, amount: float) -> None:
    (await limits.reserve([Draw(bucket, amount)], HOLD_S)).settle([amount])
    await limits.flush()


async def test_what_is_reserved_counts_and_what_is_settled_takes_its_place(
    limits: Limits, redis: Any
) -> None:
    held = await limits.reserve([Draw(_budget(), 0.7)], HOLD_S)
    assert await _used(redis, _budget()) == {"base": 0, "spent": 0, "held": 0.7}
    with pytest.raises(BudgetExhausted) as caught:
        await limits.reserve([Draw(_budget(), 0.4)], HOLD_S)
    assert "0.7 of 1 usd a month are used" in caught.value.detail
    assert 0 < (caught.value.retry_after_s or 0) <= 31 * 86_400
    held.settle([0.2])
    held.settle([0.9])  # twice is once
    await limits.flush()
    assert await _used(redis, _budget()) == {"base": 0, "spent": 0.2, "held": 0}
    await limits.reserve([Draw(_budget(), 0.8)], HOLD_S)


async def test_an_unknown_cost_stays_as_it_was_reserved(limits: Limits, redis: Any) -> None:
    (await limits.reserve([Draw(_budget(), 0.3)], HOLD_S)).settle([None])
    await limits.flush()
    assert await _used(redis, _budget()) == {"base": 0, "spent": 0.3, "held": 0}


async def test_all_buckets_have_it_or_none_is_drawn_from(limits: Limits, redis: Any) -> None:
    full = _rate(1)
    await limits.reserve([Draw(full, 1)], HOLD_S)
    with pytest.raises(LimitReached) as caught:
        await limits.reserve([Draw(_budget(), 0.5), Draw(full, 1)], HOLD_S)
    assert 0 < (caught.value.retry_after_s or 0) <= 60
    assert (await _used(redis, _budget()))["held"] == 0


async def test_two_hundred_at_once_are_admitted_exactly_as_many_as_fit(
    limits: Limits, valkey: Valkey, ledger: Ledger
) -> None:
    other_guard = RedisGuard(valkey.url, timeout_s=5.0)
    other = Limits(other_guard, ledger)
    bucket = _budget(5.0)

    async def ask(of: Limits) -> bool:
        try:
            await of.reserve([Draw(bucket, 0.1)], HOLD_S)
        except BudgetExhausted:
            return False
        return True

    admitted = await asyncio.gather(*(ask((limits, other)[n % 2]) for n in range(200)))
    await other_guard.close()
    assert sum(admitted) == 50


async def test_a_reservation_that_nobody_settles_lapses(limits: Limits, redis: Any) -> None:
    await limits.reserve([Draw(_budget(), 1.0)], hold_s=0.2)
    with pytest.raises(BudgetExhausted):
        await limits.reserve([Draw(_budget(), 0.5)], HOLD_S)
    await asyncio.sleep(0.25)
    await limits.reserve([Draw(_budget(), 0.5)], HOLD_S)
    assert (await _used(redis, _budget()))["held"] == 0.5


async def test_tokens_are_settled_and_requests_stay_counted(limits: Limits) -> None:
    tokens, requests = _rate(100, "tokens"), _rate(2)
    for _ in range(2):
        (await limits.reserve([Draw(tokens, 90), Draw(requests, 1)], HOLD_S)).settle([5, 0])
        await limits.flush()
    with pytest.raises(LimitReached) as caught:
        await limits.reserve([Draw(tokens, 1), Draw(requests, 1)], HOLD_S)
    assert "requests a minute" in caught.value.detail


async def test_a_month_that_redis_forgot_is_read_from_the_ledger(
    limits: Limits, redis: Any, ledger: Ledger
) -> None:
    await _spend(limits, _budget(), 0.6)
    ledger.entries.append((time.time() - 1, 0.6))
    await redis.flushall()
    asked = ledger.asked
    with pytest.raises(BudgetExhausted):
        await limits.reserve([Draw(_budget(), 0.5)], HOLD_S)
    assert ledger.asked == asked + 1
    await limits.reserve([Draw(_budget(), 0.3)], HOLD_S)
    assert ledger.asked == asked + 1


async def test_without_the_ledger_a_budget_begins_at_nothing_and_is_put_right_later(
    limits: Limits, redis: Any, ledger: Ledger
) -> None:
    ledger.entries.append((time.time() - 3_600, 0.9))
    ledger.away = True
    await limits.reserve([Draw(_budget(), 0.5)], HOLD_S)
    ledger.away = False
    await limits.reconcile(_budget())
    assert (await _used(redis, _budget()))["base"] == 0.9


async def test_a_reconciled_month_counts_everything_once(limits: Limits, redis: Any, ledger: Ledger) -> None:
    bucket = _budget(100.0)
    await _spend(limits, bucket, 1.0)
    minute = int(time.time() // 60)
    old = minute - 20
    # 2.0 were settled 20 minutes ago, and are in the ledger as 2.5: that is what they cost.
    await redis.hset(bucket.keys[0], mapping={"loaded": str(old - 1), f"m:{old}": "2.0"})
    await redis.hincrbyfloat(bucket.keys[0], "spent", 2.0)
    ledger.entries += [(old * 60 + 1.0, 2.5), (time.time(), 1.0)]
    await limits.reconcile(bucket)
    assert await _used(redis, bucket) == {"base": 2.5, "spent": 1.0, "held": 0}
    await limits.reconcile(bucket)
    assert await _used(redis, bucket) == {"base": 2.5, "spent": 1.0, "held": 0}


async def test_what_the_first_look_at_the_ledger_saw_is_not_taken_away_again(
    limits: Limits, redis: Any, ledger: Ledger
) -> None:
    ledger.entries.append((time.time() - 30, 0.4))  # more recent than the reconciliation looks
    await limits.reserve([Draw(_budget(), 0.1)], HOLD_S)
    await limits.reconcile(_budget())
    assert (await _used(redis, _budget()))["base"] == 0.4


async def test_a_new_month_begins_at_nothing_and_does_not_give_way_to_the_old(
    limits: Limits, redis: Any
) -> None:
    await _spend(limits, _budget(), 0.9)
    late = await limits.reserve([Draw(_budget(), 0.05)], HOLD_S)
    await redis.hset(_budget().keys[0], "period", "2020-01")
    await limits.reserve([Draw(_budget(), 0.8)], HOLD_S)
    assert (await _used(redis, _budget()))["spent"] == 0
    await redis.hset(_budget().keys[0], "period", "2999-01")
    late.settle([0.05])
    await limits.flush()
    assert (await redis.hget(_budget().keys[0], "period")) == b"2999-01"
    assert (await _used(redis, _budget()))["spent"] == 0


async def test_each_threshold_is_told_once_however_many_gateways_there_are(
    limits: Limits, valkey: Valkey, ledger: Ledger
) -> None:
    guard = RedisGuard(valkey.url, timeout_s=1.0)
    other = Limits(guard, ledger)
    with capture_logs() as logs:
        for n in range(10):
            await _spend((limits, other)[n % 2], _budget(), 0.1)
    await guard.close()
    alerts = [line["percent"] for line in logs if line["event"] == "budget_alert"]
    assert alerts == [50, 80, 100]
    labels = {"bucket": "feature:f"}
    assert REGISTRY.get_sample_value("trivium_budget_used_ratio", labels) == pytest.approx(1.0)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_without_redis_each_gateway_admits_its_share_and_settles_it_later(
    tmp_path: Path, ledger: Ledger, fault: str
) -> None:
    bucket, rate = _budget(10.0), _rate(50)
    with Valkey(tmp_path) as valkey:
        guard = RedisGuard(valkey.url)
        limits = Limits(guard, ledger)
        await limits.reserve([Draw(bucket, 0.001)], HOLD_S)
        os.kill(valkey.pid, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        try:
            started = time.monotonic()
            wanted = [Draw(bucket, 0.1), Draw(rate, 1)]
            admitted = [await limits.reserve(wanted, HOLD_S) for _ in range(int(LOCAL_SHARE * 50))]
            with pytest.raises(LimitReached, match="this gateway's share"):
                await limits.reserve(wanted, HOLD_S)
            assert time.monotonic() - started < 5
            for one in admitted:
                one.settle([0.05, 0])
            await limits.flush()
        finally:
            if fault == "frozen":
                os.kill(valkey.pid, signal.SIGCONT)
            else:
                valkey.kill()
                valkey.start()
        client: Any = Redis.from_url(valkey.url)
        async with asyncio.timeout(10):
            while (await _used(client, bucket))["spent"] < 0.25:
                await limits.flush()
                await asyncio.sleep(0.1)
        assert (await _used(client, bucket))["spent"] == 0.25
        assert (await _used(client, rate))["spent"] in (5, 0)  # the minute may have ended
        await limits.reserve([Draw(bucket, 0.1)], HOLD_S)
        assert not (await limits.reserve([Draw(bucket, 0.1)], HOLD_S))._local
        await client.aclose()
        await guard.close()


async def test_a_limit_smaller_than_its_share_still_admits_one(ledger: Ledger) -> None:
    guard = RedisGuard("redis://127.0.0.1:9")
    limits = Limits(guard, ledger)
    await limits.reserve([Draw(_rate(3), 1)], HOLD_S)
    with pytest.raises(LimitReached):
        await limits.reserve([Draw(_rate(3), 1)], HOLD_S)
    await guard.close()
