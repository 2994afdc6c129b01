"""`…/costs`: what was spent, and what each stage of the rollout would cost."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from gateway.routes.problems import PROBLEMS
from gateway.state import GatewayState, State, demand_route, scope
from trivium.domain.route import PREFIX
from trivium.store.costs import Costs
from trivium.store.keys import Key

router = APIRouter(prefix="/v1", tags=["costs"], responses=PROBLEMS)
Reader = Annotated[Key, Depends(scope("infer", "admin"))]
Days = Annotated[int, Query(ge=1, le=366, description="Days to look back, today included.")]


class IntervalOut(BaseModel):
    """An estimate with its 95 % interval."""

    usd: float
    low: float
    high: float


class ProjectedOut(BaseModel):
    """A month at one share of the traffic."""

    share: float
    month: IntervalOut
    over_budget: bool | None


class TargetOut(BaseModel):
    """What one target was asked, and what that cost."""

    variant: str | None
    target: str
    attempts: int
    failed: int
    unpriced: int = Field(description="Attempts whose price is not known; they count as nothing here.")
    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    cost_usd: float


class CostsOut(BaseModel):
    """What a feature or a route cost."""

    name: str
    days: int
    budget_usd: float | None = Field(description="Of a month.")
    month_usd: float = Field(description="Spent since the month began, UTC.")
    eligible: int = Field(description="Requests, those of the control arm included.")
    treated: int = Field(description="Requests that got the AI.")
    unpriced: int = Field(description="Of them, those with an attempt whose price is not known.")
    cost_usd: float
    per_request: IntervalOut | None
    basis: str = Field(description="What the intervals cover: requests and traffic, requests, or nothing.")
    projected: list[ProjectedOut]
    by_target: list[TargetOut]


@router.get("/features/{feature}/costs")
async def feature_costs(feature: str, state: State, _: Reader, days: Days = 30) -> CostsOut:
    """What a feature cost, and its projected month at 5, 25, 50 and 100 % of its traffic."""
    budget = state.catalogue.get(feature).manifest.budget.monthly_usd
    return await _out(state, feature, days, budget)


@router.get("/routes/{route}/costs")
async def route_costs(route: str, state: State, key: Reader, days: Days = 30) -> CostsOut:
    """What a route cost, and its projected month."""
    demand_route(state, key, PREFIX + route)
    found = state.chats.routes.find(PREFIX + route)
    return await _out(state, found.name, days, found.spec.monthly_usd)


async def _out(state: GatewayState, name: str, days: int, budget: float | None) -> CostsOut:
    costs: Costs = await state.costs.of(name, days, budget)
    return CostsOut.model_validate(asdict(costs) | asdict(costs.projection))
