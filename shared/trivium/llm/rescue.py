"""A streamed answer that survives its targets: what breaks is finished from the next, or ends in an error.

The one promise: what was sent is the beginning of what is delivered, or the stream ends in an error. An
answer that was never finished is never taken for one.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from trivium.domain.fallback import Deadline, Step, Try, Walk
from trivium.domain.inference import Usage
from trivium.domain.route import Rescue
from trivium.errors import ConnectionFailed, Diverged, StepError
from trivium.llm.provider import Chat, Chunk, Completion, Limits

Streaming = Callable[[Chat, Limits], AsyncGenerator[Chunk, None]]


@dataclass(frozen=True, slots=True)
class ChatStep(Step[Chat, Completion]):
    """One target of a route."""

    stream: Streaming | None = None
    limits: Limits = field(default_factory=lambda: Limits(60.0))
    continues_prefix: bool = False


@dataclass(slots=True)
class RescuedStream:
    """One streamed answer."""

    walk: Walk[Chat, Completion]
    steps: Sequence[ChatStep]
    rescue: Rescue
    sent: str = ""
    """The text that was passed on."""
    began: bool = False
    """Whether anything was: then its status is told, and only its end can say that it failed."""
    served: ChatStep | None = None
    usage: Usage | None = None
    reason: str | None = None
    """Why the first target did not answer, or not to the end."""

    async def pieces(self) -> AsyncGenerator[Chunk, None]:
        """The answer, piece by piece; complete when it ends without an error.

        Raises:
            StepError: no target could answer; or, after a piece, none could go on.
        """
        position: int | None = 0
        error: StepError = ConnectionFailed("no target could be asked")
        while position is not None:
            step = self.steps[position]
            last = position == len(self.steps) - 1
            budget = self.walk.budget_of(step, len(self.steps) - position)
            tries = 0
            while True:
                try:
                    one = await self.walk.begin(step, budget)
                except StepError as refused:
                    error = error if tries else refused
                    break
                tries += 1
                try:
                    async with aclosing(self._from(one, step, budget)) as pieces:
                        async for piece in pieces:
                            self.began = True
                            yield piece
                    self.served = step
                    return
                except StepError as failure:
                    error = failure
                self.reason = self.reason or error.code
                if self.began and self.rescue == "error":
                    raise error
                pause = self.walk.pause_after(step, tries, error, budget.left_s(), last=last)
                if pause is None:
                    break
                await asyncio.sleep(pause)
            self.reason = self.reason or error.code
            position = self.walk.after(self.steps, position, error)
        raise error

    async def _from(self, one: Try, step: ChatStep, budget: Deadline) -> AsyncGenerator[Chunk, None]:
        """The pieces of one call that are to be passed on."""
        usage: Usage | None = None
        try:
            async with step.gate(budget.left_s()) if step.gate else nullcontext():
                async with aclosing(self._asked(one, step, budget)) as chunks:
                    passing = _Passing(self, step)
                    async for chunk in chunks:
                        usage = chunk.usage or usage
                        for piece in passing.of(chunk):
                            yield piece
                passing.check_end()
            for piece in passing.held:
                yield piece
        except StepError as error:
            one.failed(error, usage)
            raise
        except BaseException:
            one.left()
            raise
        self.usage = usage
        one.ok(usage)

    def _asked(self, one: Try, step: ChatStep, budget: Deadline) -> AsyncGenerator[Chunk, None]:
        own = step.limits
        limits = replace(
            own,
            total_s=min(own.total_s, self.walk.deadline.left_s()),
            first_token_s=min(own.first_token_s, budget.left_s()),
        )
        assert step.stream
        with one.span.here():
            return step.stream(self._question(step), limits)

    def _question(self, step: ChatStep) -> Chat:
        chat = self.walk.question
        if not self.sent or not step.continues_prefix:
            return chat
        begun = {"role": "assistant", "content": self.sent}
        return replace(chat, body={**chat.body, "messages": [*chat.body["messages"], begun]})


class _Passing:
    """What of one call is passed on, and when.

    Before the first token nothing is, so that a target that breaks there leaves no trace. Calls of tools are
    held until they are whole: nobody can use half of one, and until then another target can make it.
    """

    def __init__(self, stream: RescuedStream, step: ChatStep) -> None:
        self.held: list[Chunk] = []
        self._stream = stream
        self._holds = stream.rescue == "buffer"
        # What was sent before must be said again, unless the target goes on from it.
        self._expected = "" if step.continues_prefix else stream.sent
        self._matched = 0
        self._finished = False

    def of(self, chunk: Chunk) -> list[Chunk]:
        """The pieces that may be sent now."""
        delta = chunk.delta
        says = chunk.finish_reason or any(delta.get(key) for key in delta if key != "role")
        # The usage, which no choice comes with, is for an answer that is whole.
        if not says and (chunk.body["choices"] or not self._finished):
            return []
        text = delta.get("content") or ""
        if text and self._matched < len(self._expected):
            chunk, text = self._new_part(chunk, text)
            if not text and not chunk.finish_reason:
                return []
        if chunk.finish_reason:
            self._finished = True
            self.check_end()
        if self._stream.rescue == "restart" and (delta.get("tool_calls") or delta.get("function_call")):
            self._holds = True
        if self._holds:
            self.held.append(chunk)
            return []
        self._stream.sent += text
        return [chunk]

    def check_end(self) -> None:
        """Raises Diverged if the answer is over before it has said again what was sent."""
        if self._matched < len(self._expected):
            raise Diverged("another target's answer is shorter than what was sent of the first")

    def _new_part(self, chunk: Chunk, text: str) -> tuple[Chunk, str]:
        left = self._expected[self._matched :]
        length = min(len(left), len(text))
        if text[:length] != left[:length]:
            raise Diverged("another target's answer begins otherwise than what was sent of the first")
        self._matched += length
        new = text[length:]
        choice: dict[str, Any] = chunk.body["choices"][0]
        own = {**choice, "delta": {**choice["delta"], "content": new}}
        return Chunk({**chunk.body, "choices": [own]}, chunk.usage), new
