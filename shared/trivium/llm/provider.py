"""What every provider can do, whatever its wire.

The common language is OpenAI's chat completions, which every SDK speaks and most servers take: a request, an
answer and the chunks of a stream have its shapes, and the file of a vendor with another wire translates.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trivium.domain.inference import Usage
from trivium.errors import PolicyRefused, ProviderError, StepError

Role = Literal["system", "user", "assistant"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, in text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """What is asked of a model.

    `body` is that of `POST /chat/completions` without `model` and `stream`; a vendor that has no such
    parameter leaves it out if the answer is then still what was asked for, and refuses it otherwise.
    """

    model: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a call has: in all, to connect, to its first token, and between two tokens.

    The last two are for streams; a complete answer has the total.
    """

    total_s: float
    connect_s: float = 2.0
    first_token_s: float = 30.0
    idle_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Completion:
    """A complete answer. `body` has the shape of a `chat.completion`, with at least one choice."""

    body: Json
    model: str
    usage: Usage | None

    @property
    def message(self) -> Json:
        """What the model says: content, or tool calls, or a refusal."""
        message: Json = self.body["choices"][0]["message"]
        return message

    @property
    def finish_reason(self) -> str:
        """Why it ended, in OpenAI's words: stop, length, tool_calls or content_filter."""
        return str(self.body["choices"][0]["finish_reason"])


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer, in the shape of a `chat.completion.chunk`.

    `body["choices"]` is empty in the piece that carries the usage.
    """

    body: Json
    usage: Usage | None = None

    @property
    def delta(self) -> Json:
        """What is new of the first choice."""
        choices = self.body["choices"]
        delta: Json = (choices[0].get("delta") or {}) if choices else {}
        return delta

    @property
    def finish_reason(self) -> str | None:
        """Set in the last piece of the first choice: without it an answer is not complete."""
        choices = self.body["choices"]
        return choices[0].get("finish_reason") if choices else None


class Provider(Protocol):
    """A way to reach models."""

    name: str

    async def complete(self, chat: Chat, limits: Limits) -> Completion:
        """One answer, complete.

        Raises:
            StepError: of the kind that the chain and the breaker go by.
        """
        ...

    def stream(self, chat: Chat, limits: Limits) -> AsyncGenerator[Chunk, None]:
        """The same answer in pieces, as they come; to close the generator ends the call at once.

        It ends without an error only after a piece with a finish reason; one with the usage may follow.

        Raises:
            StepError: ConnectionFailed for a stream that was cut, StepTimeout for one that fell silent,
                ProviderError for one that is no stream of this wire.
        """
        ...


def asked(
    model: str,
    messages: list[Message],
    schema: dict[str, Any] | None,
    temperature: float,
    max_output_tokens: int,
) -> Chat:
    """A request of a feature; with a schema the answer is JSON that decoding holds to it."""
    body: Json = {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "temperature": temperature,
        "max_tokens": max_output_tokens,
    }
    if schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    return Chat(model, body)


def text_of(completion: Completion, name: str) -> str:
    """The text of an answer that must be whole.

    Raises:
        PolicyRefused: the model declined.
        ProviderError: it was cut, has no text, or called a tool.
    """
    finish, message = completion.finish_reason, completion.message
    if finish == "length":
        raise with_usage(ProviderError(f"{name} was cut at the token limit"), completion.usage)
    if finish == "content_filter" or message.get("refusal"):
        declined = message.get("refusal") or "no reason given"
        raise with_usage(PolicyRefused(f"{name} declined: {str(declined)[:300]}"), completion.usage)
    text = message.get("content")
    if finish != "stop" or not isinstance(text, str) or not text:
        raise with_usage(ProviderError(f"{name} ended with {finish!r} and no text"), completion.usage)
    return text


def with_usage(error: StepError, usage: Usage | None) -> StepError:
    """Notes on an error what the failed call was billed for."""
    error.usage = usage
    return error
