import inspect
import re
from collections import Counter

import pytest

from trivium import errors
from trivium.errors import FieldFault, StepError, TriviumError

_LINE = re.compile(
    r"^(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+) +(?P<status>\d{3})  (?P<code>[a-z_]+)", re.MULTILINE
)
_CLASSES = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, TriviumError) and member.__module__ == errors.__name__
]


def _drawn() -> dict[str, tuple[str, int, str]]:
    """What the docstring draws: the parent, status and code of every name."""
    drawn: dict[str, tuple[str, int, str]] = {}
    above: list[str] = []
    for line in _LINE.finditer(errors.__doc__ or ""):
        depth = len(line["branch"]) // 4
        above[depth:] = [line["name"]]
        parent = above[depth - 1] if depth else "Exception"
        assert line["name"] not in drawn
        drawn[line["name"]] = (parent, int(line["status"]), line["code"])
    return drawn


def test_every_class_stands_in_the_drawn_tree_with_its_parent_status_and_code() -> None:
    built = {cls.__name__: (cls.__bases__[0].__name__, cls.status, cls.code) for cls in _CLASSES}
    assert built == _drawn()


def test_codes_are_unique() -> None:
    assert [code for code, uses in Counter(cls.code for cls in _CLASSES).items() if uses > 1] == []


def test_every_class_names_its_own_code_and_title() -> None:
    for cls in _CLASSES:
        assert {"code", "title"} <= vars(cls).keys(), cls.__name__


def test_an_error_carries_what_is_told_of_it() -> None:
    fault = FieldFault("input.text", "is too long", "x" * 3)
    error = errors.RateLimited("slow down", errors=(fault,), retry_after_s=1.5)
    assert (str(error), error.detail, error.errors, error.retry_after_s) == (
        "slow down",
        "slow down",
        (fault,),
        1.5,
    )
    assert error.usage is None


@pytest.mark.parametrize("cls", [cls for cls in _CLASSES if issubclass(cls, StepError)])
def test_only_what_the_target_may_do_better_next_time_is_retried(cls: type[StepError]) -> None:
    retryable = {"rate_limited", "overloaded", "connection", "provider_error"}
    assert cls.retryable is (cls.code in retryable)


@pytest.mark.parametrize("cls", [cls for cls in _CLASSES if issubclass(cls, StepError)])
def test_the_breaker_counts_failures_of_the_target_and_not_of_the_question(cls: type[StepError]) -> None:
    failures = {"timeout", "rate_limited", "overloaded", "connection", "provider_error", "access_denied"}
    assert cls.counts is (cls.code in failures)
