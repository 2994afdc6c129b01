"""The routes while they run: read from their file, read anew when it changes, and turned into steps."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from trivium.domain.cost import Price
from trivium.domain.hedge import Hedging
from trivium.domain.inference import ServedBy
from trivium.domain.recording import Keeping, Recording
from trivium.domain.route import PREFIX, Route, Routes, Target, parse_routes, version_of
from trivium.errors import ManifestError, NotFound, TargetBusy, TriviumError, Unavailable
from trivium.llm.prices import Tariff
from trivium.llm.provider import Chat, Completion, Limits, Provider
from trivium.llm.rescue import ChatStep
from trivium.llm.targets import ProviderMaker
from trivium.metrics import ROUTES_RELOADED

log = structlog.get_logger()
CHECK_S = 1.0
MAX_NAMES = 1_000
"""Models asked for by name, through a pattern, that are told apart."""


class Gate:
    """At most so many calls to a target at once; who waits too long for one to end is refused."""

    def __init__(self, target: str, at_once: int, max_wait_s: float) -> None:
        self._target = target
        self._max_wait_s = max_wait_s
        self._places = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def __call__(self, left_s: float) -> AsyncIterator[None]:
        """Held during a call; raises TargetBusy."""
        try:
            async with asyncio.timeout(min(self._max_wait_s, left_s)):
                await self._places.acquire()
        except TimeoutError:
            raise TargetBusy(f"{self._target} has as many calls under way as it may") from None
        try:
            yield
        finally:
            self._places.release()


@dataclass(frozen=True, slots=True)
class LiveTarget:
    """A target that can be called."""

    spec: Target
    provider: Provider
    gate: Gate | None


@dataclass(frozen=True, slots=True)
class LiveRoute:
    """A route with those of its targets that can be called."""

    name: str
    spec: Route
    version: str
    targets: dict[int, LiveTarget]
    hedging: Hedging | None
    keeping: Keeping

    def places(self) -> list[int]:
        """The places of the targets that can be called, in the order they are to be tried."""
        known = {id(target): place for place, target in enumerate(self.spec.targets)}
        order = [known[id(target)] for target in self.spec.in_order()]
        return [place for place in order if place in self.targets]

    def lot(self) -> list[int]:
        """The same, counted among those that can be called."""
        callable_ones = sorted(self.targets)
        return [callable_ones.index(place) for place in self.places()]


class RouteTable:
    """All routes; a file that is not right leaves the last that was."""

    def __init__(self, path: Path, make: ProviderMaker, tariff: Tariff) -> None:
        self._path = path
        self._make = make
        self._tariff = tariff
        self.on_change: Callable[[], None] = lambda: None
        self._stamp: tuple[object, ...] = ()
        self._routes = Routes()
        self._live: dict[str, LiveRoute] = {}
        self._steps: OrderedDict[tuple[str, str], dict[int, ChatStep]] = OrderedDict()
        self._told_apart: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Every route, as it is called."""
        return list(self._live)

    def load(self) -> None:
        """Reads the file; without one there are no routes.

        Raises:
            ManifestError: with a line for every fault. ConfigurationError: a key that it names is not there.
        """
        self._stamp = self._seen()
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{self._path}:1: cannot be read: {error}") from error
        routes = parse_routes(text, str(self._path))
        self._live = {name: self._alive(name, route) for name, route in routes.routes.items()}
        self._routes = routes
        self._steps.clear()
        self._tariff.overrides = {}

    def reload(self) -> bool:
        """Reads the file anew; a bad one keeps the routes as they are, and says so. True if it was taken."""
        before = self._routes, self._live, self._tariff.overrides
        try:
            self.load()
            self.on_change()
        except TriviumError as error:
            ROUTES_RELOADED.labels("refused").inc()
            log.error("routes_not_reloaded", detail=error.detail)
            self._routes, self._live, self._tariff.overrides = before
            self._steps.clear()
            return False
        ROUTES_RELOADED.labels("ok").inc()
        log.info("routes_reloaded", routes=len(self._live))
        return True

    async def watch(self) -> None:
        """Reloads when the file, or a file of keys that it names, has changed."""
        while True:
            await asyncio.sleep(CHECK_S)
            if self._seen() != self._stamp:
                self.reload()

    def find(self, model: str) -> LiveRoute:
        """The route of a model's name; raises NotFound with the names that there are."""
        found = self._routes.find(model)
        if found is None:
            known = ", ".join(self._live) or "none"
            raise NotFound(f"There is no route {model!r}; there are: {known}")
        return self._live[found[0]]

    def steps_of(self, route: LiveRoute, model: str) -> list[ChatStep]:
        """The steps that answer a model's name by a route, in the order they are to be tried.

        Raises:
            Unavailable: none of its targets can be called.
        """
        if not route.targets:
            raise Unavailable(f"{route.name}: no target has a key; the gateway's log says whose is missing")
        made = self.all_steps_of(route, model)
        return [made[place] for place in route.places()]

    def all_steps_of(self, route: LiveRoute, model: str) -> dict[int, ChatStep]:
        """The same by the places of their targets."""
        plain = model.removeprefix(PREFIX)
        made = self._steps.get((route.name, plain))
        if made is None:
            made = self._made(route, plain)
            self._steps[route.name, plain] = made
            if len(self._steps) > MAX_NAMES:
                self._steps.popitem(last=False)
        return made

    def _made(self, route: LiveRoute, asked: str) -> dict[int, ChatStep]:
        # Beyond so many a caller could fill metrics and breakers with names of its own making.
        if len(self._told_apart) < MAX_NAMES:
            self._told_apart.add(asked)
        shown = asked if asked in self._told_apart else route.spec.match or asked
        made = {}
        for place, target in route.targets.items():
            name = target.spec.name_for(shown)
            if target.spec.price:
                self._tariff.overrides[name] = Price(**target.spec.price.model_dump())
            made[place] = _step(route, target, asked, name)
        return made

    def _alive(self, name: str, route: Route) -> LiveRoute:
        targets = {}
        for place, target in enumerate(route.targets):
            provider = self._make.of(target)
            if provider is None:
                log.warning("provider_not_configured", route=name, provider=target.provider)
                continue
            gate = (
                Gate(target.name_for(target.model or ""), target.max_concurrency, target.max_wait_s)
                if target.max_concurrency
                else None
            )
            targets[place] = LiveTarget(target, provider, gate)
        recording = Recording(payload=route.payload, sample=route.payload_sample)
        hedging = Hedging(**route.hedge.model_dump()) if route.hedge else None
        return LiveRoute(name, route, version_of(route), targets, hedging, Keeping(recording))

    def _seen(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in (self._path, *self._key_files()))

    def _key_files(self) -> Iterable[Path]:
        for route in self._routes.routes.values():
            for target in route.targets:
                if target.api_key_file:
                    yield Path(target.api_key_file)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _step(route: LiveRoute, live: LiveTarget, asked: str, name: str) -> ChatStep:
    spec, provider = live.spec, live.provider
    model = spec.model_for(asked)
    times = spec.timeouts
    limits = Limits(times.total_s, times.connect_s, times.first_token_s, times.idle_s)

    async def ask(chat: Chat, seconds: float) -> Completion:
        return await provider.complete(
            Chat(model, chat.body), Limits(min(seconds, times.total_s), times.connect_s)
        )

    return ChatStep(
        served_by=ServedBy(route.name, "api", None, route.version, model),
        target=name,
        ask=ask,
        retries=spec.retries,
        granted_s=min(times.total_s, route.spec.deadline_ms / 1000 / len(route.spec.targets)),
        gate=live.gate,
        context_tokens=spec.context_tokens,
        stream=lambda chat, limits: provider.stream(Chat(model, chat.body), limits),
        limits=limits,
        continues_prefix=spec.continues_prefix,
    )
