"""Spans within one process: whose they are, when they end, and what they do not say."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from batch_worker.jobs.chunks import ChunkWorker
from batch_worker.jobs.factory import JobFactory
from batch_worker.jobs.imports import Imports
from batch_worker.jobs.neighbours import Spaces
from batch_worker.settings import WorkerSettings
from support.traced_features import write_features
from trivium import tracing
from trivium.domain.breaker import Breakers
from trivium.domain.fallback import Deadline, Step, run_chain, static_step
from trivium.domain.inference import Question, ServedBy, StepAnswer
from trivium.errors import RateLimited, SchemaViolation
from trivium.features import load_catalogue
from trivium.llm.settings import BackendSettings
from trivium.patterns.steps import make_backends
from trivium.precompute.importing import Importer
from trivium.precompute.starting import new_run, precomputed_variant
from trivium.store.archive import ArchiveRepository
from trivium.store.chunks import ChunkRepository
from trivium.store.engine import Database
from trivium.store.results import Refresh, ResultRepository
from trivium.store.runs import RunRepository
from trivium.tracing.recorded import OtelTracer

Made = Callable[[], dict[str, ReadableSpan]]


def _tracing(sampler: Sampler) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(OtelTracer(provider.get_tracer("tests")))
    return exporter


@pytest.fixture
def made() -> Iterator[Made]:
    """Traces in this process; the spans that have ended, by name."""
    exporter = _tracing(ALWAYS_ON)
    try:
        yield lambda: {span.name: span for span in exporter.get_finished_spans()}
    finally:
        tracing.use(None)


def _trace(span: ReadableSpan) -> int:
    trace_id: int = span.context.trace_id
    return trace_id


async def test_tasks_side_by_side_have_each_their_own_span(made: Made) -> None:
    async def request(name: str) -> tuple[str | None, str | None]:
        with tracing.span(name):
            before = tracing.traceparent()
            await asyncio.sleep(0)
            with tracing.span(f"{name} beneath"):
                await asyncio.sleep(0)
            return before, tracing.traceparent()

    found = await asyncio.gather(*(request(f"r{n}") for n in range(5)))
    assert all(before == after for before, after in found)
    assert len({before for before, _ in found}) == 5
    assert tracing.current() is tracing.NO_SPAN
    spans = made()
    for n in range(5):
        beneath = spans[f"r{n} beneath"]
        assert beneath.parent
        assert beneath.parent.span_id == spans[f"r{n}"].context.span_id


async def test_background_work_that_began_before_sees_no_request(made: Made) -> None:
    asked = asyncio.Event()
    seen: list[object] = []

    async def background() -> None:
        await asked.wait()
        seen.append(tracing.current())
        with tracing.span("background"):
            pass

    task = asyncio.create_task(background())
    await asyncio.sleep(0)
    with tracing.span("request"):
        asked.set()
        await task
    assert seen == [tracing.NO_SPAN]
    assert made()["background"].parent is None


async def test_work_that_nobody_waits_for_is_apart_and_linked(made: Made) -> None:
    async def shadow() -> None:
        with tracing.apart("shadow"):
            await asyncio.sleep(0)

    with tracing.span("request"):
        task = asyncio.create_task(shadow())
    await task
    request, apart = made()["request"], made()["shadow"]
    assert apart.parent is None
    assert _trace(apart) != _trace(request)
    assert [link.context.trace_id for link in apart.links] == [_trace(request)]


async def test_an_error_is_named_and_never_quoted(made: Made) -> None:
    for error, kind in (
        (RateLimited("secret words"), "rate_limited"),
        (ValueError("secret words"), "ValueError"),
        (asyncio.CancelledError("secret words"), "cancelled"),
    ):
        with pytest.raises(type(error)), tracing.span(kind):
            raise error
        span = made()[kind]
        assert span.attributes == {"error.type": kind}
        assert span.events == ()
        assert not span.status.is_ok
        assert span.status.description is None


async def test_what_is_not_sampled_is_not_made_but_goes_on(made: Made) -> None:
    exporter = _tracing(ALWAYS_OFF)
    with tracing.span("request") as span:
        kept = tracing.traceparent()
        assert kept
        with tracing.span("beneath") as beneath:
            attempt = beneath.attempt("target")
            with attempt.here(), tracing.call("call") as call:
                headers = call.carry({})
        assert not any(one.recording for one in (span, beneath, attempt, call))
        assert tracing.current() is span
    assert tracing.current() is tracing.NO_SPAN
    assert headers["traceparent"] == kept
    assert int(kept.rsplit("-", 1)[1], 16) & 1 == 0, "it says that it is sampled"
    assert exporter.get_finished_spans() == ()


async def test_a_call_takes_the_span_of_its_attempt_once(made: Made) -> None:
    with tracing.span("whole") as whole:
        attempt = whole.attempt("target")
        with attempt.here():
            with tracing.call("first call") as first:
                first.set({"n": 1})
            with tracing.call("second call"):
                pass
        assert set(made()) == {"second call"}, "the attempt has not ended with its call"
        attempt.end()
        attempt.set({"n": 2})
    spans = made()
    first_made = spans["first call"]
    assert first_made.attributes == {"n": 1}
    assert spans["second call"].parent == first_made.context
    assert first_made.parent == spans["whole"].context


async def test_outside_of_any_span_a_call_is_not_traced(made: Made) -> None:
    with tracing.call("alone") as span:
        assert span is tracing.NO_SPAN
    assert made() == {}


async def test_retries_repairs_and_steps_that_are_passed_over_are_told_apart(made: Made) -> None:
    tried: list[RateLimited | StepAnswer] = [
        RateLimited("busy"),
        StepAnswer({"label": "wrong"}),
        StepAnswer({"label": "right"}),
    ]
    answers = iter(tried)

    async def ask(question: Question, seconds: float) -> StepAnswer:
        answer = next(answers)
        if isinstance(answer, RateLimited):
            raise answer
        return answer

    async def repair(question: Question, violation: SchemaViolation, seconds: float) -> StepAnswer:
        return await ask(question, seconds)

    def check(output: dict[str, object]) -> None:
        if output["label"] != "right":
            raise SchemaViolation("it is not right")

    breakers = Breakers()
    for _ in range(40):
        breaker = breakers.of("broken")
        if admission := breaker.admit(may_probe=True):
            breaker.record(admission, ok=False)
    broken = Step(ServedBy("v0", "api", "v0", "1"), "broken", ask)
    step = Step(ServedBy("v1", "api", "v1", "1"), "target", ask, retries=2, repair=repair)
    with tracing.span("whole"):
        steps = [broken, step, static_step({"label": "x"})]
        result = await run_chain(steps, Question({}), Deadline.after_ms(5000), breakers, check)
    assert result.served_by.variant == "v1"
    whole = made()["whole"]
    assert [(event.name, (event.attributes or {})["trivium.target"]) for event in whole.events] == [
        ("trivium.passed_over", "broken")
    ]
    assert (whole.events[0].attributes or {})["trivium.outcome"] == "breaker_open"


async def test_every_attempt_of_the_ledger_has_its_span() -> None:
    exporter = _tracing(ALWAYS_ON)
    try:
        await test_retries_repairs_and_steps_that_are_passed_over_are_told_apart(
            lambda: {span.name: span for span in exporter.get_finished_spans()}
        )
    finally:
        tracing.use(None)
    attempts = [span for span in exporter.get_finished_spans() if span.name == "target"]
    outcomes = [(span.attributes or {})["trivium.outcome"] for span in attempts]
    assert outcomes == ["rate_limited", "schema_violation", "ok"]
    assert [span.status.is_ok for span in attempts] == [False, False, True]


async def test_a_chunk_of_wishes_by_several_is_linked_to_all_of_them(
    made: Made, root: Path, tmp_path: Path, database: Database
) -> None:
    features = write_features(tmp_path, root / "features")
    catalogue = load_catalogue(features)
    runs, chunks = RunRepository(database), ChunkRepository(database)
    archive, results = ArchiveRepository(database), ResultRepository(database)
    async with aiohttp.ClientSession() as session:
        settings = BackendSettings(features_dir=features)
        backends = make_backends(settings, session, results)
        jobs = JobFactory(catalogue, backends, Breakers(), archive, Spaces(archive), 1, {}, chunks, 1.0)
        imports = Imports(WorkerSettings(), archive, Importer(database, chunks, archive))
        worker = ChunkWorker(runs, chunks, archive, results, jobs, imports, 30.0, "test")
        feature = catalogue.get("ticket-triage")
        variant, _ = precomputed_variant(feature, "in-pieces")
        for keys in (["one", "two"], ["three"]):
            for key in keys:
                with tracing.span(f"request {key}"):
                    await results.ask([Refresh(feature.name, variant.name, key, "missing", {"text": key})])
            new = new_run(feature, variant, {"kind": "refresh"}, trigger="refresh", force=True)
            assert await runs.start_refresh(new, 10) == len(keys)
            ((chunk_id, _),) = await chunks.to_ring(10)
            await worker.work(chunk_id)
            spans = made()
            chunk = spans["compute ticket-triage"]
            asked = [spans[f"request {key}"] for key in keys]
            if len(asked) == 1:
                assert chunk.parent
                assert chunk.parent.span_id == asked[0].context.span_id
            else:
                assert chunk.parent is None
                assert {link.context.trace_id for link in chunk.links} == {_trace(span) for span in asked}
