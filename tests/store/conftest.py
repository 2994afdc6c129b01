"""What the tests of the store share."""

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from support.databases import MigratedPostgres
from trivium.domain.feedback import Feedback, Kind
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, StepAnswer, Usage
from trivium.store.engine import Database, migrate
from trivium.telemetry import new_id

MakeInference = Callable[..., Inference]
MakeFeedback = Callable[..., Feedback]


@dataclass
class AwayDatabase:
    """A database that cannot be reached until `appear` was awaited."""

    database: Database
    appear: Callable[[], Awaitable[None]]


@pytest.fixture
async def open_database() -> AsyncIterator[Callable[[str], Database]]:
    """Opens databases that are closed after the test, however it ends."""
    opened: list[Database] = []

    def open_one(url: str) -> Database:
        opened.append(Database(url))
        return opened[-1]

    yield open_one
    for one in opened:
        await one.close()


@pytest.fixture
def make_inference() -> MakeInference:
    """Makes an inference of two attempts, the first of which failed."""

    def make(**changes: Any) -> Inference:
        first = ServedBy("main", "api", "draft", "v1", "large")
        second = ServedBy("spare", "edge", "small", "v2", "tiny")
        values: dict[str, Any] = {
            "id": new_id(),
            "feature": "reply",
            "arm": Arm.TREATMENT,
            "subject_id": "user-1",
            "key_id": new_id(),
            "question": Question({"text": "naïve “text” 🙂"}, "ticket-7"),
            "answer": StepAnswer({"reply": "yes"}, confidence=0.75, model="tiny"),
            "served_by": second,
            "degraded": True,
            "fallback_reason": "timeout",
            "attempts": [
                Attempt(first, "openai/large", "timeout", 250.5, "too slow", Usage(7, 0, 3), None),
                Attempt(second, "edge/tiny", "ok", 12.25, None, Usage(5, 2), 0.5),
            ],
            "deadline_ms": 1_000,
            "latency_ms": 263.0,
            "created_at": time.time(),
        }
        return Inference(**{**values, **changes})

    return make


@pytest.fixture
def make_feedback() -> MakeFeedback:
    """Makes a feedback event."""

    def make(**changes: Any) -> Feedback:
        values: dict[str, Any] = {
            "id": new_id(),
            "inference_id": new_id(),
            "key_id": new_id(),
            "idempotency_key": new_id(),
            "kind": Kind.CORRECTION,
            "value": {"reply": "no"},
            "occurred_at": time.time(),
            "received_at": time.time(),
        }
        return Feedback(**{**values, **changes})

    return make


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="trv-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
async def away(
    request: pytest.FixtureRequest, tmp_path: Path, short_folder: Path, migrated_postgres: MigratedPostgres
) -> AsyncIterator[AwayDatabase]:
    """A database that is away; every test that takes it runs on both."""
    if request.param == "sqlite":
        path = tmp_path / "away.db"
        path.mkdir()  # SQLite cannot open a folder
        database = Database(f"sqlite+aiosqlite:///{path}")

        async def appear() -> None:
            path.rmdir()
            await migrate(database)
    else:
        there = make_url(await migrated_postgres.emptied())
        folder = str(there.query["host"])
        database = Database(str(there.set(query={"host": str(short_folder)})))

        async def appear() -> None:
            (short_folder / ".s.PGSQL.5432").symlink_to(Path(folder) / ".s.PGSQL.5432")

    yield AwayDatabase(database, appear)
    await database.close()
