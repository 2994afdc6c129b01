"""What the wires of all vendors have in common: the call, its failures, and JSONL as it arrives."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from trivium.domain.inference import Usage
from trivium.errors import (
    ConnectionFailed,
    Overloaded,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
    StepTimeout,
)
from trivium.http import seconds_of

MAX_MODEL_CHARS = 128  # what the ledger holds
_MAX_TOKENS = 2**31 - 1
_CONNECT_S = 2.0
_MAX_LINE_BYTES = 8 * 2**20


class Wire:
    """Calls one vendor; whatever goes wrong is raised as the StepError of its kind, without the key."""

    def __init__(
        self,
        name: str,
        session: aiohttp.ClientSession,
        headers: dict[str, str],
        *,
        secret: str | None,
        redirects: bool = True,
    ) -> None:
        """Headers go with every call, and with a redirect too: turn those off for a key of one's own header.

        `secret` is taken out of what the vendor says before it becomes part of an error.
        """
        self._name = name
        self._session = session
        self._headers = headers
        self._secret = secret
        self._redirects = redirects

    async def ask(self, method: str, url: str, timeout_s: float, **given: Any) -> Any:
        """The JSON of one answer; `given` is what aiohttp takes, such as `data` and `params`.

        Raises:
            StepError: of its kind; ProviderError for an answer that is not JSON.
        """
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(_CONNECT_S, timeout_s))
        async with self._answer(method, url, limits, timeout_s, **given) as response:
            body = await response.read()
        return self._parsed(body)

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
        async with self._answer("GET", url, limits, silence_s) as response:
            async for chunk in response.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield self._parsed(line)
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
        self, method: str, url: str, limits: aiohttp.ClientTimeout, timeout_s: float, **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = self._headers | given.pop("headers", {})
        try:
            async with self._session.request(
                method, url, headers=headers, timeout=limits, allow_redirects=self._redirects, **given
            ) as response:
                if not 200 <= response.status < 300:
                    detail = f"{self._name} answered {response.status}: {_message(await response.read())}"
                    wait = seconds_of(response.headers.get("Retry-After"))
                    raise refusal(response.status, self._redacted(detail), wait)
                yield response
        except TimeoutError as error:
            raise StepTimeout(f"{self._name} did not answer within {timeout_s * 1000:.0f} ms") from error
        except aiohttp.ClientError as error:
            detail = f"{self._name}: {type(error).__name__}: {error}"
            raise ConnectionFailed(self._redacted(detail)) from error

    def _parsed(self, body: bytes) -> Any:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ProviderError(f"{self._name} answered with something else than JSON") from error

    def _redacted(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if self._secret else text


def refusal(status: int, detail: str, retry_after_s: float | None = None) -> StepError:
    """The error that an HTTP status stands for."""
    if status == 429:
        return RateLimited(detail, retry_after_s=retry_after_s)
    if status in (503, 529):
        return Overloaded(detail, retry_after_s=retry_after_s)
    if status in (408, 409) or status >= 500:
        return ProviderError(detail, retry_after_s=retry_after_s)
    return RequestRefused(detail)


def plausible(usage: Usage) -> Usage | None:
    """The usage, or None for one that cannot be true: nonsense there costs nobody the answer."""
    known = 0 <= usage.cached_input <= usage.input <= _MAX_TOKENS and 0 <= usage.output <= _MAX_TOKENS
    return usage if known else None


def message_of(answer: Any) -> str:
    """What an error answer says; raises KeyError or TypeError if it has another shape."""
    return str(answer["error"]["message"])[:300]


def _message(body: bytes) -> str:
    try:
        return message_of(orjson.loads(body))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:100].decode(errors="replace")
