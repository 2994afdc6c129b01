"""`routes.yaml`: what it may say, and how it says what is wrong."""

import random
from collections import Counter

import pytest

from trivium.domain.route import Routes, parse_routes, version_of
from trivium.errors import ManifestError

TARGET = "{provider: openai, model: m}"


def _parsed(text: str) -> Routes:
    return parse_routes(text, "routes.yaml")


def test_a_route_has_a_name_with_and_without_its_prefix() -> None:
    for name in ("chat", "route/chat"):
        routes = _parsed(f"routes: {{{name}: {{targets: [{TARGET}]}}}}")
        found = routes.find("route/chat")
        assert found
        assert found[0] == "route/chat"
        assert routes.find("chat") is None


def test_a_pattern_serves_names_with_and_without_the_prefix() -> None:
    routes = _parsed("routes: {any: {match: 'fb-*', targets: [{provider: local}]}}")
    for asked in ("fb-500", "route/fb-500"):
        found = routes.find(asked)
        assert found
        assert found[0] == "route/any"
    assert routes.find("gpt-4") is None
    assert routes.routes["route/any"].targets[0].model_for("fb-500") == "fb-500"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("routes: {r: {targets: []}}", "routes.yaml:1: routes.r.targets: "),
        (
            "routes:\n  r:\n    targets:\n      - {provider: openai}",
            "routes.route/r.targets.0.model: is missing",
        ),
        (f"routes:\n  r:\n    targetz: [{TARGET}]", "routes.r.targetz: is not a key of the format"),
        (
            "routes:\n  r:\n    targets:\n      - {provider: aws, model: m}",
            "routes.yaml:4: routes.r.targets.0.provider",
        ),
        (f"routes: {{R S: {{targets: [{TARGET}]}}}}", "routes.R S"),
        (
            "routes: {r: {targets: [{provider: openai, model: m, timeouts: {total_s: -1}}]}}",
            "total_s: Input should be greater than 0, not -1",
        ),
        (
            "routes: {r: {targets: [{provider: openai, model: m, api_key_env: A, api_key_file: b}]}}",
            "give api_key_env or api_key_file, not both",
        ),
        (f"routes: {{r: {{targets: [{TARGET}]}}, route/r: {{targets: [{TARGET}]}}}}", "a name stands twice"),
        ("routes: [", "routes.yaml:1: not YAML"),
    ],
)
def test_a_fault_is_told_with_its_line_and_its_field(text: str, fault: str) -> None:
    with pytest.raises(ManifestError) as caught:
        _parsed(text)
    assert fault in caught.value.detail


def test_an_empty_file_has_no_routes() -> None:
    assert _parsed("").routes == {}


def test_weighted_targets_come_first_by_their_weights_and_each_comes_once() -> None:
    routes = _parsed(
        "routes: {r: {order: weighted, targets: ["
        "{provider: openai, model: a, weight: 3}, {provider: openai, model: b, weight: 1}]}}"
    )
    route = routes.routes["route/r"]
    draw = random.Random(7).random
    orders = [[str(t.model) for t in route.in_order(draw)] for _ in range(4_000)]
    assert all(sorted(order) == ["a", "b"] for order in orders)
    first = Counter(order[0] for order in orders)
    assert 0.72 < first["a"] / 4_000 < 0.78  # 4 standard errors about 3/4


def test_a_routes_version_is_that_of_its_content() -> None:
    one = _parsed(f"routes: {{r: {{targets: [{TARGET}]}}}}").routes["route/r"]
    same = _parsed(f"routes:\n  route/r:\n    targets: [{TARGET}]").routes["route/r"]
    other = _parsed("routes: {r: {targets: [{provider: openai, model: n}]}}").routes["route/r"]
    assert version_of(one) == version_of(same) != version_of(other)
