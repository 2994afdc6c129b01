"""Checks on a real database and a real edge model."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from support.databases import make_sqlite
from support.drifting import a_feature, store
from support.edge import KEY, RunningEdge
from trivium.domain.drift import DriftReport
from trivium.domain.recording import Recording
from trivium.drift.checking import DriftCheck, NotEnough, served_by
from trivium.drift.columns import Vectors, unpacked
from trivium.edge import EdgeClient
from trivium.errors import ConnectionFailed
from trivium.features import Feature
from trivium.store.drift import DriftRepository, StoredReference
from trivium.store.engine import Database

REFERENCE, WINDOW = 200, 60


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(await make_sqlite(tmp_path / "trivium.db"))
    yield made
    await made.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
def feature(root: Path) -> Feature:
    return a_feature(root, reference=REFERENCE, window=WINDOW)


@pytest.fixture
def texts(root: Path) -> list[str]:
    """The archive's messages, in an order of no meaning."""
    lines = (root / "features/similar-tickets/archive.jsonl").read_text("utf-8").splitlines()
    return sorted((json.loads(line)["text"] for line in lines), key=lambda text: text[::-1])


def _check(database: Database, session: aiohttp.ClientSession, port: int) -> DriftCheck:
    edge = EdgeClient(f"http://127.0.0.1:{port}", KEY, session)
    return DriftCheck(DriftRepository(database), edge)


async def test_the_first_inferences_are_the_reference_and_later_ones_are_compared(
    database: Database, session: aiohttp.ClientSession, edge: RunningEdge, feature: Feature, texts: list[str]
) -> None:
    told: list[tuple[str, int, int]] = []
    client = EdgeClient(f"http://127.0.0.1:{edge.port}", KEY, session)
    check = DriftCheck(DriftRepository(database), client, lambda *seen: told.append(seen))
    await store(database, feature, texts[:150], start=1_000.0)
    early = await check.reference(feature)
    assert isinstance(early, NotEnough) and "150 of the 200 inferences of edge-v1" in early.why
    await store(database, feature, texts[150:200], start=1_150.0)
    made = await check.reference(feature)
    assert isinstance(made, StoredReference)
    assert (made.rows, made.until) == (REFERENCE, 1_199.0)
    assert told[-1] == ("embedding", 200, 200)
    vectors = unpacked(made.profile).columns["embedding"]
    assert isinstance(vectors, Vectors) and vectors.matrix.shape == (200, 384)
    assert texts[0][:20] not in json.dumps(made.profile)

    await store(database, feature, texts[200:220], start=1_200.0)
    few = await check.check(feature, made, WINDOW)
    assert isinstance(few, NotEnough) and "20 inferences of edge-v1" in few.why
    await store(database, feature, texts[220:260], start=1_220.0)
    quiet = await check.check(feature, made, WINDOW, whole=True)
    assert isinstance(quiet, DriftReport)
    assert not quiet.drifted, [c for c in quiet.columns if c.drifted]
    assert (quiet.rows, quiet.window_from, quiet.window_until) == (60, 1_200.0, 1_259.0)
    assert {"embedding", "novelty", "words", "output.label"} <= {column.name for column in quiet.columns}
    again = await check.check(feature, made, WINDOW, after=quiet.window_until, whole=True)
    assert isinstance(again, NotEnough)

    strange = [
        f"what is the weather like in town number {n}, and who won the football game" for n in range(60)
    ]
    await store(database, feature, strange, start=1_300.0)
    loud = await check.check(feature, made, WINDOW)
    assert isinstance(loud, DriftReport)
    assert {"embedding", "novelty", "new_words"} <= {column.name for column in loud.columns if column.drifted}
    reset = await check.reset(feature)
    assert isinstance(reset, StoredReference) and reset.until == 1_359.0
    assert await check.reference(feature) == await DriftRepository(database).reference(served_by(feature))


async def test_without_the_edge_model_a_window_is_judged_by_the_rest(
    database: Database, session: aiohttp.ClientSession, edge: RunningEdge, feature: Feature, texts: list[str]
) -> None:
    away = _check(database, session, 9)
    await store(database, feature, texts[:260], start=1_000.0)
    with pytest.raises(ConnectionFailed):
        await away.reference(feature)
    made = await _check(database, session, edge.port).reference(feature)
    assert isinstance(made, StoredReference)
    found = await away.check(feature, made, WINDOW)
    assert isinstance(found, DriftReport)
    assert "the edge model did not embed: edge model: Client" in found.absent["embedding"]
    assert {"length", "words", "output.label"} <= {column.name for column in found.columns}


async def test_without_payloads_there_is_less_to_look_at(
    database: Database, session: aiohttp.ClientSession, feature: Feature
) -> None:
    secret = feature.manifest.model_copy(update={"recording": Recording(payload="hash")})
    feature = replace(feature, manifest=secret)
    check = _check(database, session, 9)
    made = await store(database, feature, ["x"] * 260, start=1_000.0)
    async with database.transaction() as connection:
        await connection.exec_driver_sql("UPDATE inference SET input = NULL, output = NULL")
    reference = await check.reference(feature)
    assert isinstance(reference, StoredReference)
    found = await check.check(feature, reference, WINDOW)
    assert isinstance(found, DriftReport)
    assert found.rows == 60 < len(made)
    assert {column.name for column in found.columns} == {"confidence", "fallback_rate"}
    assert "recording keeps no payload (payload: hash)" in found.absent["input"]


def test_whose_embeddings(root: Path) -> None:
    models = {
        name: a_feature(root, name).manifest.embedding_model for name in ("ticket-triage", "similar-tickets")
    }
    assert set(models.values()) == {"ticket-triage/2"}
    assert a_feature(root, "ticket-summary").manifest.embedding_model is None
