"""Runs of pre-computation: started, watched, cancelled, replayed."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from gateway.routes.audited import AuditedRoute, AuditedStrictRoute, audited, note
from gateway.routes.problems import PROBLEMS
from gateway.state import GatewayState, State, demand_feature, scope
from trivium.domain.variants import PrecomputedVariant
from trivium.errors import (
    Conflict,
    FieldFault,
    InvalidRequest,
    MalformedBody,
    TooLarge,
    TriviumError,
    UnsupportedMediaType,
)
from trivium.features import Feature
from trivium.openapi import problem
from trivium.precompute.allowed import below
from trivium.precompute.importing import refuse_bad_lines
from trivium.precompute.lease import LeaseLost, kept
from trivium.precompute.records import Checker
from trivium.precompute.sources import of_lines, unpacked
from trivium.precompute.starting import new_run, precomputed_variant
from trivium.store.keys import Key
from trivium.store.runs import NewRun, RunProgress

router = APIRouter(prefix="/v1", tags=["precompute"], responses=PROBLEMS, route_class=AuditedStrictRoute)
# The body of a run is read as a stream, line by line.
streamed = APIRouter(prefix="/v1", tags=["precompute"], responses=PROBLEMS, route_class=AuditedRoute)
Precompute = Annotated[Key, Depends(scope("precompute"))]
Overseer = Annotated[Key, Depends(scope("precompute", "admin"))]
LINES = ("application/x-ndjson", "application/jsonl", "application/jsonlines")
LEASE_S = 30.0


class StartIn(BaseModel):
    """A run whose entities the worker fetches itself."""

    model_config = ConfigDict(extra="forbid")

    source: Literal["archive", "source"] = Field(
        "archive", description="The archive as it stands, or the manifest's source."
    )
    url: str | None = Field(
        None,
        max_length=2_048,
        description="In place of `source`: a JSONL or CSV (also .gz) that fsspec opens; it must lie below "
        "one of TRIVIUM_SOURCE_URLS.",
    )
    variant: str | None = Field(None, description="By default the one that is served.")
    strict: bool = Field(False, description="With one wrong line none is taken.")
    force: bool = Field(False, description="Also entities that have not changed.")
    overlap: Literal["refuse", "queue"] = Field(
        "refuse", description="What becomes of it while another run of the variant is under way."
    )


class LineError(BaseModel):
    """A line of the source that is no entity."""

    line: int | str
    message: str


class RunOut(BaseModel):
    """How far a run is. Entities by what became of them; `total` grows while they are imported."""

    run_id: str
    feature: str
    variant: str
    variant_version: str
    trigger: str = Field(description="api, cli, schedule, replay, refresh or start.")
    state: str = Field(description="queued, running, done, done_with_errors, failed or cancelled.")
    phase: str = Field(description="import, embed, select or compute.")
    total: int
    computed: int
    unchanged: int = Field(description="Neither input nor variant changed, so nothing was computed.")
    abstained: int = Field(description="The model knew that it cannot answer; no error.")
    failed: int
    gone: int = Field(description="No longer in the archive; their results were dropped.")
    bad_lines: int
    line_errors: list[LineError] = Field(description="The first 100.")
    rate: float | None = Field(description="Entities a second, lately; of an ended run, on average.")
    eta_s: float | None
    cost_usd: float
    error: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    chunks: dict[str, int] = Field(description="By state.")


class DeadOut(BaseModel):
    """An entity that could not be computed."""

    entity_key: str
    code: str
    detail: str
    abstained: bool
    replayed_in: str | None


class DeadPage(BaseModel):
    """Entities that a run could not compute, in order of their keys."""

    items: list[DeadOut]
    next: str | None = Field(description="Give it as `after` for the next page.")


_BODY = {
    "requestBody": {
        "content": {
            "application/json": {"schema": StartIn.model_json_schema()},
            LINES[0]: {
                "schema": {
                    "type": "string",
                    "description": "A record a line; `Content-Encoding: gzip` is taken.",
                }
            },
        }
    }
}


@streamed.post(
    "/features/{feature}/precompute",
    status_code=202,
    responses={
        200: {"model": RunOut, "description": "The run that was started with this Idempotency-Key."},
        409: problem("Another run of the variant is under way."),
        415: problem("Neither JSON nor JSON lines."),
    },
    openapi_extra=_BODY,
)
@audited("runs.start")
async def start_run(
    feature: str,
    request: Request,
    response: Response,
    state: State,
    key: Precompute,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    variant: Annotated[str | None, Query(description="Of a body of lines.")] = None,
    strict: Annotated[bool, Query(description="Of a body of lines.")] = False,
    force: Annotated[bool, Query(description="Of a body of lines.")] = False,
    overlap: Annotated[Literal["refuse", "queue"], Query(description="Of a body of lines.")] = "refuse",
) -> RunOut:
    """Starts a run: over a body of JSON lines, which are imported before it answers, or over a source."""
    loaded = state.catalogue.get(feature)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in LINES:
        asked = StartIn(variant=variant, strict=strict, force=force, overlap=overlap)
        run_id, created = await _start_with_lines(state, loaded, asked, request, key, idempotency_key)
    elif kind in ("application/json", ""):
        asked = _parsed(await _small_body(request, state.settings.max_body_bytes))
        new = _run_of(state, loaded, asked, key, idempotency_key)
        run_id, created = await state.runs.start(new, overlap=asked.overlap)
    else:
        raise UnsupportedMediaType(f"Content-Type {kind!r}: send application/json or {LINES[0]}")
    if not created:
        response.status_code = 200
    note(request, run=run_id, created=created)
    response.headers["Location"] = f"/v1/precompute/{run_id}"
    return run_out(await state.runs.progress(run_id))


@router.get("/features/{feature}/precompute")
async def list_runs(
    feature: str, state: State, _: Overseer, limit: Annotated[int, Query(ge=1, le=50)] = 20
) -> list[RunOut]:
    """The latest runs of a feature, newest first."""
    state.catalogue.get(feature)
    return [run_out(await state.runs.progress(run_id)) for run_id in await state.runs.newest(feature, limit)]


@router.get("/precompute/{run_id}")
async def watch_run(run_id: str, state: State, key: Overseer) -> RunOut:
    """How far a run is."""
    return run_out(await _progress(state, run_id, key))


@router.get("/precompute/{run_id}/dead")
async def list_dead(
    run_id: str,
    state: State,
    key: Overseer,
    after: Annotated[str, Query(max_length=512)] = "",
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> DeadPage:
    """What a run could not compute, and why."""
    await _progress(state, run_id, key)
    items = await state.runs.dead_items(run_id, after, limit)
    following = items[-1]["entity_key"] if len(items) == limit else None
    return DeadPage(items=[DeadOut(**item) for item in items], next=following)


@router.post("/precompute/{run_id}/cancel")
@audited("runs.cancel")
async def cancel_run(run_id: str, request: Request, state: State, key: Overseer) -> RunOut:
    """Ends a run; what it has stored stays. A run that has ended is left as it is."""
    note(request, feature=(await _progress(state, run_id, key)).feature)
    await state.runs.cancel(run_id)
    return run_out(await state.runs.progress(run_id))


@router.post(
    "/precompute/{run_id}/replay",
    status_code=202,
    responses={409: problem("The run has not ended, or nothing of it is left to replay.")},
)
@audited("runs.replay")
async def replay_run(
    run_id: str, request: Request, state: State, response: Response, key: Precompute
) -> RunOut:
    """Starts a run over what failed in an ended one."""
    await _progress(state, run_id, key)
    made = await state.runs.replay(run_id, key.id)
    note(request, run=made)
    response.headers["Location"] = f"/v1/precompute/{made}"
    return run_out(await state.runs.progress(made))


async def _progress(state: GatewayState, run_id: str, key: Key) -> RunProgress:
    """A run of a feature that the key may call; raises NotFound, Forbidden."""
    run = await state.runs.progress(run_id)
    demand_feature(key, run.feature)
    return run


def run_out(run: RunProgress) -> RunOut:
    """The wire shape of a run."""
    return RunOut(**{name: getattr(run, name) for name in RunOut.model_fields})


async def _small_body(request: Request, limit: int) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise TooLarge(f"The body is over {limit} bytes; JSON lines may be longer, as {LINES[0]}")
    return body


def _parsed(body: bytes) -> StartIn:
    try:
        return StartIn.model_validate_json(body or b"{}")
    except ValidationError as error:
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            raise MalformedBody(f"The body is not JSON: {error.errors()[0]['ctx']['error']}") from error
        raise RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
        ) from error


def _run_of(
    state: GatewayState, feature: Feature, asked: StartIn, key: Key, idempotency: str | None
) -> NewRun:
    variant, spec = precomputed_variant(feature, asked.variant)
    source: dict[str, Any]
    if asked.url is not None:
        try:
            within = below(asked.url, state.settings.source_urls)
        except ValueError as error:
            raise InvalidRequest(
                f"url {error}", errors=(FieldFault("url", str(error), asked.url),)
            ) from error
        source = {"kind": "url", "url": asked.url, "within": within}
    elif asked.source == "source" and spec.source is None:
        fault = FieldFault("source", f"{feature.name} {variant.name} has none in its manifest", "source")
        raise InvalidRequest(f"source: {fault.message}", errors=(fault,))
    else:
        source = {"kind": asked.source}
    if asked.strict and source["kind"] != "archive":
        source["strict"] = True
    return new_run(
        feature,
        variant,
        source,
        trigger="api",
        idempotency_key=idempotency,
        key_id=key.id,
        force=asked.force,
    )


async def _start_with_lines(
    state: GatewayState,
    feature: Feature,
    asked: StartIn,
    request: Request,
    key: Key,
    idempotency: str | None,
) -> tuple[str, bool]:
    variant, spec = precomputed_variant(feature, asked.variant)
    settings = state.settings
    lines = unpacked(
        request.stream(),
        gzipped=request.headers.get("content-encoding", "").lower() == "gzip",
        max_bytes=settings.upload_max_bytes,
        max_line=settings.upload_line_bytes,
    )
    new = new_run(
        feature,
        variant,
        {"kind": "body"},
        trigger="api",
        idempotency_key=idempotency,
        key_id=key.id,
        force=asked.force,
    )
    if not asked.strict:
        return await _import(state, new, asked.overlap, spec, lines, Checker(feature, spec))
    folder = settings.state_dir / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".jsonl") as spool:
        path = Path(spool.name)
        checker = Checker(feature, spec)
        await refuse_bad_lines(of_lines(_spooled(lines, path), checker, spec.chunk_rows))
        return await _import(state, new, asked.overlap, spec, _read(path), checker)


async def _import(
    state: GatewayState,
    new: NewRun,
    overlap: str,
    spec: PrecomputedVariant,
    lines: AsyncIterator[bytes],
    checker: Checker,
) -> tuple[str, bool]:
    """Starts a run and imports its lines; a body that ends too soon ends the run, and frees its key."""
    run_id, created = await state.runs.start(new, overlap=overlap, lease_s=LEASE_S)
    if not created:
        return run_id, False
    claim = await state.chunks.held_import(run_id)
    try:
        async with kept(state.chunks, claim, LEASE_S):
            await state.importer.run(claim, spec, of_lines(lines, checker, spec.chunk_rows))
    except LeaseLost:
        raise Conflict(f"Run {run_id} was cancelled while its body was read") from None
    except (ClientDisconnect, asyncio.CancelledError):
        await asyncio.shield(state.runs.fail(run_id, "the body was cut short; send it again", free_key=True))
        raise
    except TriviumError as error:
        await state.runs.fail(run_id, error.detail, free_key=True)
        raise
    return run_id, True


async def _spooled(lines: AsyncIterator[bytes], path: Path) -> AsyncIterator[bytes]:
    """The lines, each written to a file as it passes."""
    with path.open("wb") as stream:
        async for line in lines:
            stream.write(line + b"\n")
            yield line


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        for line in stream:
            yield line
