"""OpenAI and Anthropic on a loopback port: their documented wire, without their models.

Speaks `/v1/chat/completions`, `/v1/files` and `/v1/batches` of the one and `/v1/messages` and
`/v1/messages/batches` of the other, so a base URL is `{url}/v1` or `{url}`. Tests of the SDKs hold it
to the real wire.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

KEY = "sk-secret"
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer. `stop`: why it ended, in OpenAI's words; `cached` tokens are part of `input`."""

    text: str | None = '{"label": "x"}'
    stop: Literal["stop", "length", "content_filter"] = "stop"
    input: int = 9
    output: int = 3
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP error instead of an answer."""

    status: int = 400
    message: str = "this request is wrong"


Fate = Answer | Refusal | Literal["expired", "cancelled", "twice", "absent", "nonsense"]
"""What becomes of one item. "twice": its result stands twice in the results, the second time as a
refusal; "absent": it stands nowhere; "nonsense": its result has no known shape."""


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests to a path, such as "POST /v1/batches".

    An id in a path is written {id}. `status` answers with that error; otherwise the connection is
    reset, or stays silent for `silent_s`. `after` carries the request out first: the vendor did it,
    the caller does not know.
    """

    path: str
    status: int | None = None
    retry_after: str | None = None
    message: str = "not now"
    silent_s: float = 0.0
    after: bool = False
    times: int = 1


@dataclass(slots=True)
class _Batch:
    id: str
    vendor: Literal["openai", "anthropic"]
    requests: list[tuple[str, dict[str, Any]]]
    created: float
    input_file_id: str = ""
    metadata: dict[str, str] | None = None
    polls: int = 0
    cancelling: float | None = None
    ended: str | None = None  # completed, expired, cancelled, failed
    ended_at: float | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    fates: dict[str, Fate] = field(default_factory=dict)
    output_file_id: str | None = None
    error_file_id: str | None = None


class Vendor:
    """The server; use it with `async with` in a test's own loop, or with `with` in a thread of its own.

    Set at any time:
        answer: what a model says to the body of a request: text, an Answer or a Refusal.
        outcomes: the fate of single items of batches, by custom_id, instead of `answer`.
        running_polls, running_s: a batch ends once it was polled so often and is so old.
        expire_after, cancel_after: only so many items of a batch run, the others expire or are
            cancelled; a batch that is told to cancel runs `cancel_after` or none.
        invalid: the faults of an input file, as OpenAI reports them; the batch fails.
        faults: what goes wrong with requests, see Fault.
        cut_results: a results file ends after so many bytes: the connection breaks, or, with
            `cut_politely`, the answer ends there as if it were all.
        results: what stands in every results file instead.
        results_base: where Anthropic's `results_url` points, if not here.
        page_limit: the most batches that a page of a list has.

    Read:
        requests: how often a path was asked, such as "GET /v1/batches/{id}".
        bodies: the JSON bodies that came, each with its path; items of an uploaded file are under
            "POST /v1/files".
        headers: the headers of every request, with its path.
        batches: ids of all batches, oldest first.
    """

    def __init__(self, key: str = KEY) -> None:
        self.key = key
        self.url = ""
        self.answer: Callable[[dict[str, Any]], str | Answer | Refusal] = lambda body: Answer()
        self.outcomes: dict[str, Fate] = {}
        self.running_polls = 0
        self.running_s = 0.0
        self.expire_after: int | None = None
        self.cancel_after: int | None = None
        self.invalid: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.cut_results: int | None = None
        self.cut_politely = False
        self.results: bytes | None = None
        self.results_base: str | None = None
        self.page_limit = 100
        self.requests: Counter[str] = Counter()
        self.bodies: list[tuple[str, Any]] = []
        self.headers: list[tuple[str, dict[str, str]]] = []
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, _Batch] = {}
        self._made = 0
        self._runner: web.AppRunner | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def openai_url(self) -> str:
        """Base URL for OpenAI's clients."""
        return f"{self.url}/v1"

    @property
    def batches(self) -> list[str]:
        """Ids of all batches, oldest first."""
        return list(self._batches)

    def end(self, batch_id: str, reason: str = "completed") -> None:
        """Ends a batch now, whatever it waits for; one that has ended stays so."""
        self._end(self._batches[batch_id], reason)

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._around], client_max_size=2**30)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/files", self._upload),
                web.get("/v1/files/{id}/content", self._content),
                web.post("/v1/batches", self._create_openai),
                web.get("/v1/batches", self._list_openai),
                web.get("/v1/batches/{id}", self._get),
                web.post("/v1/batches/{id}/cancel", self._cancel),
                web.post("/v1/messages", self._messages),
                web.post("/v1/messages/batches", self._create_anthropic),
                web.get("/v1/messages/batches/{id}", self._get),
                web.get("/v1/messages/batches/{id}/results", self._results),
                web.post("/v1/messages/batches/{id}/cancel", self._cancel),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner
        await self._runner.cleanup()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.__aenter__(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop and self._thread
        asyncio.run_coroutine_threadsafe(self.__aexit__(kind, error, trace), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What every request goes through.

    @web.middleware
    async def _around(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        route = request.match_info.route.resource
        path = f"{request.method} {route.canonical if route else request.path}"
        self.requests[path] += 1
        self.headers.append((path, dict(request.headers)))
        fault = next((f for f in self.faults if f.path == path and f.times > 0), None)
        if fault and not fault.after:
            return await self._fail(request, fault)
        try:
            self._authenticate(request)
            response: web.StreamResponse = await handler(request)
        except _Refused as refused:
            response = self._error(request, refused.status, refused.message)
        return await self._fail(request, fault) if fault else response

    async def _fail(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        fault.times -= 1
        if fault.status is not None:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return self._error(request, fault.status, fault.message, headers)
        if fault.silent_s:
            await asyncio.sleep(fault.silent_s)
        if request.transport:
            request.transport.abort()
        return web.Response()

    def _authenticate(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if _of_anthropic(request):
            given = request.headers.get("x-api-key", given)  # it takes both
            if not request.headers.get("anthropic-version"):
                raise _Refused(400, "anthropic-version: header is required")
        if given != self.key:
            raise _Refused(401, "invalid api key")

    def _error(
        self, request: web.Request, status: int, message: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        body = _anthropic_error(status, message) if _of_anthropic(request) else _openai_error(status, message)
        return web.json_response(body, status=status, headers=headers)

    async def _json(self, request: web.Request, path: str) -> dict[str, Any]:
        try:
            body = await request.json()
        except ValueError:
            raise _Refused(400, "could not parse the JSON body of your request") from None
        self.bodies.append((path, body))
        if not isinstance(body, dict):
            raise _Refused(400, "the body is no object")
        return body

    def _new_id(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}{self._made:024d}"

    # Single calls.

    async def _chat(self, request: web.Request) -> web.Response:
        body = await self._json(request, "POST /v1/chat/completions")
        return web.json_response(self._chat_completion(body, self._ask(body)))

    async def _messages(self, request: web.Request) -> web.Response:
        body = await self._json(request, "POST /v1/messages")
        return web.json_response(self._message(body, self._ask(body)))

    def _ask(self, body: dict[str, Any]) -> Answer:
        answer = self._fate(None, body)
        if isinstance(answer, Refusal):
            raise _Refused(answer.status, answer.message)
        assert isinstance(answer, Answer)
        return answer

    def _fate(self, custom_id: str | None, body: dict[str, Any]) -> Fate:
        if custom_id in self.outcomes:
            return self.outcomes[custom_id]
        if not isinstance(body.get("model"), str) or not body.get("messages"):
            return Refusal(400, "model and messages: Field required")
        said = self.answer(body)
        return Answer(said) if isinstance(said, str) else said

    def _chat_completion(self, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        return {
            "id": self._new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{body['model']}-2026-01-01",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": answer.stop,
                }
            ],
            "usage": {
                "prompt_tokens": answer.input,
                "completion_tokens": answer.output,
                "total_tokens": answer.input + answer.output,
                "prompt_tokens_details": {"cached_tokens": answer.cached},
            },
        }

    def _message(self, body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        stops = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
        explained = {"type": "refusal", "category": None, "explanation": "it is against the policy"}
        return {
            "id": self._new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": f"{body['model']}-20260101",
            "content": [] if answer.text is None else [{"type": "text", "text": answer.text}],
            "stop_reason": stops[answer.stop],
            "stop_sequence": None,
            "stop_details": explained if answer.stop == "content_filter" else None,
            "usage": {
                "input_tokens": answer.input - answer.cached,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": answer.cached,
                "output_tokens": answer.output,
            },
        }

    # OpenAI's files.

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, web.FileField) or purpose != "batch":
            raise _Refused(400, "file and purpose are required")
        content = file.file.read()
        file_id = self._new_id("file-")
        self._files[file_id] = content
        self.bodies += [("POST /v1/files", json.loads(line)) for line in content.splitlines() if line]
        return web.json_response(
            {
                "id": file_id,
                "object": "file",
                "bytes": len(content),
                "created_at": int(time.time()),
                "filename": file.filename,
                "purpose": purpose,
                "status": "processed",
                "expires_at": None,
                "status_details": None,
            }
        )

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content = self._files.get(request.match_info["id"])
        if content is None:
            raise _Refused(404, f"No such File object: {request.match_info['id']}")
        return await self._send(request, content)

    async def _send(self, request: web.Request, content: bytes) -> web.StreamResponse:
        content = content if self.results is None else self.results
        cut = content if self.cut_results is None else content[: self.cut_results]
        response = web.StreamResponse(headers={"Content-Type": "application/binary"})
        response.content_length = len(cut) if self.cut_politely else len(content)
        await response.prepare(request)
        for start in range(0, len(cut), 1000):  # lines come in pieces
            await response.write(cut[start : start + 1000])
        if len(cut) < len(content) and not self.cut_politely:
            await asyncio.sleep(0.05)  # what was sent arrives first
            if request.transport:
                request.transport.close()
        return response

    # Batches.

    async def _create_openai(self, request: web.Request) -> web.Response:
        body = await self._json(request, "POST /v1/batches")
        content = self._files.get(body.get("input_file_id", ""))
        if content is None or body.get("completion_window") != "24h":
            raise _Refused(400, "input_file_id and completion_window are required")
        lines = [json.loads(line) for line in content.splitlines() if line]
        batch = _Batch(
            self._new_id("batch_"),
            "openai",
            [(line["custom_id"], line["body"]) for line in lines],
            time.time(),
            input_file_id=body["input_file_id"],
            metadata=body.get("metadata"),
            errors=self.invalid or _faults_of(lines, body.get("endpoint")),
        )
        self._batches[batch.id] = batch
        return web.json_response(self._openai_batch(batch))

    async def _create_anthropic(self, request: web.Request) -> web.Response:
        body = await self._json(request, "POST /v1/messages/batches")
        given = [(item["custom_id"], item["params"]) for item in body.get("requests", [])]
        if not given or len({custom_id for custom_id, _ in given}) < len(given):
            raise _Refused(400, "requests: at least one, each with a custom_id of its own")
        batch = _Batch(self._new_id("msgbatch_"), "anthropic", given, time.time())
        self._batches[batch.id] = batch
        return web.json_response(self._anthropic_batch(batch))

    async def _list_openai(self, request: web.Request) -> web.Response:
        limit = min(int(request.query.get("limit", "20")), self.page_limit)
        newest = [b for b in reversed(self._batches.values()) if b.vendor == "openai"]
        after = request.query.get("after")
        if after:
            newest = newest[[b.id for b in newest].index(after) + 1 :]
        page = newest[:limit]
        return web.json_response(
            {
                "object": "list",
                "data": [self._openai_batch(b) for b in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": len(newest) > limit,
            }
        )

    def _known(self, request: web.Request) -> _Batch:
        batch = self._batches.get(request.match_info["id"])
        if batch is None or (batch.vendor == "anthropic") != _of_anthropic(request):
            raise _Refused(404, f"No batch found with id '{request.match_info['id']}'.")
        return batch

    async def _get(self, request: web.Request) -> web.Response:
        batch = self._known(request)
        batch.polls += 1
        over = batch.polls > self.running_polls and time.time() - batch.created >= self.running_s
        if batch.errors:
            self._end(batch, "failed")
        elif batch.cancelling:
            self._end(batch, "cancelled")
        elif over and self.expire_after is not None:
            self._end(batch, "expired")
        elif over:
            self._end(batch, "completed" if self.cancel_after is None else "cancelled")
        return web.json_response(self._shown(batch))

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self._known(request)
        if batch.ended:
            status = 409 if batch.vendor == "openai" else 400
            raise _Refused(status, f"Cannot cancel a batch with status '{batch.ended}'.")
        batch.cancelling = batch.cancelling or time.time()
        return web.json_response(self._shown(batch))

    async def _results(self, request: web.Request) -> web.StreamResponse:
        batch = self._known(request)
        if not batch.ended:
            raise _Refused(404, "the results of this batch are not available yet")
        lines = [self._anthropic_line(batch, *item) for item in reversed(batch.requests)]
        return await self._send(request, _jsonl(lines))

    def _end(self, batch: _Batch, reason: str) -> None:
        if batch.ended:
            return
        batch.ended, batch.ended_at = reason, time.time()
        runs = {"expired": self.expire_after or 0, "cancelled": self.cancel_after or 0, "failed": 0}
        most = runs.get(reason, len(batch.requests))
        for place, (custom_id, body) in enumerate(batch.requests):
            rest: Fate = "expired" if reason == "expired" else "cancelled"
            batch.fates[custom_id] = self._fate(custom_id, body) if place < most else rest
        if batch.vendor == "openai" and reason != "failed":
            pairs = [pair for item in reversed(batch.requests) for pair in self._openai_lines(batch, *item)]
            for name, good in (("output_file_id", True), ("error_file_id", False)):
                lines = [line for is_good, line in pairs if is_good is good]
                if lines:
                    file_id = self._new_id("file-")
                    self._files[file_id] = _jsonl([lines])
                    setattr(batch, name, file_id)

    def _shown(self, batch: _Batch) -> dict[str, Any]:
        return self._openai_batch(batch) if batch.vendor == "openai" else self._anthropic_batch(batch)

    def _openai_batch(self, batch: _Batch) -> dict[str, Any]:
        status = batch.ended or ("cancelling" if batch.cancelling else "in_progress")
        if not (batch.ended or batch.cancelling or batch.polls):
            status = "validating"
        ended_at = int(batch.ended_at) if batch.ended_at else None
        good = sum(isinstance(fate, Answer) or fate == "twice" for fate in batch.fates.values())
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": {"object": "list", "data": batch.errors} if batch.ended == "failed" else None,
            "input_file_id": batch.input_file_id,
            "completion_window": "24h",
            "status": status,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": int(batch.created),
            "in_progress_at": int(batch.created),
            "expires_at": int(batch.created) + 86_400,
            "finalizing_at": ended_at if batch.ended == "completed" else None,
            "completed_at": ended_at if batch.ended == "completed" else None,
            "failed_at": ended_at if batch.ended == "failed" else None,
            "expired_at": ended_at if batch.ended == "expired" else None,
            "cancelling_at": int(batch.cancelling) if batch.cancelling else None,
            "cancelled_at": ended_at if batch.ended == "cancelled" else None,
            "request_counts": {
                "total": 0 if batch.ended == "failed" else len(batch.requests),
                "completed": good,
                "failed": 0 if batch.ended == "failed" else len(batch.fates) - good,
            },
            "metadata": batch.metadata,
        }

    def _anthropic_batch(self, batch: _Batch) -> dict[str, Any]:
        sorts = Counter(_sort(fate) for fate in batch.fates.values())
        running = "canceling" if batch.cancelling else "in_progress"
        base = self.results_base or self.url
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if batch.ended else running,
            "request_counts": {
                "processing": 0 if batch.ended else len(batch.requests),
                **{sort: sorts[sort] for sort in ("succeeded", "errored", "canceled", "expired")},
            },
            "ended_at": _rfc3339(batch.ended_at),
            "created_at": _rfc3339(batch.created),
            "expires_at": _rfc3339(batch.created, hours=24),
            "cancel_initiated_at": _rfc3339(batch.cancelling),
            "archived_at": None,
            "results_url": f"{base}/v1/messages/batches/{batch.id}/results" if batch.ended else None,
        }

    def _openai_lines(
        self, batch: _Batch, custom_id: str, body: dict[str, Any]
    ) -> list[tuple[bool, dict[str, Any]]]:
        """The lines of one item, each with whether it goes to the file of answers."""
        fate = batch.fates[custom_id]
        line: dict[str, Any] = {"id": self._new_id("batch_req_"), "custom_id": custom_id}
        if fate == "absent":
            return []
        if fate == "nonsense":
            return [(True, line | {"response": 7, "error": None})]
        if fate == "expired" or fate == "cancelled":
            message = "This request could not be executed before the completion window expired."
            if fate == "cancelled":
                message = "The batch was cancelled before this request was executed."
            return [
                (False, line | {"response": None, "error": {"code": f"batch_{fate}", "message": message}})
            ]
        if isinstance(fate, Refusal):
            return [(False, line | self._response(fate.status, _openai_error(fate.status, fate.message)))]
        said = fate if isinstance(fate, Answer) else Answer()
        lines = [(True, line | self._response(200, self._chat_completion(body, said)))]
        if fate == "twice":
            lines.append((False, line | self._response(500, _openai_error(500, "again"))))
        return lines

    def _response(self, status: int, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "response": {"status_code": status, "request_id": self._new_id("req_"), "body": body},
            "error": None,
        }

    def _anthropic_line(self, batch: _Batch, custom_id: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        fate = batch.fates[custom_id]
        if fate == "absent":
            return []
        result: dict[str, Any] = {"type": _sort(fate)}
        if fate == "nonsense":
            result = {"type": "dreamt"}
        elif isinstance(fate, Refusal):
            result["error"] = _anthropic_error(fate.status, fate.message)
        elif fate == "twice" or isinstance(fate, Answer):
            said = fate if isinstance(fate, Answer) else Answer()
            result["message"] = self._message(body, said)
        lines = [{"custom_id": custom_id, "result": result}]
        if fate == "twice":
            again = {"type": "errored", "error": _anthropic_error(500, "again")}
            lines.append({"custom_id": custom_id, "result": again})
        return lines


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def _of_anthropic(request: web.Request) -> bool:
    return "/v1/messages" in request.path


def _sort(fate: Fate) -> str:
    if isinstance(fate, Refusal):
        return "errored"
    return {"expired": "expired", "cancelled": "canceled"}.get(str(fate), "succeeded")


def _faults_of(lines: list[dict[str, Any]], endpoint: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if line.get("url") != endpoint or line.get("method") != "POST":
            found.append({"code": "url_mismatch", "message": "The URL is wrong.", "line": number})
        if line["custom_id"] in seen:
            found.append({"code": "duplicate_custom_id", "message": "It was used before.", "line": number})
        seen.add(line["custom_id"])
    if not lines:
        found.append({"code": "empty_file", "message": "The input file is empty.", "line": None})
    return [fault | {"param": None} for fault in found]


def _openai_error(status: int, message: str) -> dict[str, Any]:
    sort = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": sort, "param": None, "code": None}}


def _anthropic_error(status: int, message: str) -> dict[str, Any]:
    sort = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": sort, "message": message}, "request_id": "req_1"}


def _rfc3339(at: float | None, hours: int = 0) -> str | None:
    if at is None:
        return None
    moment = datetime.fromtimestamp(at, UTC) + timedelta(hours=hours)
    return moment.isoformat().replace("+00:00", "Z")


def _jsonl(groups: list[list[dict[str, Any]]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for group in groups for line in group)
