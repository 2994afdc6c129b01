"""What a gateway counts of its answers' quality: how sure they are, and what was stale."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

STORED = {"feature": "intents", "variant": "stored-v1"}


def _shown(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {**STORED, **labels}) or 0.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"input_hash": "other"}, "input"), ({"variant_version": "old"}, "variant"), ({"age_s": 100}, "age")],
)
async def test_a_stale_answer_is_counted_by_its_reason(
    gateway: Any, worker: Any, change: dict[str, Any], reason: str
) -> None:
    await worker.compute("M-1")
    before = _shown("trivium_stale_answers_total", reason=reason)
    assert not (await gateway.infer("M-1")).json()["stale"]
    assert _shown("trivium_stale_answers_total", reason=reason) == before
    await worker.change("M-1", **change)
    assert (await gateway.infer("M-1")).json()["stale_reason"] == reason
    assert _shown("trivium_stale_answers_total", reason=reason) == before + 1


async def test_confidence_is_that_of_answers_and_of_nothing_else(gateway: Any, worker: Any) -> None:
    await worker.compute("M-1")
    counted, summed = _shown("trivium_confidence_count"), _shown("trivium_confidence_sum")
    await gateway.infer("M-1")
    assert _shown("trivium_confidence_count") == counted + 1
    assert _shown("trivium_confidence_sum") == pytest.approx(summed + 0.9)
    await gateway.infer("M-1", subject={"id": "nobody"})  # control
    await gateway.infer("M-absent", "hello")  # a placeholder
    assert _shown("trivium_confidence_count") == counted + 1
    assert REGISTRY.get_sample_value(
        "trivium_confidence_count", {"feature": "intents", "variant": "static"}
    ) in (None, 0.0)


async def test_what_runs_says_its_version(gateway: Any) -> None:
    from importlib.metadata import version

    labels = {"version": version("trivium")}
    assert REGISTRY.get_sample_value("trivium_build_info", labels) == 1
