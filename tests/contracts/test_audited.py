"""Every administrative act is audited: each command and each endpoint is, or says here why it is not."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from fastapi import FastAPI

import gateway.routes.audited as http
from batch_worker.app import create_app as worker_app
from edge_model.app import create_app as edge_app
from gateway.app import create_app as gateway_app
from trivium.cli.audited import MARK
from trivium.cli.main import app

READS = "reads, and changes nothing"
EXEMPT_COMMANDS = {
    "audit": READS,
    "compare": "measures; what it finds is shown and not stored",
    "costs": READS,
    "dataset list": READS,
    "dataset show": READS,
    "db check": READS,
    "db current": READS,
    "edge-cases": READS,
    "eval": "measures; the evaluation that it stores says of itself what it was made from",
    "features check": READS,
    "features schema": READS,
    "judge check": READS,
    "keys list": READS,
    "load": "sends traffic with a key, as any caller does",
    "prompt list": READS,
    "prompt render": READS,
    "results list": READS,
    "smoke": "sends traffic with a key, as any caller does",
    "status": READS,
    "up": "starts the platform on one's own machine; the key that it makes is audited where it is made",
    "variant list": READS,
}
EXEMPT_ENDPOINTS = {
    ("gateway", "POST", "/v1/chat/completions"): "traffic",
    ("gateway", "POST", "/v1/features/{feature}/infer"): "traffic",
    ("gateway", "POST", "/v1/features/{feature}/results:batchGet"): "reads",
    ("gateway", "POST", "/v1/feedback"): "traffic",
    ("edge", "POST", "/v2/models/{model}/infer"): "traffic",
    ("edge", "POST", "/v2/models/{model}/versions/{version}/infer"): "traffic",
    ("edge", "POST", "/v2/repository/index"): "reads",
}
SAFE = {"GET", "HEAD", "OPTIONS"}


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command with what it runs."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, *path, name)
    else:
        yield " ".join(path), command.callback


def unaccounted_commands(typer_app: typer.Typer, exempt: dict[str, str]) -> list[str]:
    """Commands that are neither audited nor exempt, exempt ones that are audited, and those that are gone."""
    found = dict(commands(typer.main.get_command(typer_app)))
    faults = [f"{name}: exempt, but there is no such command" for name in exempt if name not in found]
    for name, callback in found.items():
        if hasattr(callback, MARK) == (name in exempt):
            faults.append(f"{name}: neither audited nor exempt" if name not in exempt else f"{name}: both")
    return faults


def endpoints(service: FastAPI) -> Iterator[tuple[str, str, Any, Any]]:
    """Method, path, function and route of all that may change something, what goes past the router too."""
    seen = set()
    for route in service.router.routes:
        inner: Any = getattr(route, "effective_route_contexts", None)
        served: list[Any] = list(inner()) if inner else [route]
        for found in served:
            for method in sorted(set(found.methods or ()) - SAFE):
                seen.add((method, found.path))
                yield method, found.path, getattr(found, "endpoint", None), found
    for path, operations in service.openapi()["paths"].items():
        for method in operations:
            if method.upper() not in SAFE and (method.upper(), path) not in seen:
                yield method.upper(), path, None, None


def unaccounted_endpoints(name: str, service: FastAPI, exempt: dict[tuple[str, str, str], str]) -> list[str]:
    """The same of endpoints."""
    found = {(name, method, path): endpoint for method, path, endpoint, _ in endpoints(service)}
    gone = [place for place in exempt if place[0] == name and place not in found]
    faults = [f"{place}: exempt, but there is no such endpoint" for place in gone]
    for place, endpoint in found.items():
        if hasattr(endpoint, http.MARK) == (place in exempt):
            faults.append(f"{place}: neither audited nor exempt" if place not in exempt else f"{place}: both")
    return faults


def test_every_command_is_audited_or_says_why_not() -> None:
    assert not unaccounted_commands(app, EXEMPT_COMMANDS)
    assert len(list(commands(typer.main.get_command(app)))) > 30


@pytest.mark.parametrize(
    ("name", "create"), [("gateway", gateway_app), ("edge", edge_app), ("worker", worker_app)]
)
def test_every_endpoint_that_changes_something_is_audited_or_says_why_not(name: str, create: Any) -> None:
    assert not unaccounted_endpoints(name, create(), EXEMPT_ENDPOINTS)


def test_an_audited_endpoint_stands_on_a_route_that_audits() -> None:
    audited = [one for one in endpoints(gateway_app()) if hasattr(one[2], http.MARK)]
    assert {getattr(one[2], http.MARK) for one in audited} == {"runs.start", "runs.cancel", "runs.replay"}
    for _, path, _, route in audited:
        own = getattr(route, "original_route", route)
        assert isinstance(own, http.AuditedRoute), path


def test_a_new_command_and_a_new_endpoint_are_noticed() -> None:
    own = typer.Typer()

    @own.command("read")
    def read() -> None: ...

    @own.command("destroy")
    def destroy() -> None: ...

    assert unaccounted_commands(own, {"read": READS}) == ["destroy: neither audited nor exempt"]
    assert unaccounted_commands(own, {"read": READS, "destroy": READS, "x": READS}) == [
        "x: exempt, but there is no such command"
    ]
    service = FastAPI()
    service.delete("/v1/all")(destroy)
    assert len(unaccounted_endpoints("gateway", service, {})) == 1


def test_actions_are_named_by_kind_and_deed() -> None:
    actions: set[str] = set()
    for _, callback in commands(typer.main.get_command(app)):
        actions.update(getattr(callback, MARK, ()))
    assert {"keys.create", "keys.rotate", "keys.revoke", "variant.promote", "rollout.roll_back"} <= actions
    for action in actions:
        kind, _, deed = action.partition(".")
        assert kind.isidentifier() and deed.isidentifier(), action
