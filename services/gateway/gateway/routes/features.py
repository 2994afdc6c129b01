"""`/v1/features`: what there is, and answers."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.routes.infer_stream import Heard, streamed
from gateway.routes.inferences import GENERATING, InferenceOut, answered
from gateway.routes.problems import LIMITED, PROBLEMS
from gateway.state import State, scope, wants_fresh
from trivium.domain.inference import Question, Subject
from trivium.features import Feature
from trivium.openapi import Responses
from trivium.store.inferences import rows_of
from trivium.store.keys import Key
from trivium.web import StrictRoute

router = APIRouter(prefix="/v1/features", tags=["features"], responses=PROBLEMS, route_class=StrictRoute)
Infer = Annotated[Key, Depends(scope("infer"))]
Reader = Annotated[Key, Depends(scope("infer", "admin"))]


class SubjectIn(BaseModel):
    """The end user an answer is for; a rollout keeps a subject in its arm."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=256, examples=["customer-17"])
    properties: dict[str, str] = Field({}, description="For the flag's constraints.")


class InferIn(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any] = Field({}, description="Must match the feature's input schema.")
    subject: SubjectIn
    entity_key: str | None = Field(
        None, min_length=1, max_length=512, description="What a stored result is for."
    )
    deadline_ms: int | None = Field(
        None, ge=1, le=60_000, description="Milliseconds; by default the manifest's."
    )
    mode: Literal["sync", "async", "stream"] = Field(
        "sync",
        description="async: where no stored result can be served, answer 202 at once instead of asking the "
        "other steps of the chain. stream: server-sent events `begin`, `delta` (the model's own text, not "
        "yet checked) and `done` with the answer.",
    )


class FeatureOut(BaseModel):
    """A feature as its manifest declares it."""

    feature: str
    owner: str
    input: dict[str, Any]
    output: dict[str, Any]
    deadline_ms: int
    serve: str
    fallback: list[str]
    variants: dict[str, dict[str, Any]] = Field(description="Each with its pattern and version.")
    example: dict[str, Any]


ANSWERS: Responses = {
    200: {
        "description": "The answer; with `mode: stream` the events that lead to it.",
        "content": {"text/event-stream": {}},
    }
}


@router.post("/{feature}/infer", response_model=InferenceOut, responses={**ANSWERS, **GENERATING, **LIMITED})
async def infer(
    feature: str, body: InferIn, request: Request, state: State, key: Infer
) -> InferenceOut | Response:
    """Answers a question inside its deadline, from the first step of the chain that can.

    Where that is a stored result which is not there yet, and nothing but the non-AI version could answer
    in its place, the answer is 202: the worker is asked for it.
    """
    subject = Subject(body.subject.id, body.subject.properties)
    heard = Heard() if body.mode == "stream" else None
    question = Question(body.input, body.entity_key, heard)
    serving = state.serving.serve(
        feature,
        question,
        subject,
        key,
        body.deadline_ms,
        wait=body.mode != "async",
        fresh=wants_fresh(request),
    )
    if heard:
        return await streamed(state, key, serving, heard)
    return answered(rows_of(await serving)[0])


@router.get("")
async def list_features(state: State, key: Reader) -> list[FeatureOut]:
    """Every feature that the key may call."""
    return [_feature_out(feature) for feature in state.catalogue if key.may_call(feature.name)]


@router.get("/{feature}")
async def get_feature(feature: str, state: State, _: Reader) -> FeatureOut:
    """One feature."""
    return _feature_out(state.catalogue.get(feature))


def _feature_out(feature: Feature) -> FeatureOut:
    manifest = feature.manifest
    return FeatureOut(
        feature=feature.name,
        owner=manifest.owner,
        input=manifest.input,
        output=manifest.output,
        deadline_ms=manifest.deadline_ms,
        serve=manifest.serve,
        fallback=[*manifest.chain[1:], "static"],
        variants={
            name: {"pattern": v.spec.pattern, "version": v.version} for name, v in feature.variants.items()
        },
        example=manifest.example.model_dump(exclude_none=True),
    )
