"""Writes docs/reference.md, docs/openapi/*.json and docs/*.schema.json from the code (`make docs`)."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from typer.main import get_command

import trivium.metrics
from batch_worker.app import create_app as worker_app
from batch_worker.settings import WorkerSettings
from edge_model.app import create_app as edge_app
from edge_model.settings import EdgeSettings
from gateway.app import create_app as gateway_app
from gateway.settings import GatewaySettings
from trivium import errors
from trivium.cli.main import app as command_line
from trivium.domain.manifest import manifest_schema
from trivium.domain.route import routes_schema
from trivium.settings import Settings, StoreSettings

DOCS = Path(__file__).parents[1] / "docs"


def build() -> dict[str, str]:
    """Every generated document by its path below docs/."""
    apps = {"gateway": gateway_app(), "edge-model": edge_app(), "batch-worker": worker_app()}
    apis = {name: app.openapi() for name, app in apps.items()}
    documents = {f"openapi/{name}.json": _json(api) for name, api in apis.items()}
    documents["feature.schema.json"] = _json(manifest_schema())
    documents["routes.schema.json"] = _json(routes_schema())
    documents["reference.md"] = "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `make docs`; a test fails when it is out of date.",
            "",
            *_endpoints(apis),
            *_errors(),
            *_settings(),
            *_metrics(),
            *_commands(),
        ]
    )
    return documents


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _endpoints(apis: dict[str, Any]) -> list[str]:
    lines = ["## Endpoints", ""]
    for name, api in apis.items():
        lines += [f"### {name}", "", "| endpoint | |", "| --- | --- |"]
        for path, methods in api["paths"].items():
            for method, operation in methods.items():
                lines.append(f"| `{method.upper()} {path}` | {_cell(operation.get('description', ''))} |")
        lines += [""]
    own = "Every service also has `/health/live` and `/health/ready` (open), `/metrics`, `/docs` and"
    return [*lines, f"{own} `/openapi.json` (with a key). The full schemas are in [openapi/](openapi/).", ""]


def _errors() -> list[str]:
    found = {c.code: c for c in vars(errors).values() if _is_error(c)}
    lines = ["## Errors", "", "| code | status | |", "| --- | --- | --- |"]
    rows = [f"| `{code}` | {kind.status} | {_cell(kind.__doc__ or '')} |" for code, kind in found.items()]
    return [*lines, *sorted(rows), ""]


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, errors.TriviumError)


def _settings() -> list[str]:
    lines = ["## Settings", ""]
    seen: set[str] = set()
    for title, kind in (
        ("All services", Settings),
        ("With the database, Redis and the edge model", StoreSettings),
        ("Gateway", GatewaySettings),
        ("Batch worker", WorkerSettings),
        ("Edge model", EdgeSettings),
    ):
        lines += [f"### {title}", "", "| variable | default | |", "| --- | --- | --- |"]
        for name, field in kind.model_fields.items():
            if name not in seen:
                seen.add(name)
                default = "" if field.default is None else f"`{_default(field.default)}`"
                lines.append(f"| `TRIVIUM_{name.upper()}` | {default} | {_cell(field.description or '')} |")
        lines += [""]
    return lines


def _default(value: Any) -> str:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)


def _metrics() -> list[str]:
    lines = ["## Metrics", "", "| name | kind | labels | |", "| --- | --- | --- | --- |"]
    for metric in vars(trivium.metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            kind = type(metric).__name__.lower()
            suffix = "_total" if kind == "counter" else ""
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            lines.append(f"| `{metric._name}{suffix}` | {kind} | {labels} | {_cell(metric._documentation)} |")
    return [*lines, ""]


def _commands() -> list[str]:
    lines = ["## Commands", "", "| command | |", "| --- | --- |"]
    lines += [f"| `{words}` | {_cell(told)} |" for words, told in _walk("trivium", get_command(command_line))]
    return [*lines, ""]


def _walk(words: str, command: Any) -> Iterator[tuple[str, str]]:
    """Every command that does something, with what its help says first."""
    inner = getattr(command, "commands", {})
    if not inner or command.invoke_without_command:
        yield words, inspect.cleandoc(command.help or "")
    for name, one in inner.items():
        yield from _walk(f"{words} {name}", one)


def _cell(text: str) -> str:
    first = text.strip().split("\n\n")[0]
    return re.sub(r"\s+", " ", first).replace("|", "\\|").strip()


if __name__ == "__main__":
    for path, text in build().items():
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")
