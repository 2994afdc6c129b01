"""A release that is installed on this machine: its hook ran, its pods run, its first results are computed."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from sqlalchemy import func, select

from support.charts import Manifest, find
from support.kubelet import Pod, running
from support.platform import ROOT
from support.pods import Cluster, containers_of
from support.traces import Collector, collecting
from support.valkey import Valkey
from support.vendor import Vendor
from trivium.features import find_feature
from trivium.precompute.starting import new_run, precomputed_variant
from trivium.store.engine import Database
from trivium.store.keys import KeyRepository
from trivium.store.runs import RunRepository
from trivium.store.tables import inference, precompute_chunk

UNLEASH_TOKEN = "token-of-unleash"
SUMMARY = '{"summary": "The customer wants the money back."}'


@dataclass
class Outside:
    """What a release reaches and does not bring; `addresses` says what stands for what."""

    addresses: dict[str, str]
    valkey: Valkey
    traces: Collector


@dataclass
class Release:
    """Its pods, by the ends of their names."""

    file: str
    cluster: Cluster
    pods: dict[str, Pod]
    database: Database
    traces: Collector

    @property
    def manifests(self) -> list[Manifest]:
        """Its objects."""
        return self.cluster.manifests

    def once(self, kind: str, name: str) -> "subprocess.CompletedProcess[str]":
        """Runs the container of a pod that ends."""
        _, (container,) = containers_of(self.cluster, find(self.manifests, kind, name))
        return container.run()

    def exec(self, name: str, *words: str) -> str:
        """`kubectl exec` in the main container of a pod; what it printed."""
        done = self.pods[name].main[0].container.run(list(words))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    async def key(self) -> str:
        """A new key that may infer."""
        _, secret = await KeyRepository(self.database).create("smoke", ["infer"])
        return secret

    async def compute(self, **where: Any) -> str:
        """Begins a run of the similar tickets; its id."""
        feature = find_feature(ROOT / "features", "similar-tickets")
        variant, _ = precomputed_variant(feature, None)
        run_id, _ = await RunRepository(self.database).start(new_run(feature, variant, where, force=True))
        return run_id

    async def ended(self, run_id: str) -> bool:
        """Whether a run has ended, and well."""
        now = await RunRepository(self.database).progress(run_id)
        assert now.state not in ("failed", "cancelled"), now
        return now.ended

    async def leased(self) -> int:
        """How many chunks some worker has."""
        async with self.database.transaction() as connection:
            counted = select(func.count()).where(precompute_chunk.c.state == "leased")
            return int((await connection.execute(counted)).scalar_one())

    async def kept(self) -> set[str]:
        """The inferences that are stored."""
        async with self.database.transaction() as connection:
            found: list[Any] = list((await connection.execute(select(inference.c.id))).scalars())
        return {str(one) for one in found}


@contextmanager
def outside(folder: Path) -> Iterator[Outside]:
    """A provider of foundation models, Unleash, a collector of traces and a Valkey."""
    with Vendor(key="") as vendor, collecting() as traces, _flag_server() as flags, Valkey(folder) as valkey:
        vendor.answer = lambda body: SUMMARY
        addresses = {
            "http://llm.models:8000": vendor.url,
            "https://unleash.example.com": flags,
            "http://otel-collector.monitoring:4318": traces.url,
        }
        yield Outside(addresses, valkey, traces)


@contextmanager
def installed(
    file: str, manifests: list[Manifest], folder: Path, database_url: str, around: Outside
) -> Iterator[Release]:
    """First the hook, then everything else, with the secrets that a release of this file is to ask for."""
    around.valkey.command("FLUSHALL")
    secrets = {
        ("trivium", "service-key"): "key-between-services",
        ("trivium", "database-url"): database_url.replace("postgresql+asyncpg://", "postgresql://"),
        ("trivium", "redis-url"): around.valkey.url,
        ("trivium-smoke", "api-key"): "made when the release runs",
    }
    if file == "values-production.yaml":
        secrets |= {
            ("trivium", "unleash-token"): UNLEASH_TOKEN,
            ("trivium", "unleash-admin-token"): "admin-token-of-unleash",
            ("trivium", "openai-api-key"): "key-of-openai",
            ("trivium", "database-ca"): "no certificate is looked at on a socket",
        }
    cluster = Cluster(manifests, folder, secrets, around.addresses)
    _, (migrations,) = containers_of(cluster, find(manifests, "Job", "-migrations"))
    done = migrations.run()
    assert done.returncode == 0, done.stdout + done.stderr
    own_edge = any(m["kind"] == "Deployment" and m["metadata"]["name"].endswith("-edge") for m in manifests)
    names = ["-edge"] * own_edge + ["-gateway", "-worker"]
    with ExitStack() as stack:
        pods = stack.enter_context(running(cluster, *names))
        yield Release(file, cluster, pods, Database(database_url), around.traces)


def referenced(manifest: Any) -> Iterator[tuple[str, str]]:
    """Every key of a Secret that an object asks for."""
    if isinstance(manifest, list):
        for item in manifest:
            yield from referenced(item)
    elif isinstance(manifest, dict):
        if "secretKeyRef" in manifest:
            yield manifest["secretKeyRef"]["name"], manifest["secretKeyRef"]["key"]
        if "secretName" in manifest:
            yield from ((manifest["secretName"], item["key"]) for item in manifest["items"])
        for ref in manifest.get("secretTargetRef", ()):
            yield ref["name"], ref["key"]
        if manifest.get("type") == "Bearer":
            yield manifest["credentials"]["name"], manifest["credentials"]["key"]
        for item in manifest.values():
            yield from referenced(item)


class _Flags(BaseHTTPRequestHandler):
    """What Unleash answers its clients, to those with the token."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == UNLEASH_TOKEN
        self._answer(200 if known else 401, (ROOT / "features/flags.json").read_bytes())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(202, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _flag_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Flags)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
