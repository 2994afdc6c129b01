"""The pattern `edge` against the real service: what it answers, and when it abstains."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from support.edge import KEY, RunningEdge
from trivium.domain.inference import Question
from trivium.domain.variants import EdgeVariant
from trivium.edge import EdgeClient
from trivium.errors import ConnectionFailed, LowConfidence, OutOfScope, RequestRefused, StepTimeout
from trivium.patterns.edge import EdgeStep

SCHEMA: dict[str, Any] = {"properties": {"label": {}, "in_scope": {}, "mood": {}}}


@pytest.fixture
async def client(edge: RunningEdge) -> AsyncIterator[EdgeClient]:
    async with aiohttp.ClientSession() as session:
        yield EdgeClient(f"http://127.0.0.1:{edge.port}", KEY, session)


def _step(client: EdgeClient, **changes: Any) -> EdgeStep:
    spec = EdgeVariant(pattern="edge", model=changes.pop("model", "ticket-triage"), **changes)
    return EdgeStep(spec, SCHEMA, client)


def _question(text: str) -> Question:
    return Question(input={"text": text}, entity_key=None)


async def test_the_outputs_that_the_schema_names_are_answered(client: EdgeClient) -> None:
    answer = await _step(client, min_in_scope=0.01)(_question("I lost my card"), 5)
    assert answer.output.keys() == {"label", "in_scope"}
    assert answer.output["label"] == "lost_or_stolen_card"
    assert answer.confidence is not None
    assert answer.confidence > 0.5


async def test_it_abstains_on_what_is_out_of_scope(client: EdgeClient) -> None:
    step = _step(client, min_in_scope=0.5)
    assert (await step(_question("How do I change my PIN?"), 5)).output["label"] == "change_pin"
    for text in ("which teams play in the cup final on saturday", "write me a poem about the sea"):
        with pytest.raises(OutOfScope, match="in scope"):
            await step(_question(text), 5)


async def test_it_abstains_when_it_is_not_sure(client: EdgeClient) -> None:
    with pytest.raises(LowConfidence):
        await _step(client, min_confidence=1.0)(_question("hello"), 5)


async def test_what_the_service_refuses_has_a_name(client: EdgeClient) -> None:
    with pytest.raises(RequestRefused, match="no model 'nope'"):
        await _step(client, model="nope")(_question("hello"), 5)
    with pytest.raises(StepTimeout):
        await _step(client)(_question("hello"), 0.0001)
    client.base_url = "http://127.0.0.1:9"
    with pytest.raises(ConnectionFailed):
        await _step(client)(_question("hello"), 5)
