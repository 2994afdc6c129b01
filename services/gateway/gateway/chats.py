"""Chat completions by a route: like `serve()`, but the question and the answer are the caller's own."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from gateway.books import Books
from gateway.purse import Purse, Spending, estimated
from gateway.visit import CACHE
from trivium.domain.breaker import Breakers
from trivium.domain.fallback import Conduct, Deadline, Walk
from trivium.domain.hedge import LOST, ask_hedged
from trivium.domain.inference import Arm, Attempt, Inference, Question, ServedBy, StepAnswer, Usage
from trivium.errors import BreakerOpen, ParameterUnsupported, RequestRefused, StepError, TargetBusy
from trivium.llm.provider import Chat, Chunk, Completion, Json
from trivium.llm.rescue import ChatStep, RescuedStream
from trivium.patterns.routes import LiveRoute, RouteTable
from trivium.store.cache import ResponseCache
from trivium.store.keys import Key
from trivium.telemetry import new_id
from trivium.tracing import span

NOBODY = ServedBy("none", "api")
WHOLE = frozenset({"stop", "tool_calls"})
"""Finish reasons of answers that may be kept."""
DEFAULT_OUTPUT = 1_024


def _is_the_callers(error: StepError) -> bool:
    """What no other target would make good."""
    return isinstance(error, RequestRefused) and not isinstance(error, ParameterUnsupported)


@dataclass(slots=True)
class Exchange:
    """One request to a route, from its arrival to its place in the books."""

    route: LiveRoute
    chat: Chat
    steps: Sequence[ChatStep]
    walk: Walk[Chat, Completion]
    key: Key
    subject_id: str
    deadline_ms: int
    spending: Spending
    fresh: bool = False
    id: str = field(default_factory=new_id)
    started: float = field(default_factory=time.monotonic)
    made: Inference | None = None

    @property
    def cache_s(self) -> int | None:
        """How long answers are kept for the same request; None if they are not. Streams are not."""
        return self.route.spec.cache_s

    def cache_key(self) -> str:
        """Caller, version and the whole request."""
        version = f"{self.route.version}/{self.chat.model}"
        return ResponseCache.key_of(self.key.id, version, self.chat.body)

    @property
    def overhead_ms(self) -> float:
        """What was not spent on targets."""
        own = (time.monotonic() - self.started) * 1000
        return max(0.0, own - sum(attempt.latency_ms for attempt in self.walk.attempts))


class Chats:
    """Answers chats by the routes."""

    def __init__(
        self, routes: RouteTable, breakers: Breakers, books: Books, purse: Purse, cache: ResponseCache
    ) -> None:
        self.routes = routes
        self._breakers = breakers
        self._books = books
        self._purse = purse
        self._cache = cache

    def begin(
        self, model: str, body: Json, key: Key, subject_id: str, deadline_ms: int | None, *, fresh: bool
    ) -> Exchange:
        """A request that is about to be answered.

        Raises:
            NotFound: there is no such route. Unavailable: none of its targets can be called.
        """
        route = self.routes.find(model)
        spec = route.spec
        limit_ms = deadline_ms or spec.deadline_ms
        chat = Chat(model, body)
        spending = self._purse.spending(route.name, spec.monthly_usd, key, partial(_estimate, body))
        conduct = Conduct(spec.max_attempts, _is_the_callers, spending.admit if spending.limited else None)
        steps = self.routes.steps_of(route, model)
        walk = Walk(chat, Deadline.after_ms(limit_ms), self._breakers, _accept, conduct)
        return Exchange(route, chat, steps, walk, key, subject_id, limit_ms, spending, fresh)

    async def admit(self, exchange: Exchange) -> None:
        """Counts the request; raises LimitReached."""
        await self._purse.enter(exchange.key)

    async def complete(self, exchange: Exchange) -> Completion:
        """The whole answer, from the first target that can give one.

        Raises:
            StepError: none could; the books say so.
        """
        exchange.walk.span = span(f"inference {exchange.route.name}")
        if kept := await self._kept(exchange):
            return kept
        try:
            outcome, step = await self._through(exchange)
        except BaseException:
            self._close(exchange, "left", None, None, None)
            raise
        if isinstance(outcome, StepError):
            self._close(exchange, "failed", None, None, outcome.code)
            raise outcome
        others = (a.outcome for a in exchange.walk.attempts if a.target != step.target)
        reason = next((outcome for outcome in others if outcome != LOST), None)
        said = {"message": outcome.message, "finish_reason": outcome.finish_reason}
        self._close(exchange, "done", step, (said, outcome.model, outcome.usage), reason)
        if exchange.cache_s and reason is None and outcome.finish_reason in WHOLE:
            self._cache.put(exchange.cache_key(), [outcome.model, outcome.body], exchange.cache_s)
        return outcome

    async def _kept(self, exchange: Exchange) -> Completion | None:
        """The answer to the very same request of the same key, which costs nothing."""
        if exchange.cache_s is None or exchange.fresh:
            return None
        kept = await self._cache.get(exchange.route.name, exchange.cache_key())
        if kept is None:
            return None
        model, body = kept
        completion = Completion(body, model, None)
        step = exchange.steps[0]
        exchange.walk.attempts.append(Attempt(step.served_by, CACHE, "ok", 0.0, cost_usd=0.0))
        said = {"message": completion.message, "finish_reason": completion.finish_reason}
        self._close(exchange, "done", step, (said, model, None), None, cached=True)
        return completion

    async def stream(self, exchange: Exchange) -> AsyncGenerator[Chunk, None]:
        """The answer in pieces; raises StepError, before the first piece or after any."""
        exchange.walk.span = span(f"inference {exchange.route.name}")
        rescued = RescuedStream(exchange.walk, exchange.steps, exchange.route.spec.on_broken_stream)
        said: list[Chunk] = []
        keeps = exchange.route.spec.payload in ("full", "sampled")
        try:
            async with aclosing(rescued.pieces()) as pieces:
                async for piece in pieces:
                    if keeps:
                        said.append(piece)
                    yield piece
        except StepError as error:
            self._close(exchange, "failed", None, None, error.code)
            raise
        except BaseException:
            self._close(exchange, "left", None, None, None)
            raise
        step = rescued.served
        assert step
        answer = ({"message": _joined(said), "finish_reason": "stop"}, step.served_by.model, rescued.usage)
        self._close(exchange, "done", step, answer, rescued.reason)

    async def _through(self, exchange: Exchange) -> tuple[Completion | StepError, ChatStep]:
        walk, steps = exchange.walk, exchange.steps
        position: int | None = 0
        error: StepError | None = None
        while position is not None:
            step = steps[position]
            outcome: Completion | StepError
            if position == 0 and exchange.route.hedging:
                hedged = await ask_hedged(walk, steps, exchange.route.hedging)
                outcome, position = hedged
                step = steps[position]
            else:
                left = len(steps) - position
                outcome = await walk.ask(step, walk.budget_of(step, left), last=left == 1)
            if not isinstance(outcome, StepError):
                return outcome, step
            # That a target was not asked says less than why another failed.
            if error is None or not isinstance(outcome, BreakerOpen | TargetBusy):
                error = outcome
            position = walk.after(steps, position, outcome)
        assert error
        return error, step

    def _close(
        self,
        exchange: Exchange,
        status: Any,
        step: ChatStep | None,
        answer: tuple[Json, str | None, Usage | None] | None,
        reason: str | None,
        *,
        cached: bool = False,
    ) -> None:
        """Enters what became of a request into the books, however it ended."""
        attempts = exchange.walk.attempts
        route = exchange.route
        self._books.price(route.name, [attempt for attempt in attempts if attempt.target != CACHE])
        exchange.spending.settle(attempts)
        said, model, usage = answer or ({}, None, None)
        by = step.served_by if step else NOBODY
        made = Inference(
            id=exchange.id,
            feature=route.name,
            arm=Arm.TREATMENT,
            subject_id=exchange.subject_id,
            key_id=exchange.key.id,
            question=Question(dict(exchange.chat.body)),
            answer=StepAnswer(said, model=model, usage=usage),
            served_by=ServedBy(by.step, "api", None, route.version, (model or by.model or "")[:128] or None),
            degraded=reason is not None,
            fallback_reason=reason,
            attempts=attempts,
            deadline_ms=exchange.deadline_ms,
            latency_ms=(time.monotonic() - exchange.started) * 1000,
            created_at=time.time(),
            status=status,
            cached=cached,
        )
        with exchange.walk.span as whole:
            self._books.enter(made, route.keeping, whole)
        exchange.made = made


def _estimate(body: Json) -> Usage:
    """The tokens that a request may cost, rather too many than too few."""
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    # A negative one would be credited.
    each = most if isinstance(most, int) and most > 0 else DEFAULT_OUTPUT
    return estimated(len(orjson.dumps(body["messages"])), each * int(body.get("n") or 1))


def _accept(_: Completion) -> None:
    """Whatever is whole is an answer: what it should say is the caller's to know."""


def _joined(pieces: list[Chunk]) -> Json:
    text = "".join(piece.delta.get("content") or "" for piece in pieces)
    return {"role": "assistant", "content": text}
