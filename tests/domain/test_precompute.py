from typing import Any, get_args

import pytest

from trivium.domain.precompute import (
    ENDED,
    PHASES,
    Batch,
    Dead,
    Item,
    Judged,
    Result,
    RunState,
    Standing,
    stale_reason,
)

HOLDS = {
    "stored_hash": "h",
    "current_hash": "h",
    "stored_version": "v",
    "current_version": "v",
    "age_s": 10.0,
    "max_age_s": 60.0,
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"age_s": 0.0}, None),
        ({"age_s": 60.0}, None),
        ({"age_s": -5.0}, None),
        ({"age_s": 60.1}, "age"),
        ({"current_version": "w"}, "variant"),
        ({"current_hash": "i"}, "input"),
        ({"current_hash": None}, "input"),
        ({"current_version": "w", "age_s": 61.0}, "variant"),
        ({"current_hash": "i", "age_s": 61.0}, "input"),
        ({"current_hash": "i", "current_version": "w"}, "input"),
        ({"current_hash": "i", "current_version": "w", "age_s": 61.0}, "input"),
    ],
    ids=[
        "nothing changed",
        "just computed",
        "as old as it may be",
        "a clock that went back",
        "too old",
        "another version",
        "another input",
        "no entity any more",
        "version before age",
        "input before age",
        "input before version",
        "input before all",
    ],
)
def test_a_result_is_stale_for_the_gravest_reason(changes: dict[str, Any], reason: str | None) -> None:
    assert stale_reason(**{**HOLDS, **changes}) == reason


@pytest.mark.parametrize(
    ("judged", "served", "refresh"),
    [
        (Judged("fresh"), True, None),
        (Judged("stale", "input"), True, "input"),
        (Judged("stale", "variant"), True, "variant"),
        (Judged("stale", "age"), True, "age"),
        (Judged("expired", "input"), False, "age"),
        (Judged("missing"), False, "missing"),
        (Judged("unknown"), False, None),
    ],
)
def test_a_standing_says_what_is_served_and_what_computed_anew(
    judged: Judged, served: bool, refresh: str | None
) -> None:
    assert (judged.served, judged.refresh) == (served, refresh)


def test_every_standing_is_decided_upon() -> None:
    assert {standing for standing in get_args(Standing) if Judged(standing).served} == {"fresh", "stale"}


def test_a_batch_counts_errors_but_no_abstentions_and_what_is_known_to_have_been_spent() -> None:
    item = Item("k", {}, "h")
    batch = Batch(
        results=[Result(item, {}, cost_usd=0.5), Result(item, {}, cost_usd=None), Result(item, {})],
        dead=[
            Dead("a", None, "refused", "no", cost_usd=0.25),
            Dead("b", None, "low_confidence", "no", abstained=True, cost_usd=None),
        ],
        spent_usd=1.0,
    )
    assert (batch.failed, batch.cost_usd) == (1, 1.75)
    assert (Batch().failed, Batch().cost_usd) == (0, 0.0)


def test_states_and_phases_are_those_of_the_tables() -> None:
    assert set(ENDED) == set(get_args(RunState)) - {"queued", "running"}
    assert PHASES == ("import", "embed", "select", "compute")
