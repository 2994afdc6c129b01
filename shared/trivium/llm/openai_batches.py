"""OpenAI's batch API: a JSONL file goes up, a file of answers and one of errors come down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from trivium.errors import ProviderError, RequestRefused, StepError
from trivium.llm.batches import BatchItem, BatchOutcome, BatchStatus, EndReason, NotRun
from trivium.llm.keyring import KeyRing
from trivium.llm.openai import JSON, completion, request_body, wire
from trivium.llm.provider import Completion, text_of
from trivium.llm.wire import message_of, refusal

ENDPOINT = "/v1/chat/completions"
TAG = "trivium_tag"
_UPLOAD_S = 900.0
_PAGE = 100
_MAX_PAGES = 10
_ENDS: dict[str, EndReason] = {
    "completed": "completed",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
}
_NOT_RUN = ("batch_expired", "batch_cancelled")


class OpenAIBatches:
    """Speaks `{base_url}/files` and `{base_url}/batches`; `timeout_s` is the longest wait for an answer."""

    def __init__(
        self,
        name: str,
        base_url: str,
        keys: KeyRing,
        session: aiohttp.ClientSession,
        timeout_s: float = 60.0,
    ) -> None:
        self.name = name
        self._base = base_url.rstrip("/")
        self._wire = wire(name, keys, session, redirects=True)
        self._timeout_s = timeout_s

    async def submit(self, items: list[BatchItem], tag: str) -> str:
        """Uploads the items and makes a batch of them; see the Protocol."""
        form = aiohttp.FormData({"purpose": "batch"})
        size = await asyncio.to_thread(lambda: sum(len(self._line(item)) for item in items))
        form.add_field("file", _Sized(self._lines(items), size), filename="batch.jsonl")
        file = await self._wire.ask("POST", f"{self._base}/files", _UPLOAD_S, data=form)
        asked = {
            "input_file_id": self._id(file),
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {TAG: tag},
        }
        return self._id(
            await self._wire.ask(
                "POST", f"{self._base}/batches", self._timeout_s, data=orjson.dumps(asked), headers=JSON
            )
        )

    async def find(self, tag: str) -> str | None:
        """Looks through the newest 1,000 batches; see the Protocol."""
        params = {"limit": str(_PAGE)}
        for _ in range(_MAX_PAGES):
            page = await self._wire.ask("GET", f"{self._base}/batches", self._timeout_s, params=params)
            try:
                for batch in page["data"]:
                    if (batch.get("metadata") or {}).get(TAG) == tag:
                        return self._id(batch)
                if not page["has_more"] or not page["data"]:
                    return None
                params["after"] = self._id(page["data"][-1])
            except (KeyError, TypeError, AttributeError) as error:
                raise self._nonsense("a list of batches") from error
        return None

    async def poll(self, batch_id: str) -> BatchStatus:
        """How far it is; see the Protocol."""
        batch = await self._batch(batch_id)
        try:
            counts = batch.get("request_counts") or {}
            done, failed = int(counts.get("completed") or 0), int(counts.get("failed") or 0)
            total = int(counts.get("total") or 0)
            reason = _ENDS.get(batch["status"])
            detail = _faults(batch) if reason == "failed" else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense("a batch") from error
        return BatchStatus(reason is not None, reason, done, failed, total, detail)

    async def results(self, batch_id: str) -> AsyncIterator[BatchOutcome]:
        """Reads the file of answers, then that of errors; see the Protocol."""
        batch = await self._batch(batch_id)
        if batch.get("status") not in _ENDS:
            raise ProviderError(f"{self.name}: batch {batch_id} has not ended")
        seen: set[str] = set()
        for key in ("output_file_id", "error_file_id"):
            file_id = batch.get(key)
            if not file_id:
                continue
            url = f"{self._base}/files/{quote(str(file_id), safe='')}/content"
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
        return f"{self._base}/batches/{quote(batch_id, safe='')}"

    async def _batch(self, batch_id: str) -> dict[str, Any]:
        batch = await self._wire.ask("GET", self._url(batch_id), self._timeout_s)
        if not isinstance(batch, dict):
            raise self._nonsense("a batch")
        return batch

    def _line(self, item: BatchItem) -> bytes:
        body = request_body(self.name, item.request)
        line = {"custom_id": item.custom_id, "method": "POST", "url": ENDPOINT, "body": body}
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    async def _lines(self, items: list[BatchItem]) -> AsyncIterator[bytes]:
        for item in items:
            yield self._line(item)

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
            fault, response = line.get("error"), line["response"]
            if fault:
                kind = NotRun if fault.get("code") in _NOT_RUN else ProviderError
                raise kind(f"{self.name}: {fault.get('code')}: {str(fault.get('message'))[:300]}")
            status, body = int(response["status_code"]), response["body"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense("a result") from error
        if status != 200:
            raise refusal(status, f"{self.name} answered {status}: {_said(body)}")
        made = completion(self.name, body, self._wire)
        text_of(made, self.name)
        return made

    def _id(self, made: Any) -> str:
        try:
            return str(made["id"])
        except (KeyError, TypeError) as error:
            raise self._nonsense("what it made") from error

    def _nonsense(self, expected: str) -> ProviderError:
        return ProviderError(f"{self.name} answered with something else than {expected}")


class _Sized(aiohttp.AsyncIterablePayload):
    """A stream of known length, so that the upload says how long it is."""

    def __init__(self, value: AsyncIterator[bytes], size: int) -> None:
        super().__init__(value, content_type="application/jsonl")
        self._bytes = size

    @property
    def size(self) -> int:
        return self._bytes


def _faults(batch: dict[str, Any]) -> str | None:
    """The first faults of an input file that the vendor did not take."""
    found = (batch.get("errors") or {}).get("data") or []
    said = [
        (f"line {fault['line']}: " if fault.get("line") else "")
        + str(fault.get("message") or fault.get("code"))
        for fault in found[:3]
    ]
    return "; ".join(said)[:300] or None


def _said(body: Any) -> str:
    try:
        return message_of(body)
    except (KeyError, TypeError):
        return str(body)[:100]
