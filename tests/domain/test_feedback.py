from dataclasses import replace

import pytest

from trivium.domain.feedback import OVERRIDES, WITH_VALUE, Feedback, Kind

CORRECTION = Feedback(
    id="f-1",
    inference_id="i-1",
    key_id="k-1",
    idempotency_key="once",
    kind=Kind.CORRECTION,
    value={"label": "card_arrival"},
    occurred_at=10.0,
    received_at=11.0,
)


def test_the_kinds_are_those_of_the_design() -> None:
    assert {str(kind) for kind in Kind} == {
        "shown",
        "accepted",
        "edited",
        "dismissed",
        "thumbs_up",
        "thumbs_down",
        "correction",
    }


def test_an_edit_a_dismissal_a_thumbs_down_and_a_correction_are_overrides() -> None:
    assert {"edited", "dismissed", "thumbs_down", "correction"} == OVERRIDES


def test_an_edit_and_a_correction_bring_the_right_output() -> None:
    assert {"edited", "correction"} == WITH_VALUE


def test_a_repeat_is_the_same_event_whenever_it_arrives() -> None:
    assert CORRECTION.same_event(replace(CORRECTION, id="f-2", occurred_at=12.0, received_at=90.0))


@pytest.mark.parametrize(
    "other",
    [
        replace(CORRECTION, inference_id="i-2"),
        replace(CORRECTION, kind=Kind.EDITED),
        replace(CORRECTION, value={"label": "change_pin"}),
        replace(CORRECTION, value=None),
    ],
    ids=["inference", "kind", "value", "no value"],
)
def test_a_key_that_is_used_again_for_something_else_is_another_event(other: Feedback) -> None:
    assert not CORRECTION.same_event(other)
