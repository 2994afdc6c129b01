"""OpenAI's chat completions: OpenAI itself, and every self-hosted server that speaks its wire."""

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
from trivium.llm.provider import Completion, CompletionRequest, with_usage

_CONNECT_S = 2.0
MAX_MODEL_CHARS = 128  # what the ledger holds
MAX_TOKENS = 2**31 - 1


class OpenAIProvider:
    """Speaks `POST {base_url}/chat/completions`."""

    def __init__(self, name: str, base_url: str, api_key: str | None, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session = session

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """One answer; see the Protocol."""
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(_CONNECT_S, timeout_s))
        try:
            async with self._session.post(
                self._url, data=orjson.dumps(self._body(request)), headers=self._headers, timeout=limits
            ) as response:
                body = await response.read()
        except TimeoutError as error:
            raise StepTimeout(f"{self.name} did not answer within {timeout_s * 1000:.0f} ms") from error
        except aiohttp.ClientError as error:
            raise ConnectionFailed(f"{self.name}: {type(error).__name__}: {error}") from error
        if response.status != 200:
            raise self._refusal(response.status, response.headers.get("Retry-After"), body)
        return self._completion(body)

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        limit = "max_completion_tokens" if self.name == "openai" else "max_tokens"
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "temperature": request.temperature,
            limit: request.max_output_tokens,
        }
        if request.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.schema, "strict": True},
            }
        return body

    def _completion(self, body: bytes) -> Completion:
        try:
            answer = orjson.loads(body)
            choice = answer["choices"][0]
            text, finish = choice["message"]["content"], choice["finish_reason"]
            usage = _usage(answer.get("usage"))
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ProviderError(f"{self.name} answered with something else than a completion") from error
        if finish == "length":
            raise with_usage(ProviderError(f"{self.name} was cut at the token limit"), usage)
        if finish == "content_filter" or not isinstance(text, str):
            refusal = choice["message"].get("refusal") or "no reason given"
            raise with_usage(RequestRefused(f"{self.name} declined: {refusal}"), usage)
        if finish != "stop":
            raise with_usage(ProviderError(f"{self.name} ended with {finish!r}"), usage)
        return Completion(text, str(answer.get("model") or "")[:MAX_MODEL_CHARS], usage)

    def _refusal(self, status: int, retry_after: str | None, body: bytes) -> StepError:
        detail = f"{self.name} answered {status}: {_message(body)}"
        wait = seconds_of(retry_after)
        if status == 429:
            return RateLimited(detail, retry_after_s=wait)
        if status in (503, 529):
            return Overloaded(detail, retry_after_s=wait)
        if status in (408, 409) or status >= 500:
            return ProviderError(detail, retry_after_s=wait)
        return RequestRefused(detail)


def _usage(raw: Any) -> Usage | None:
    """The usage, or None for one that cannot be true: nonsense there costs nobody the answer."""
    try:
        details = raw.get("prompt_tokens_details") or {}
        usage = Usage(
            input=int(raw["prompt_tokens"]),
            output=int(raw["completion_tokens"]),
            cached_input=int(details.get("cached_tokens") or 0),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    plausible = 0 <= usage.cached_input <= usage.input <= MAX_TOKENS and 0 <= usage.output <= MAX_TOKENS
    return usage if plausible else None


def _message(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])[:300]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:100].decode(errors="replace")
