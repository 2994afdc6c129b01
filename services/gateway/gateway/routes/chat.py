"""`/v1/chat/completions` and `/v1/models`: what OpenAI's SDKs speak, in front of routes and features."""

import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.chats import Exchange
from gateway.routes.chat_docs import MODELS, REQUEST, RESPONSES
from gateway.routes.chat_features import answer_feature
from gateway.routes.openai_errors import openai_error
from gateway.routes.openai_stream import EventStream, while_there
from gateway.state import (
    GatewayState,
    admitted,
    demand_feature,
    demand_route,
    hide_others,
    state_of,
    wants_fresh,
)
from trivium.domain.inference import Inference
from trivium.errors import (
    FieldFault,
    InvalidRequest,
    MalformedBody,
    StepError,
    TooLarge,
    TriviumError,
)
from trivium.http import DEADLINE_HEADER
from trivium.llm.provider import Chunk, Json
from trivium.metrics import CHAT_REQUESTS
from trivium.tracing import TEMPLATE
from trivium.web import refuse_unstorable

log = structlog.get_logger()
FEATURE = "feature/"
_OURS = ("model", "stream", "stream_options")
_MAX_DEADLINE_MS = 3_600_000


Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def in_openais_words(endpoint: Endpoint) -> Endpoint:
    """The endpoint itself, and what it raises told as OpenAI's SDKs know it."""

    async def handle(request: Request) -> Response:
        try:
            answer = await endpoint(request)
        except TriviumError as error:
            answer = openai_error(error)
        except ClientDisconnect:
            answer = Response(status_code=499)  # nobody hears it
        CHAT_REQUESTS.labels(str(answer.status_code)).inc()
        return answer

    return handle


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape; FastAPI's own reading of bodies would double its cost."""

    def get_route_handler(self) -> Endpoint:
        """The endpoint itself."""
        return in_openais_words(self.endpoint)


class ShortCut:
    """The way of chats past the framework's router and instruments, which cost as much as the rest of it.

    The route itself stays where it is, for the API's description; `trivium_chat_requests_total` counts.
    """

    def __init__(self, app: ASGIApp, path: str, endpoint: Endpoint) -> None:
        self._app = app
        self._path = path
        self._handle = in_openais_words(endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope[TEMPLATE] = self._path
        answer = await self._handle(Request(scope, receive, send))
        await answer(scope, receive, send)


router = APIRouter(prefix="/v1", tags=["chat"], route_class=OpenAIRoute)


@router.post("/chat/completions", responses=RESPONSES, openapi_extra={"requestBody": REQUEST})
async def chat_completions(request: Request) -> Response:
    """Answers a chat as OpenAI's endpoint of this name does.

    `model` is `route/<name>`, a name that a route matches, or `feature/<name>`.
    """
    state = state_of(request)
    key = await admitted(request, "infer")
    body = _checked(await _read(request, state.settings.chat_max_body_bytes))
    model: str = body["model"]
    deadline_ms = _deadline_ms(request)
    subject_id = str(body.get("user") or body.get("safety_identifier") or f"key:{key.id}")[:256]
    if model.startswith(FEATURE):
        name, fresh = model.removeprefix(FEATURE), wants_fresh(request)
        demand_feature(key, name)
        hide_others(key, name, state.catalogue)
        answering = answer_feature(state, name, body, key, subject_id, deadline_ms, fresh=fresh)
        return await while_there(request, answering)
    demand_route(state, key, model)
    asked = {name: value for name, value in body.items() if name not in _OURS}
    exchange = state.chats.begin(model, asked, key, subject_id, deadline_ms, fresh=wants_fresh(request))
    await state.chats.admit(exchange)
    if body.get("stream"):
        return await while_there(request, _streamed(state, exchange, _wants_usage(body)))
    return await while_there(request, _completed(state, exchange))


@router.get("/models", responses=MODELS)
async def models(request: Request) -> Response:
    """The routes and features that the key can call by their names; never what stands behind them."""
    state = state_of(request)
    key = await admitted(request, "infer", "admin")
    names = [name for name in state.chats.routes.names if key.may_call(name)]
    names += [FEATURE + feature.name for feature in state.catalogue if key.may_call(feature.name)]
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "trivium"} for name in names]
    return Response(orjson.dumps({"object": "list", "data": listed}), media_type="application/json")


async def _completed(state: GatewayState, exchange: Exchange) -> Response:
    try:
        completion = await state.chats.complete(exchange)
    except StepError as error:
        return openai_error(error, _headers(exchange))
    body = {**completion.body, "id": f"chatcmpl-{exchange.id}", "object": "chat.completion"}
    body["model"] = _model(exchange)
    return Response(orjson.dumps(body), 200, _headers(exchange), "application/json")


async def _streamed(state: GatewayState, exchange: Exchange, usage: bool) -> Response:
    pieces = state.chats.stream(exchange)
    try:
        first = await anext(pieces)
    except StepError as error:
        return openai_error(error, _headers(exchange))
    return EventStream(_events(exchange, first, pieces, usage), _headers(exchange))


async def _events(
    exchange: Exchange, first: Chunk, pieces: AsyncGenerator[Chunk, None], usage: bool
) -> AsyncGenerator[bytes, None]:
    """The pieces on OpenAI's wire: one id throughout, the role once, and an end that says what it is."""
    same = {
        "id": f"chatcmpl-{exchange.id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
    }
    first.delta["role"] = "assistant"
    async with aclosing(pieces):
        try:
            yield _line({**first.body, **same}, usage)
            async for piece in pieces:
                if piece.body["choices"] or usage:
                    yield _line({**piece.body, **same}, usage)
        except StepError as error:
            log.warning("stream_failed", inference_id=exchange.id, code=error.code, detail=error.detail)
            yield b"data: " + openai_error(error).body + b"\n\n"
            return
        yield b"data: [DONE]\n\n"


def _line(body: Json, usage: bool) -> bytes:
    if not usage:
        body.pop("usage", None)
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _headers(exchange: Exchange) -> dict[str, str]:
    left_ms = exchange.walk.deadline.left_s() * 1000
    headers = {
        "X-Trivium-Inference-Id": exchange.id,
        "X-Trivium-Overhead-Ms": f"{exchange.overhead_ms:.2f}",
        "X-Trivium-Deadline-Ms": str(exchange.deadline_ms),
        "X-Trivium-Deadline-Left-Ms": f"{left_ms:.0f}",
    }
    made: Inference | None = exchange.made
    if made:
        headers["X-Trivium-Degraded"] = "true" if made.degraded else "false"
        if exchange.cache_s is not None:
            headers["X-Trivium-Cache"] = "hit" if made.cached else "miss"
        if made.cost_usd is not None:
            headers["X-Trivium-Cost-Usd"] = f"{made.cost_usd:.9f}".rstrip("0").rstrip(".")
    return headers


def _model(exchange: Exchange) -> str | None:
    return exchange.made.served_by.model if exchange.made else None


async def _read(request: Request, max_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise TooLarge(f"The body is over {max_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _checked(raw: bytes) -> Json:
    """The body, if it is a request for a chat completion.

    Raises:
        MalformedBody: it is not JSON. InvalidRequest: a field is wrong.
    """
    refuse_unstorable(raw)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not a JSON object")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not 0 < len(model) <= 200:
        raise _wrong("model", "must be the name of a route or a feature: route/<name>, feature/<name>", model)
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "must be a list of at least one message", messages)
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _wrong(f"messages[{place}]", "must be an object with a role", message)
    if not isinstance(body.get("stream"), bool | None):
        raise _wrong("stream", "must be true or false", body["stream"])
    many = body.get("n") not in (None, 1)
    if many and (body.get("stream") or not isinstance(body["n"], int) or not 0 < body["n"] <= 128):
        raise _wrong("n", "must be a number from 1 to 128, and 1 with stream", body["n"])
    return body


def _wrong(field: str, message: str, value: Any) -> InvalidRequest:
    return InvalidRequest(f"{field} {message}", errors=(FieldFault(field, message, value),))


def _deadline_ms(request: Request) -> int | None:
    given = request.headers.get(DEADLINE_HEADER)
    if given is None:
        return None
    if not given.isdigit() or not 0 < int(given) <= _MAX_DEADLINE_MS:
        raise _wrong(DEADLINE_HEADER, f"must be milliseconds from 1 to {_MAX_DEADLINE_MS}", given)
    return int(given)


def _wants_usage(body: Json) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
