"""Services that run as they ship, to be attacked over loopback."""

import asyncio
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import yaml

from support.edge import KEY, RunningEdge, free_port
from support.platform import clean_environment
from support.valkey import Valkey
from support.vendor import Vendor
from trivium.store.engine import Database, migrate
from trivium.store.keys import SCOPES, KeyRepository

START_S = 60
MANIFEST = """
feature: {name}
owner: tests
assessment: {{problem: p, data: d, acceptable_error_rate: 0.1, when_wrong: w}}
success_metric: {{name: m, direction: down}}
input: {{type: object, properties: {{text: {{type: string}}, secret: {{type: string, x-sensitive: true}}}}}}
output: {{type: object, required: [label], properties: {{label: {{type: string, minLength: 1}}}}}}
deadline_ms: 3000
variants:
  edge-v1: {{pattern: edge, model: ticket-triage}}
  llm-v1: {{pattern: api, prompt: prompt.md, models: [route/chat], retries: 0, cache_s: 60}}
  stored-v1:
    pattern: precomputed
    archive: inbox
    compute: {{template: {{label: {{$input: text}}}}}}
serve: {serve}
fallback: [{{static: {{label: nothing}}}}]
rollout: {{flag: "{name}"}}
evaluation: {{dataset: golden.jsonl}}
budget: {{monthly_usd: 1000}}
example: {{entity_key: M-1, input: {{text: hello}}}}
"""
FEATURES = {"open": "edge-v1", "stored": "stored-v1", "echo": "llm-v1"}


@dataclass
class Running:
    """A service in a process of its own."""

    url: str
    key: str
    log: Path
    folder: Path
    database_url: str = ""
    worker_url: str = ""

    def new_key(self, *scopes: str) -> str:
        """The secret of another key."""
        secret = _prepared(self.database_url, scopes)
        until = time.monotonic() + 10
        # So many wrong keys a second are not looked up at all: then it counts from the next refresh on.
        while self.call("/v1/features", key=secret)[0] == 401:
            assert time.monotonic() < until
            time.sleep(0.2)
        return secret

    def call(
        self, path: str, body: Any = None, key: str | None = "", raw: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and body of one call; `key=None` sends none."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key or self.key}"
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, sent), timeout=30
            ) as answer:
                return answer.status, _read(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _read(error)


class Bait:
    """An HTTP server that notes who asks it for what; below /exports/redirect it sends callers elsewhere."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        noted = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                noted.append(self.path)
                moved = self.path.startswith("/exports/redirect")
                body = b"" if moved else b'{"id": "S-1", "text": "from the bait"}\n'
                self.send_response(302 if moved else 200)
                self.send_header("Location", "/secret/latest.jsonl")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _read(answer: Any) -> Any:
    raw = answer.read()
    return json.loads(raw) if "json" in answer.headers.get("Content-Type", "") else raw.decode()


def write_features(folder: Path) -> Path:
    """A feature of each pattern, whose input is free."""
    for name, serve in FEATURES.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "feature.yaml").write_text(MANIFEST.format(name=name, serve=serve))
        (folder / name / "golden.jsonl").write_text("{}\n")
        (folder / name / "prompt.md").write_text("## user\n<message>\n{{ text }}\n</message>\n")
    return folder


def _prepared(url: str, scopes: Sequence[str] = SCOPES) -> str:
    async def prepare() -> str:
        database = Database(url)
        await migrate(database)
        _, secret = await KeyRepository(database).create("attacker", list(scopes))
        await database.close()
        return secret

    return asyncio.run(prepare())


@contextmanager
def started(module: str, url: str, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A service in a process of its own, ready, until the end of the block."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**clean_environment(), **environment},
            stdout=stream,
            stderr=stream,
        )
    try:
        _wait(process, url + "/health/ready", log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(log.read_text()[-3000:])


@contextmanager
def running_gateway(
    folder: Path, database_url: str, edge: RunningEdge, vendor: Vendor, **settings: str
) -> Iterator[Running]:
    """A gateway and a worker on a real Valkey, the edge model and a provider."""
    features = write_features(folder / "features")
    target = {"provider": "openai", "model": "m"}
    urls = {"chat": vendor.openai_url, "away": "http://127.0.0.1:9/v1"}
    routes = {name: {"targets": [{**target, "base_url": url}]} for name, url in urls.items()}
    (folder / "routes.yaml").write_text(yaml.safe_dump({"routes": routes}))
    flags = [{"name": name, "enabled": True, "strategies": [{"name": "default"}]} for name in FEATURES]
    (folder / "flags.json").write_text(json.dumps({"version": 1, "features": flags}))
    (folder / "valkey").mkdir()
    port, worker_port = free_port(), free_port()
    with Valkey(folder / "valkey") as valkey:
        environment = {
            "TRIVIUM_SERVICE_KEY": KEY,
            "TRIVIUM_STATE_DIR": str(folder / "state"),
            "TRIVIUM_FEATURES_DIR": str(features),
            "TRIVIUM_ROUTES_FILE": str(folder / "routes.yaml"),
            "TRIVIUM_FLAGS_FILE": str(folder / "flags.json"),
            "TRIVIUM_DATABASE_URL": database_url,
            "TRIVIUM_REDIS_URL": valkey.url,
            "TRIVIUM_EDGE_URL": f"http://127.0.0.1:{edge.port}",
            "TRIVIUM_OPENAI_API_KEY": vendor.key,
            "TRIVIUM_GATEWAY_PORT": str(port),
            "TRIVIUM_WORKER_PORT": str(worker_port),
            "TRIVIUM_AUTH_GUESSES_PER_MINUTE": "0",
            **settings,
        }
        (folder / "state").mkdir(exist_ok=True)
        key = _prepared(database_url)
        url, worker_url = (f"http://127.0.0.1:{one}" for one in (port, worker_port))
        made = Running(url, key, folder / "gateway.log", folder, database_url, worker_url)
        with (
            started("batch_worker", worker_url, folder / "worker.log", environment),
            started("gateway", made.url, made.log, environment),
        ):
            yield made
