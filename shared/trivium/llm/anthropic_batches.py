"""Anthropic's batch API: the requests go up in one call, a JSONL file of results comes down."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from trivium.errors import ProviderError, RequestRefused, StepError
from trivium.llm.anthropic import JSON, completion, wire
from trivium.llm.anthropic_request import request_body
from trivium.llm.batches import BatchItem, BatchOutcome, BatchStatus, EndReason, NotRun
from trivium.llm.keyring import KeyRing
from trivium.llm.provider import Completion, text_of
from trivium.llm.wire import message_of, refusal

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_UPLOAD_S = 900.0
# The HTTP status that an error of this type has when it answers a single call; 400 for the others.
_STATUS = {
    "rate_limit_error": 429,
    "overloaded_error": 529,
    "api_error": 500,
    "timeout_error": 504,
    "conflict_error": 409,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
}


class AnthropicBatches:
    """Speaks `{base_url}/v1/messages/batches`; `timeout_s` is the longest wait for an answer."""

    def __init__(
        self,
        name: str,
        base_url: str,
        keys: KeyRing,
        session: aiohttp.ClientSession,
        timeout_s: float = 60.0,
    ) -> None:
        self.name = name
        self._base = f"{base_url.rstrip('/')}/v1/messages/batches"
        self._wire = wire(name, keys, session)
        self._timeout_s = timeout_s

    async def submit(self, items: list[BatchItem], tag: str) -> str:
        """Sends the items; see the Protocol. The tag goes nowhere.

        Raises:
            ValueError: a custom_id is not 1 to 64 of a-z, A-Z, 0-9, _ and -.
        """
        for item in items:
            if not _CUSTOM_ID.fullmatch(item.custom_id):
                raise ValueError(
                    f"custom_id {item.custom_id!r} is not 1 to 64 of the characters a-z, A-Z, 0-9, _ and -"
                )
        asked = {"requests": [{"custom_id": i.custom_id, "params": request_body(i.request)} for i in items]}
        body = orjson.dumps(asked)
        made = await self._wire.ask("POST", self._base, _UPLOAD_S, data=body, headers=JSON)
        try:
            return str(made["id"])
        except (KeyError, TypeError) as error:
            raise self._nonsense("a batch") from error

    async def find(self, tag: str) -> str | None:
        """None: this API keeps no tags, so a batch whose id was never stored is not found again."""
        return None

    async def poll(self, batch_id: str) -> BatchStatus:
        """How far it is; see the Protocol. The vendor counts at the end only."""
        batch = await self._batch(batch_id)
        try:
            counts = {name: int(number) for name, number in batch["request_counts"].items()}
            ended = batch["processing_status"] == "ended"
            done, cancelled, expired = counts["succeeded"], counts["canceled"], counts["expired"]
            failed = counts["errored"] + cancelled + expired
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense("a batch") from error
        reason: EndReason | None = None
        if ended:
            reason = "cancelled" if cancelled else "expired" if expired else "completed"
        return BatchStatus(ended, reason, done, failed, sum(counts.values()))

    async def results(self, batch_id: str) -> AsyncIterator[BatchOutcome]:
        """Reads the results; see the Protocol."""
        batch = await self._batch(batch_id)
        if batch.get("processing_status") != "ended":
            raise ProviderError(f"{self.name}: batch {batch_id} has not ended")
        url = self._url(batch_id) + "/results"
        given = batch.get("results_url")
        if isinstance(given, str) and _origin(given) == _origin(self._base):  # the key goes nowhere else
            url = given
        seen: set[str] = set()
        async with aclosing(self._wire.lines(url, self._timeout_s)) as lines:
            async for line in lines:
                outcome = self._outcome(line)
                if outcome.custom_id not in seen:
                    seen.add(outcome.custom_id)
                    yield outcome

    async def cancel(self, batch_id: str) -> None:
        """Has it end soon; see the Protocol."""
        try:
            await self._wire.ask("POST", f"{self._url(batch_id)}/cancel", self._timeout_s)
        except (ProviderError, RequestRefused):
            if not (await self.poll(batch_id)).ended:
                raise

    def _url(self, batch_id: str) -> str:
        return f"{self._base}/{quote(batch_id, safe='')}"

    async def _batch(self, batch_id: str) -> dict[str, Any]:
        batch = await self._wire.ask("GET", self._url(batch_id), self._timeout_s)
        if not isinstance(batch, dict):
            raise self._nonsense("a batch")
        return batch

    def _outcome(self, line: Any) -> BatchOutcome:
        try:
            custom_id = line["custom_id"]
            if not isinstance(custom_id, str):
                raise TypeError
        except (KeyError, TypeError) as error:
            raise self._nonsense("results of a batch") from error
        try:
            return BatchOutcome(custom_id, self._completion(line), None)
        except StepError as error:
            return BatchOutcome(custom_id, None, error)

    def _completion(self, line: dict[str, Any]) -> Completion:
        try:
            result = line["result"]
            kind = result["type"]
            if kind == "succeeded":
                made = completion(self.name, result["message"], self._wire)
                text_of(made, self.name)
                return made
            if kind in ("canceled", "expired"):
                raise NotRun(f"{self.name}: {kind} before it ran")
            fault = result["error"]
            sort = fault["error"]["type"]
            raise refusal(_STATUS.get(sort, 400), f"{self.name}: {sort}: {message_of(fault)}")
        except (KeyError, TypeError) as error:
            raise self._nonsense("a result") from error

    def _nonsense(self, expected: str) -> ProviderError:
        return ProviderError(f"{self.name} answered with something else than {expected}")


def _origin(url: str) -> URL | None:
    try:
        return URL(url).origin()
    except ValueError:
        return None
