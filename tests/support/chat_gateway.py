"""A gateway in this process, on a socket and an SQLite database, in front of routes that a test writes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
import yaml
from fastapi import FastAPI
from sqlalchemy import select

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from support.databases import make_sqlite
from support.edge import free_port
from trivium.store.engine import Database
from trivium.store.keys import KeyRepository
from trivium.store.tables import attempt, inference

FEATURE = """
feature: echo
owner: tests
assessment: {problem: p, data: d, acceptable_error_rate: 0.1, when_wrong: w}
success_metric: {name: m, direction: down}
input: {type: object, required: [text], properties: {text: {type: string}}}
output: {type: object, required: [label], properties: {label: {type: string}}}
deadline_ms: 3000
variants:
  llm-v1: {pattern: api, prompt: prompt.md, models: [route/label], retries: 0}
serve: llm-v1
fallback: [{static: {label: nothing}}]
rollout: {flag: echo}
evaluation: {dataset: golden.jsonl}
budget: {monthly_usd: 1000}
example: {input: {text: hello}}
"""
LABEL = {"route/label": {"targets": [{"provider": "local", "model": "label"}]}}
"""The route of the feature's own prompt, where a test writes no other."""
FLAGS = {"version": 1, "features": [{"name": "echo", "enabled": True, "strategies": [{"name": "default"}]}]}


@dataclass
class ChatGateway:
    """It runs; `session` has its key."""

    app: FastAPI
    url: str
    secret: str
    session: aiohttp.ClientSession
    database: Database
    routes_file: Path

    @property
    def state(self) -> GatewayState:
        """What it holds."""
        state: GatewayState = self.app.state.gateway
        return state

    def write(self, routes: dict[str, Any]) -> None:
        """Writes the routes' file."""
        self.routes_file.write_text(yaml.safe_dump({"routes": {**LABEL, **routes}}))

    def ask(self, model: str, text: str = "hi", **more: Any) -> Any:
        """One request, as aiohttp's context manager; `headers` may be among `more`."""
        headers = more.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    async def said(self, model: str, **more: Any) -> tuple[int, str, dict[str, Any]]:
        """Status, content and whole body of a buffered answer."""
        async with self.ask(model, **more) as response:
            body = await response.json()
            content = body["choices"][0]["message"]["content"] if response.status == 200 else ""
            return response.status, content, body

    async def streamed(self, model: str, **more: Any) -> "Streamed":
        """A streamed answer, to its end."""
        async with self.ask(model, stream=True, **more) as response:
            raw = (await response.read()).decode()
            return Streamed(response.status, dict(response.headers), raw)

    async def inferences(self) -> list[dict[str, Any]]:
        """What the ledger holds, in order, once all of it is stored."""
        return await self._rows(select(inference).order_by(inference.c.id))

    async def attempts(self, inference_id: str | None = None) -> list[dict[str, Any]]:
        """The attempts of one inference, or of all, in order."""
        wanted = select(attempt).order_by(attempt.c.inference_id, attempt.c.number)
        return await self._rows(
            wanted.where(attempt.c.inference_id == inference_id) if inference_id else wanted
        )

    async def _rows(self, statement: Any) -> list[dict[str, Any]]:
        await self.state.recorder.flush()
        async with self.database.transaction() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]


@dataclass
class Streamed:
    """A stream as its caller saw it."""

    status: int
    headers: dict[str, str]
    raw: str

    @property
    def events(self) -> list[Any]:
        """The data of its events; `[DONE]` as text."""
        found = [block.removeprefix("data: ") for block in self.raw.strip().split("\n\n") if block]
        return [one if one == "[DONE]" else json.loads(one) for one in found]

    @property
    def text(self) -> str:
        """What it said."""
        choices = [choice for e in self.events if isinstance(e, dict) for choice in e.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def finish(self) -> str | None:
        """Its finish reason; None if it was never finished."""
        choices = [choice for e in self.events if isinstance(e, dict) for choice in e.get("choices", ())]
        return next((c["finish_reason"] for c in choices if c.get("finish_reason")), None)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error event at its end."""
        return next((e["error"] for e in self.events if isinstance(e, dict) and "error" in e), None)

    @property
    def complete(self) -> bool:
        """Whether it ended as a whole answer does."""
        return self.finish is not None and self.events[-1] == "[DONE]" and self.error is None


@asynccontextmanager
async def chat_gateway(
    folder: Path, routes: dict[str, Any], feature: str = FEATURE, **settings: Any
) -> AsyncIterator[ChatGateway]:
    """Starts one."""
    features = folder / "features/echo"
    features.mkdir(parents=True)
    (features / "feature.yaml").write_text(feature)
    (features / "golden.jsonl").write_text("{}\n")
    (features / "prompt.md").write_text("## user\n{{ text }}\n")
    (folder / "flags.json").write_text(json.dumps(FLAGS))
    routes_file = folder / "routes.yaml"
    routes_file.write_text(yaml.safe_dump({"routes": {**LABEL, **routes}}))
    database = Database(await make_sqlite(folder / "trivium.db"))
    _, secret = await KeyRepository(database).create("tests", ["infer", "feedback"])
    port = free_port()
    chosen = GatewaySettings(
        state_dir=folder / "state",
        database_url=database.url.render_as_string(hide_password=False),
        features_dir=folder / "features",
        flags_file=folder / "flags.json",
        routes_file=routes_file,
        gateway_port=port,
        **settings,
    )
    app = create_app(chosen)
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_config=None, ws="none", lifespan="on", proxy_headers=False)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if serving.done():
            await serving
            raise RuntimeError("the gateway did not start")
    headers = {"Authorization": f"Bearer {secret}"}
    try:
        async with aiohttp.ClientSession(headers=headers) as session:
            yield ChatGateway(app, f"http://127.0.0.1:{port}", secret, session, database, routes_file)
    finally:
        server.should_exit = True
        await serving
        await database.close()
