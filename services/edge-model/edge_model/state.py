"""What the lifespan builds, and where the doors find it."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from edge_model.inference import Core
from edge_model.settings import EdgeSettings


@dataclass(frozen=True, slots=True)
class EdgeState:
    """Everything built in the lifespan."""

    settings: EdgeSettings
    core: Core


def state_of(request: HTTPConnection) -> EdgeState:
    """The state of the application that a request came to."""
    state: EdgeState = request.app.state.edge
    return state
