"""Stored results, read by key and in batches; what no longer holds is wished anew."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, event, func, select

from trivium.store.archive import ArchiveRepository
from trivium.store.keys import KeyRepository
from trivium.store.tables import precompute_run

ONE = "/v1/features/intents/results"
MANY = "/v1/features/intents/results:batchGet"


@contextmanager
def _statements(about: str) -> Iterator[list[str]]:
    """The statements about a table that are sent within the block, by whatever engine."""
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if about in statement:
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def _refresh_runs(worker: Any) -> int:
    run = precompute_run.c
    statement = select(func.count()).where(run.trigger == "refresh")
    async with worker.database.transaction() as connection:
        return int((await connection.execute(statement)).scalar_one())


async def test_a_fresh_result_is_read_whole_and_nothing_is_wished(gateway: Any, worker: Any) -> None:
    await worker.compute("M-1")
    answer = await gateway.client.get(f"{ONE}/M-1")
    assert answer.status_code == 200
    body = answer.json()
    assert 0 <= body.pop("age_s") < 60
    assert body.pop("computed_at") > 0
    assert len(body.pop("variant_version")) >= 12
    assert body == {
        "entity_key": "M-1",
        "status": "fresh",
        "output": {"label": "TEXT OF M-1"},
        "stale": False,
        "stale_reason": None,
        "variant": "stored-v1",
        "confidence": 0.9,
        "model": "capitals",
    }
    assert await worker.wishes(0) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"input_hash": "other"}, "input"), ({"variant_version": "old"}, "variant"), ({"age_s": 100}, "age")],
)
async def test_a_stale_result_is_read_with_its_reason_and_wished_for_that(
    gateway: Any, worker: Any, change: dict[str, Any], reason: str
) -> None:
    await worker.compute("M-1")
    await worker.change("M-1", **change)
    answer = await gateway.client.get(f"{ONE}/M-1")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["stale"], body["stale_reason"]) == ("stale", True, reason)
    assert body["output"] == {"label": "TEXT OF M-1"}
    assert await worker.wishes() == {"M-1": (reason, None)}
    await worker.work()
    assert (await gateway.client.get(f"{ONE}/M-1")).json()["status"] == "fresh"


async def test_what_cannot_be_served_is_an_error_with_its_code_and_wished_if_that_helps(
    gateway: Any, worker: Any
) -> None:
    await worker.compute("M-old")
    await worker.change("M-old", age_s=4000)
    await ArchiveRepository(worker.database).put("inbox", {"M-new": {"text": "x"}})
    for key, status, code in (
        ("M-new", 404, "result_missing"),
        ("M-none", 404, "entity_unknown"),
        ("M-old", 503, "result_stale"),
    ):
        answer = await gateway.client.get(f"{ONE}/{key}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert key in answer.json()["detail"]
        assert ("retry-after" in answer.headers) == (key != "M-none")
    assert await worker.wishes(2) == {"M-new": ("missing", None), "M-old": ("age", None)}


async def test_a_batch_of_a_hundred_is_one_query_in_the_order_that_was_asked_for(
    gateway: Any, worker: Any
) -> None:
    await worker.compute(*(f"M-{n}" for n in range(97)), "M-old")
    await worker.change("M-3", variant_version="old")
    await worker.change("M-old", age_s=4000)
    await ArchiveRepository(worker.database).put("inbox", {"M-new": {"text": "x"}})
    keys = ["M-none", "M-old", "M-new", *(f"M-{n}" for n in reversed(range(97)))]
    with _statements("precomputed_result") as statements:
        answer = await gateway.client.post(MANY, json={"entity_keys": keys})
    assert answer.status_code == 200
    assert len(statements) == 1
    results = answer.json()["results"]
    assert [result["entity_key"] for result in results] == keys
    by_key = {result["entity_key"]: result for result in results}
    assert [by_key[key]["status"] for key in ("M-none", "M-old", "M-new", "M-3", "M-4")] == [
        *("unknown", "expired", "missing", "stale", "fresh")
    ]
    for result in results:
        assert (result["output"] is not None) == (result["status"] in ("fresh", "stale"))
        assert result["stale"] == (result["status"] == "stale")
        assert result["variant"] == "stored-v1"
    assert by_key["M-3"]["stale_reason"] == "variant"
    assert by_key["M-5"]["output"] == {"label": "TEXT OF M-5"}
    assert await worker.wishes(3) == {
        "M-3": ("variant", None),
        "M-old": ("age", None),
        "M-new": ("missing", None),
    }


@pytest.mark.parametrize(
    "key",
    [
        "a/b",
        "/lead",
        "trail/",
        "a//b",
        "a:b",
        "results:batchGet",
        "a b",
        "100%",
        "%2F",
        "ü/🙂",
        "?x=1#y",
        "x" * 512,
    ],
)
async def test_any_key_is_read_by_its_address(gateway: Any, worker: Any, key: str) -> None:
    await worker.compute(key)
    answer = await gateway.client.get(f"{ONE}/{quote(key, safe='/:')}")
    assert (answer.status_code, answer.json()["entity_key"]) == (200, key)
    many = await gateway.client.post(MANY, json={"entity_keys": [key]})
    assert many.json()["results"] == [{**answer.json(), "age_s": many.json()["results"][0]["age_s"]}]


@pytest.mark.parametrize(
    ("address", "status", "named"),
    [
        (f"{ONE}/a%00b", 422, "entity_key"),
        (f"{ONE}/{'x' * 513}", 422, "entity_key"),
        (f"{ONE}/", 422, "entity_key"),
        (f"{ONE}/M-1?variant=edge-v1", 404, "stored-v0, stored-v1"),
        ("/v1/features/nonsense/results/M-1", 404, "nonsense"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_name(
    gateway: Any, address: str, status: int, named: str
) -> None:
    answer = await gateway.client.get(address)
    assert answer.status_code == status
    assert named in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"entity_keys": []}, "entity_keys"),
        ({"entity_keys": [f"M-{n}" for n in range(101)]}, "entity_keys"),
        ({"entity_keys": ["M-1", "M-2", "M-1"]}, "M-1"),
        ({"entity_keys": ["M-1", ""]}, "entity_keys.1"),
        ({"entity_keys": ["M-1"], "keys": []}, "keys"),
        ({}, "entity_keys"),
    ],
)
async def test_a_wrong_batch_is_refused_by_name(gateway: Any, body: dict[str, Any], named: str) -> None:
    answer = await gateway.client.post(MANY, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert named in answer.json()["detail"]


async def test_another_variant_is_read_by_its_name(gateway: Any, worker: Any) -> None:
    await worker.compute("M-1", variant="stored-v0")
    answer = await gateway.client.get(f"{ONE}/M-1?variant=stored-v0")
    assert (answer.status_code, answer.json()["variant"]) == (200, "stored-v0")
    many = await gateway.client.post(MANY, json={"entity_keys": ["M-1"], "variant": "stored-v0"})
    assert many.json()["results"][0]["status"] == "fresh"
    assert (await gateway.client.get(f"{ONE}/M-1")).json()["code"] == "result_missing"


async def test_a_feature_with_several_that_serves_none_of_them_wants_a_name(gateway: Any) -> None:
    answer = await gateway.client.get("/v1/features/asked-at-once/results/M-1")
    assert answer.status_code == 422
    assert "stored-v0, stored-v1" in answer.json()["detail"]


async def test_stored_results_are_for_keys_with_the_scope(gateway: Any, worker: Any) -> None:
    _, secret = await KeyRepository(worker.database).create("other", ["feedback"])
    headers = {"Authorization": f"Bearer {secret}"}
    assert (await gateway.client.get(f"{ONE}/M-1", headers=headers)).status_code == 403
    answer = await gateway.client.post(MANY, json={"entity_keys": ["M-1"]}, headers=headers)
    assert answer.status_code == 403


async def test_two_gateways_that_ask_at_once_make_one_run(start_gateway: Any, worker: Any) -> None:
    gateways = [await start_gateway(1), await start_gateway(2)]
    await worker.compute("M-1")
    await worker.change("M-1", variant_version="old")
    before = await _refresh_runs(worker)
    asked = [gateway.infer("M-1", "text of M-1") for gateway in gateways for _ in range(10)]
    answers = await asyncio.gather(*asked)
    assert {answer.json()["stale_reason"] for answer in answers} == {"variant"}
    await asyncio.sleep(0.3)
    assert await worker.wishes() == {"M-1": ("variant", {"text": "text of M-1"})}
    assert await worker.work() == 1
    assert await _refresh_runs(worker) - before == 1
    assert await worker.wishes(0) == {}


async def test_a_correction_and_only_that_has_a_stored_result_computed_anew(
    gateway: Any, worker: Any
) -> None:
    await worker.compute("M-1")
    made = (await gateway.infer("M-1", "text of M-1")).json()["inference_id"]
    for kind in ("shown", "accepted", "thumbs_down", "edited"):
        event = {"inference_id": made, "kind": kind}
        if kind == "edited":
            event["value"] = {"label": "other"}
        assert (await gateway.client.post("/v1/feedback", json=event)).status_code == 201
    assert await worker.wishes(0) == {}
    event = {"inference_id": made, "kind": "correction", "value": {"label": "other"}}
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    labels = {"feature": "intents", "variant": "stored-v1", "reason": "correction"}
    before = REGISTRY.get_sample_value("trivium_refreshes_total", labels) or 0
    for _ in range(2):
        answer = await gateway.client.post("/v1/feedback", json=event, headers=headers)
        assert answer.status_code == 201
    assert await worker.wishes() == {"M-1": ("correction", None)}
    assert REGISTRY.get_sample_value("trivium_refreshes_total", labels) == before + 1
    before_run = await _refresh_runs(worker)
    await worker.work()
    assert await _refresh_runs(worker) == before_run + 1


async def test_a_correction_of_what_is_not_stored_wishes_nothing(gateway: Any, worker: Any) -> None:
    degraded = (await gateway.infer("M-none")).json()
    assert degraded["fallback_reason"] == "entity_unknown"
    for inference_id in (degraded["inference_id"], str(uuid.uuid4())):
        event = {"inference_id": inference_id, "kind": "correction", "value": {"label": "other"}}
        assert (await gateway.client.post("/v1/feedback", json=event)).status_code == 201
    assert await worker.wishes(0) == {}


async def test_the_documents_describe_both_answers_apart(gateway: Any) -> None:
    paths = gateway.app.openapi()["paths"]
    for operation in (
        paths["/v1/features/{feature}/infer"]["post"],
        paths["/v1/inferences/{inference_id}"]["get"],
    ):
        schemas = {
            status: operation["responses"][status]["content"]["application/json"]["schema"]["$ref"]
            for status in ("200", "202")
        }
        assert schemas["200"].endswith("/InferenceOut")
        assert schemas["202"].endswith("/GeneratingOut")
