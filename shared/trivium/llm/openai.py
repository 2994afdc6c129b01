"""OpenAI's chat completions: OpenAI itself, and every self-hosted server that speaks its wire."""

from typing import Any

import aiohttp
import orjson

from trivium.domain.inference import Usage
from trivium.errors import ProviderError, RequestRefused
from trivium.llm.provider import Completion, CompletionRequest, with_usage
from trivium.llm.wire import MAX_MODEL_CHARS, Wire, plausible

JSON = {"Content-Type": "application/json"}


class OpenAIProvider:
    """Speaks `POST {base_url}/chat/completions`."""

    def __init__(self, name: str, base_url: str, api_key: str | None, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._wire = wire(name, api_key, session)

    async def complete(self, request: CompletionRequest, timeout_s: float) -> Completion:
        """One answer; see the Protocol."""
        body = orjson.dumps(request_body(self.name, request))
        return completion(
            self.name, await self._wire.ask("POST", self._url, timeout_s, data=body, headers=JSON)
        )


def wire(name: str, api_key: str | None, session: aiohttp.ClientSession) -> Wire:
    """Calls with the key, if there is one."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return Wire(name, session, headers, secret=api_key)


def request_body(name: str, request: CompletionRequest) -> dict[str, Any]:
    """What `POST /chat/completions` takes; OpenAI itself calls the limit by another name."""
    limit = "max_completion_tokens" if name == "openai" else "max_tokens"
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


def completion(name: str, answer: Any) -> Completion:
    """What the JSON of an answer says.

    Raises:
        RequestRefused: the model declined.
        ProviderError: it was cut, or is no completion.
    """
    try:
        choice = answer["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
        usage = _usage(answer.get("usage"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ProviderError(f"{name} answered with something else than a completion") from error
    if finish == "length":
        raise with_usage(ProviderError(f"{name} was cut at the token limit"), usage)
    if finish == "content_filter" or not isinstance(text, str):
        declined = choice["message"].get("refusal") or "no reason given"
        raise with_usage(RequestRefused(f"{name} declined: {declined}"), usage)
    if finish != "stop":
        raise with_usage(ProviderError(f"{name} ended with {finish!r}"), usage)
    return Completion(text, str(answer.get("model") or "")[:MAX_MODEL_CHARS], usage)


def _usage(raw: Any) -> Usage | None:
    try:
        details = raw.get("prompt_tokens_details") or {}
        usage = Usage(
            input=int(raw["prompt_tokens"]),
            output=int(raw["completion_tokens"]),
            cached_input=int(details.get("cached_tokens") or 0),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return plausible(usage)
