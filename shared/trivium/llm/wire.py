"""What the wires of all vendors have in common: the call, its failures, and what arrives piece by piece."""

import asyncio
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from trivium.domain.inference import Usage
from trivium.errors import (
    AccessDenied,
    ConnectionFailed,
    ContextOverflow,
    Overloaded,
    PolicyRefused,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.http import seconds_of
from trivium.llm.keyring import REFUSED_S, KeyRing
from trivium.llm.provider import Limits
from trivium.llm.sse import EventParser, TooLong

MAX_MODEL_CHARS = 128  # what the ledger holds
TRAILING_S = 1.0
"""How long a stream may take from its finish reason to its end, where the usage stands."""
_MAX_TOKENS = 2**31 - 1
_CONNECT_S = 2.0
_RATE_LIMITED_S = 1.0
_MAX_REDIRECTS = 3
_MAX_LINE_BYTES = 8 * 2**20
_MAX_ERROR_BYTES = 65_536
_LARGE_BYTES = 2**20  # what the client would rather read than copy
_MAX_BODY_BYTES = 64 * 2**20
_OVERFLOW = re.compile(
    r"context.length|context.window|context.size|maximum.context|prompt is too long|too many tokens"
    r"|input token count|exceeds? the (available |maximum )?(context|number of tokens)",
    re.IGNORECASE,
)
_KEY = re.compile(r"api key (not valid|expired)", re.IGNORECASE)  # of Google, with status 400
_POLICY = re.compile(r"content.policy|content.filter|safety|prohibited.content|moderation", re.IGNORECASE)
Authorization = Callable[[str], dict[str, str]]


def bearer(secret: str) -> dict[str, str]:
    """The header of most vendors."""
    return {"Authorization": f"Bearer {secret}"}


@dataclass(slots=True)
class Pace:
    """What a stream is held to; its reader may change it on the way."""

    idle_s: float


class Wire:
    """Calls one vendor; whatever goes wrong is raised as the StepError of its kind, without a key."""

    def __init__(
        self,
        name: str,
        session: aiohttp.ClientSession,
        keys: KeyRing,
        authorization: Authorization = bearer,
        headers: dict[str, str] | None = None,
        *,
        redirects: bool = False,
    ) -> None:
        """`redirects`: a GET may be sent on, without the key where that is to another host."""
        self._name = name
        self._session = session
        self._keys = keys
        self._authorization = authorization
        self._headers = headers or {}
        self._redirects = redirects

    async def ask(
        self,
        method: str,
        url: str,
        timeout_s: float,
        connect_s: float = _CONNECT_S,
        *,
        model: str = "",
        **given: Any,
    ) -> Any:
        """The JSON of one answer; `given` is what aiohttp takes, such as `data` and `params`.

        A key's rate limit holds for the model.

        Raises:
            StepError: of its kind; ProviderError for an answer that is not JSON.
        """
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(connect_s, timeout_s))
        async with self._answer(method, url, limits, timeout_s, given, model) as response:
            body = await self._whole(response)
        return self.parsed(body)

    async def events(
        self, url: str, body: bytes, limits: Limits, pace: Pace, headers: dict[str, str], model: str
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """The server-sent events of an answer to POST, `(event, data)` each, as they come.

        Silence is what has no event: comments that keep a connection open do not count.

        Raises:
            ConnectionFailed: it was cut. StepTimeout: it fell silent, or took longer than it may.
            StepError: of its kind; ProviderError for an answer that is no stream.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limits.total_s
        due = min(end, loop.time() + limits.first_token_s)
        given = {"data": body, "headers": {"Accept": "text/event-stream", **headers}}
        patience = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s)
        parser = EventParser()
        async with self._answer("POST", url, patience, due - loop.time(), given, model) as response:
            if response.content_type in ("application/json", "text/html"):
                async with asyncio.timeout_at(due):
                    raise self.told(self.parsed(await _beginning(response)))
            while True:
                try:
                    async with asyncio.timeout_at(due):
                        data = await response.content.readany()
                except TimeoutError as error:
                    raise StepTimeout(f"{self._name} fell silent within its answer") from error
                heard = False
                try:
                    for event in parser.feed(data) if data else parser.end():
                        heard = True
                        yield event
                except TooLong as error:
                    raise ProviderError(f"{self._name} sent {error}") from error
                if not data:
                    return
                if heard:
                    due = min(end, loop.time() + pace.idle_s)

    async def lines(self, url: str, silence_s: float) -> AsyncGenerator[Any, None]:
        """The JSON of every line of a file, as it arrives; the file is never held as a whole.

        Raises:
            ConnectionFailed: the file was cut; only whole lines were yielded.
            StepTimeout: nothing came for `silence_s`.
            StepError: of its kind; ProviderError for a line that is not JSON.
        """
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=min(_CONNECT_S, silence_s), sock_read=silence_s
        )
        rest = b""
        async with self._answer("GET", url, limits, silence_s, {}, "") as response:
            async for chunk in response.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield self.parsed(line)
                if len(rest) > _MAX_LINE_BYTES:
                    raise ProviderError(f"{self._name} sent a line of more than {_MAX_LINE_BYTES} bytes")
        if rest.strip():
            try:
                last = orjson.loads(rest)
            except orjson.JSONDecodeError as error:
                raise ConnectionFailed(f"{self._name}: the file was cut within a line") from error
            yield last

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        url: str,
        limits: aiohttp.ClientTimeout,
        timeout_s: float,
        given: dict[str, Any],
        model: str,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with asyncio.timeout(timeout_s) as patience:  # with all keys, not with each
                response = await self._admitted(method, url, limits, given, model)
                if limits.total is None:
                    patience.reschedule(None)
                async with response:
                    yield response
        except TimeoutError as error:
            raise StepTimeout(f"{self._name} did not answer within {timeout_s * 1000:.0f} ms") from error
        except aiohttp.ClientError as error:
            detail = f"{self._name}: {type(error).__name__}: {error}"
            raise ConnectionFailed(self._keys.redacted(detail)) from error

    async def _admitted(
        self, method: str, url: str, limits: aiohttp.ClientTimeout, given: dict[str, Any], model: str
    ) -> aiohttp.ClientResponse:
        """The answer to the first key that is not refused for its own sake."""
        error: StepError = RateLimited(f"{self._name} has no key that may be used")
        own, data = given.pop("headers", {}), given.pop("data", None)
        for _ in range(len(self._keys)):
            secret = self._key(model)
            headers = {**self._headers, **own, **(self._authorization(secret) if secret else {})}
            response = await self._session.request(
                method,
                url,
                headers=headers,
                timeout=limits,
                allow_redirects=False,
                data=io.BytesIO(data) if isinstance(data, bytes) and len(data) > _LARGE_BYTES else data,
                **given,
            )
            if self._redirects and method == "GET":
                response = await self._followed(response, headers, limits)
            if 200 <= response.status < 300:
                return response
            error = await self._refusal(response)
            if not isinstance(error, RateLimited | AccessDenied) or response.status == 404:
                raise error
            pause = REFUSED_S if isinstance(error, AccessDenied) else error.retry_after_s
            if len(self._keys) == 1 and (pause is None or isinstance(error, AccessDenied)):
                raise error  # there is no other to go on with
            limited_for = "" if isinstance(error, AccessDenied) else model
            if not self._keys.rest(secret, _RATE_LIMITED_S if pause is None else pause, limited_for):
                raise error
        raise error

    async def _followed(
        self, response: aiohttp.ClientResponse, headers: dict[str, str], limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """What stands where the vendor sends us on to; the redirect itself if we don't go there."""
        for _ in range(_MAX_REDIRECTS):
            here, there = response.url, _sent_to(response)
            if there is None:
                break
            response.release()
            sent = headers if there.origin() == here.origin() else {}
            headers = sent
            response = await self._session.get(there, headers=sent, timeout=limits, allow_redirects=False)
        return response

    def _key(self, model: str) -> str:
        try:
            return self._keys.take(model)
        except RateLimited as error:
            raise RateLimited(f"{self._name} {error.detail}", retry_after_s=error.retry_after_s) from None

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """The body; it must not fill the memory, whoever sends it."""
        parts, size = [], 0
        while part := await response.content.readany():
            parts.append(part)
            size += len(part)
            if size > _MAX_BODY_BYTES:
                raise ProviderError(f"{self._name} sent more than {_MAX_BODY_BYTES} bytes")
        return b"".join(parts)

    async def _refusal(self, response: aiohttp.ClientResponse) -> StepError:
        async with response:
            body = await _beginning(response)
        code, message, told = _said(body)
        detail = f"{self._name} answered {response.status}: {message}"
        exact = _milliseconds(response.headers.get("retry-after-ms"))
        after = seconds_of(response.headers.get("Retry-After"))
        wait = next((seconds for seconds in (exact, after, told) if seconds is not None), None)
        return refusal(response.status, self._keys.redacted(detail), wait, code)

    def told(self, body: Any) -> StepError:
        """The error that stands where an answer should be: within a stream, or under status 200."""
        error = body.get("error") if isinstance(body, dict) else None
        if error is None:
            return ProviderError(f"{self._name} answered with something else than a completion")
        code, message, wait = _said(orjson.dumps(body))
        status = _STATUS_OF.get(code, 500)
        if isinstance(error, dict) and str(error.get("code")).isdigit():
            status = int(str(error["code"])[:3])
        return refusal(status, self._keys.redacted(f"{self._name} answered: {message}"), wait, code)

    def parsed(self, body: bytes) -> Any:
        """The JSON of an answer; raises ProviderError."""
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ProviderError(f"{self._name} answered with something else than JSON") from error


_STATUS_OF = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
    "resource_exhausted": 429,
    "unavailable": 503,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "authentication_error": 401,
    "permission_error": 403,
}


def refusal(status: int, detail: str, retry_after_s: float | None = None, code: str = "") -> StepError:
    """The error that an HTTP status stands for, with the vendor's own code where it gives one."""
    if status == 429:
        return RateLimited(detail, retry_after_s=retry_after_s)
    if status in (503, 529):
        return Overloaded(detail, retry_after_s=retry_after_s)
    if status in (408, 409) or status >= 500 or 300 <= status < 400:
        return ProviderError(detail, retry_after_s=retry_after_s)
    if _KEY.search(detail):
        return AccessDenied(detail)
    if code == "context_length_exceeded" or _OVERFLOW.search(detail):
        return ContextOverflow(detail)
    if status in (400, 403) and _POLICY.search(code or detail):
        return PolicyRefused(detail)
    if status in (401, 403, 404):
        return AccessDenied(detail)
    return RequestRefused(detail)


def plausible(usage: Usage) -> Usage | None:
    """The usage, or None for one that cannot be true: nonsense there costs nobody the answer."""
    known = (
        usage.cached_input >= 0
        and usage.cache_write >= 0
        and usage.cached_input + usage.cache_write <= usage.input <= _MAX_TOKENS
        and 0 <= usage.reasoning <= usage.output <= _MAX_TOKENS
    )
    return usage if known else None


def _sent_to(response: aiohttp.ClientResponse) -> URL | None:
    """Where a redirect leads, if that may be gone to: the same host, or one with a name over https."""
    if response.status not in (301, 302, 303, 307, 308):
        return None
    try:
        there = response.url.join(URL(response.headers.get("Location", "")))
        if there.user or there.origin() == response.url.origin():
            return None if there.user else there
    except ValueError:
        return None
    return there if there.scheme == "https" and "." in (there.host or "") and not _is_address(there) else None


def _is_address(url: URL) -> bool:
    """Whether the host is a number, in any of the ways that one can be written."""
    last = (url.host or "").rstrip(".").rpartition(".")[2]
    return ":" in (url.host or "") or last[:1].isdigit()


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """What an error says, as far as it came: it may arrive in parts, and be cut."""
    body = b""
    with suppress(aiohttp.ClientError):
        while len(body) < _MAX_ERROR_BYTES and (part := await response.content.readany()):
            body += part
    return body[:_MAX_ERROR_BYTES]


def message_of(answer: Any) -> str:
    """What an error answer says; raises KeyError or TypeError if it has another shape."""
    return str(answer["error"]["message"])[:300]


def _said(body: bytes) -> tuple[str, str, float | None]:
    """The vendor's code, in small letters, its words, and how many seconds it says to wait."""
    try:
        error = orjson.loads(body)["error"]
        if isinstance(error, str):
            return "", error[:300], None
        code = next((error[k] for k in ("code", "type", "status") if isinstance(error.get(k), str)), "")
        return code.lower(), str(error["message"])[:300], _retry_delay(error.get("details"))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "", body[:100].decode(errors="replace"), None


def _retry_delay(details: Any) -> float | None:
    """The seconds of Google's `RetryInfo`, such as {"retryDelay": "7s"}."""
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and isinstance(detail.get("retryDelay"), str):
            return seconds_of(detail["retryDelay"].removesuffix("s"))
    return None


def _milliseconds(header: str | None) -> float | None:
    seconds = seconds_of(header)
    return None if seconds is None else seconds / 1000
