"""Candidates in the shadow of the served variant: they are asked too, afterwards, and nobody waits."""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog

from gateway.books import Books
from gateway.purse import Purse
from gateway.visit import estimate_of
from trivium.domain.breaker import Breakers, breaker_of
from trivium.domain.fallback import ChainResult, Conduct, Deadline, drawn, run_chain
from trivium.domain.inference import Arm, Attempt, Inference
from trivium.domain.manifest import SHADOW, Shadow
from trivium.errors import ConfigurationError
from trivium.features import Catalogue, Feature
from trivium.metrics import SHADOW_ANSWERS
from trivium.patterns.steps import Backends, FeatureStep, alone
from trivium.store.keys import Key
from trivium.telemetry import new_id
from trivium.tracing import apart

log = structlog.get_logger()
NOBODYS = Key("", "shadow", frozenset(), None)
"""A shadow draws on its own budget, never on a caller's."""


class Shadows:
    """Asks the candidates of a catalogue's manifests, each a share of the time, at most so many at once."""

    def __init__(self, catalogue: Catalogue, backends: Backends, purse: Purse, books: Books) -> None:
        self._catalogue = catalogue
        self._backends = backends
        self._purse = purse
        self._books = books
        # Of their own: a candidate's failures must not close the way of those who are served.
        self._breakers = Breakers(breaker_of)
        self._running: dict[str, set[asyncio.Task[None]]] = {}
        self.rebuild()

    def rebuild(self) -> None:
        """Makes the candidates' steps anew, after the routes that they go by have changed."""
        self._steps: dict[str, list[FeatureStep]] = {}
        for feature in self._catalogue:
            if feature.manifest.shadow:
                try:
                    steps = alone(feature, feature.manifest.shadow.variant, self._backends)
                except ConfigurationError as error:
                    log.warning("shadow_not_asked", feature=feature.name, detail=error.detail)
                else:
                    self._steps[feature.name] = steps

    def offer(self, feature: Feature, made: Inference) -> None:
        """Perhaps has a candidate answer what the served variant has just answered; returns at once."""
        shadow = feature.manifest.shadow
        if shadow is None or feature.name not in self._steps or not _is_comparable(made):
            return
        if random.random() >= shadow.share:
            return
        running = self._running.setdefault(feature.name, set())
        if len(running) >= shadow.at_once:
            SHADOW_ANSWERS.labels(feature.name, shadow.variant, "skipped").inc()
            return
        task = asyncio.create_task(self._ask(feature, shadow, made), name="shadow")
        running.add(task)
        task.add_done_callback(partial(_ended, running))

    async def stop(self) -> None:
        """Lets go of what still runs; it is not recorded."""
        tasks = [task for running in self._running.values() for task in running]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _ask(self, feature: Feature, shadow: Shadow, made: Inference) -> None:
        with apart(f"shadow {feature.name}") as span:
            span.set({"trivium.feature": feature.name, "trivium.inference_id": made.id})
            span.set({"trivium.variant": shadow.variant})
            started = time.monotonic()
            result = await self._asked(feature, shadow, made)
            self._enter(feature, shadow, made, result, (time.monotonic() - started) * 1000)

    async def _asked(self, feature: Feature, shadow: Shadow, made: Inference) -> ChainResult:
        question = replace(made.question, listener=None)
        variant = feature.variants[shadow.variant]
        name = SHADOW + feature.name
        estimate = partial(estimate_of, variant, question)
        spending = self._purse.spending(name, shadow.monthly_usd, NOBODYS, estimate)
        attempts: list[Attempt] = []
        try:
            return await run_chain(
                drawn(self._steps[feature.name]),
                question,
                Deadline.after_ms(feature.manifest.deadline_ms),
                self._breakers,
                feature.check_output,
                Conduct(admit=spending.admit),
                attempts,
            )
        finally:
            self._books.price(name, attempts)
            spending.settle(attempts)

    def _enter(
        self, feature: Feature, shadow: Shadow, made: Inference, result: ChainResult, latency_ms: float
    ) -> None:
        answered = result.served_by.variant == shadow.variant
        agrees = result.answer.output == made.answer.output if answered else None
        costs = [attempt.cost_usd for attempt in result.attempts]
        own = new_id()
        now = time.time()
        kept = feature.keeping.of(made.id, None, result.answer.output)["output"] if answered else None
        row = {
            "id": own,
            "inference_id": made.id,
            "feature": feature.name,
            "served_variant": made.served_by.variant,
            "served_version": made.served_by.version,
            "variant": shadow.variant,
            "version": feature.variants[shadow.variant].version,
            "outcome": "ok" if answered else result.fallback_reason,
            "output": kept,
            "agrees": agrees,
            "confidence": result.answer.confidence if answered else None,
            "latency_ms": latency_ms,
            "cost_usd": None if None in costs else sum(cost for cost in costs if cost),
            "created_at": now,
        }
        self._books.recorder.record_shadow(row, SHADOW + feature.name, result.attempts)
        told = "failed" if agrees is None else "agrees" if agrees else "differs"
        SHADOW_ANSWERS.labels(feature.name, shadow.variant, told).inc()


def _is_comparable(made: Inference) -> bool:
    return made.arm is Arm.TREATMENT and made.status == "done" and not made.degraded


def _ended(running: "set[asyncio.Task[None]]", task: "asyncio.Task[None]") -> None:
    running.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.error("shadow_failed", exc_info=error)
