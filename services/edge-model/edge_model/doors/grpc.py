"""The Open Inference Protocol over gRPC: `GRPCInferenceService`, on a port of its own."""

import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import structlog

from edge_model.doors import metadata
from edge_model.doors import open_inference_pb2 as pb
from edge_model.doors.endpoints import refuse_if_empty, refuse_if_stuck
from edge_model.doors.messages import answered, asked_of
from edge_model.inference import deadline_of
from edge_model.settings import EdgeSettings
from edge_model.state import EdgeState
from trivium.errors import (
    ConfigurationError,
    InvalidRequest,
    NotFound,
    TooLarge,
    TriviumError,
    Unauthenticated,
    Unavailable,
)
from trivium.http import DEADLINE_HEADER
from trivium.metrics import EDGE_REQUESTS
from trivium.telemetry import REQUEST_ID_HEADER, request_id_of
from trivium.tracing import active, arrived, current

log = structlog.get_logger()
SERVICE = "inference.GRPCInferenceService"
DRAIN_S = 10.0
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Method = Callable[[Any, Context], Awaitable[Any]]
_CODES: list[tuple[type[TriviumError], grpc.StatusCode]] = [
    (TooLarge, grpc.StatusCode.INVALID_ARGUMENT),
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
]
_FAULTS = frozenset({"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""Of ours, as the semantic conventions have it; the others are the caller's."""
_UNTRACED = frozenset({"ServerLive", "ServerReady"})
_BY_STATUS = {503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED}


class GrpcDoor:
    """The service's methods."""

    def __init__(self, state: EdgeState) -> None:
        self._state = state
        self._key = state.settings.service_key.get_secret_value().encode()

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, as a server takes them; all but the two of health need the service key."""
        methods: dict[str, tuple[Method, Any]] = {
            "ServerLive": (self._server_live, pb.ServerLiveRequest),
            "ServerReady": (self._server_ready, pb.ServerReadyRequest),
            "ModelReady": (self._keyed(self._model_ready), pb.ModelReadyRequest),
            "ServerMetadata": (self._keyed(self._server_metadata), pb.ServerMetadataRequest),
            "ModelMetadata": (self._keyed(self._model_metadata), pb.ModelMetadataRequest),
            "ModelInfer": (self._keyed(self._model_infer), pb.ModelInferRequest),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    _traced(name, _answering_errors(method)),
                    request_deserializer=message.FromString,
                    response_serializer=lambda answer: answer.SerializeToString(),
                )
                for name, (method, message) in methods.items()
            },
        )

    def _keyed(self, method: Method) -> Method:
        async def keyed(request: Any, context: Context) -> Any:
            sent = _told(context, "authorization").encode()
            if not hmac.compare_digest(sent, b"Bearer " + self._key):
                raise Unauthenticated("Send the metadata 'authorization: Bearer <service key>'")
            return await method(request, context)

        return keyed

    async def _server_live(self, request: Any, context: Context) -> Any:
        return pb.ServerLiveResponse(live=_holds(lambda: refuse_if_stuck(self._state)))

    async def _server_ready(self, request: Any, context: Context) -> Any:
        return pb.ServerReadyResponse(ready=_holds(lambda: refuse_if_empty(self._state)))

    async def _model_ready(self, request: Any, context: Context) -> Any:
        self._state.core.registry.get(request.name, request.version)
        return pb.ModelReadyResponse(ready=True)

    async def _server_metadata(self, request: Any, context: Context) -> Any:
        return pb.ServerMetadataResponse(**metadata.server_metadata())

    async def _model_metadata(self, request: Any, context: Context) -> Any:
        registry = self._state.core.registry
        card = registry.get(request.name, request.version).card
        return pb.ModelMetadataResponse(**metadata.model_metadata(card, registry.versions(card.name)))

    async def _model_infer(self, request: Any, context: Context) -> Any:
        started = time.monotonic()
        self._state.core.runner.refuse_if_full()
        asked = asked_of(request)
        answer = await self._state.core.infer(asked, started, _deadline_ms(context))
        return answered(answer, raw=bool(request.raw_input_contents))


@asynccontextmanager
async def serve_grpc(settings: EdgeSettings, state: EdgeState) -> AsyncIterator[None]:
    """Serves while the context lasts, then drains for up to ten seconds.

    Raises:
        ConfigurationError: the port is taken.
    """
    options = [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((GrpcDoor(state).handler(),))
    address = f"{settings.host}:{settings.port_of('edge_grpc')}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigurationError(
            f"{address} cannot be listened on; set TRIVIUM_EDGE_GRPC_PORT to a free port"
        ) from error
    await server.start()
    try:
        yield
    finally:
        await server.stop(DRAIN_S)


def _answering_errors(method: Method) -> Method:
    async def answering(request: Any, context: Context) -> Any:
        status = "OK"
        try:
            return await method(request, context)
        except TriviumError as error:
            code = _code_of(error)
            status = code.name
            if error.retry_after_s is not None:
                pushback = f"{error.retry_after_s * 1000:.0f}"
                context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
            await context.abort(code, error.detail)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # a bug answers INTERNAL and is logged, as over REST
            status = "INTERNAL"
            request_id = request_id_of(_told(context, REQUEST_ID_HEADER).encode())
            log.error("unexpected_error", exc_info=error, request_id=request_id)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            if isinstance(request, pb.ModelInferRequest):
                EDGE_REQUESTS.labels("grpc", status).inc()
            span = current()
            span.set({"rpc.response.status_code": status})
            if status in _FAULTS:
                span.fail(status)

    return answering


def _traced(name: str, method: Method) -> Method:
    """The method with a span for each call; health's, and where nothing is traced all, as they are."""
    if name in _UNTRACED or not active():
        return method
    told = {"rpc.system.name": "grpc", "rpc.method": f"{SERVICE}/{name}"}

    async def traced(request: Any, context: Context) -> Any:
        sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        span = arrived(f"{SERVICE}/{name}", sent, told)
        try:
            with span.here():
                return await method(request, context)
        finally:  # its status tells how it ended, not what ended the call
            span.end()

    return traced


def _code_of(error: TriviumError) -> grpc.StatusCode:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return _BY_STATUS.get(error.status, grpc.StatusCode.INTERNAL)


def _holds(check: Callable[[], None]) -> bool:
    try:
        check()
    except Unavailable:
        return False
    return True


def _told(context: Context, name: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode(errors="replace")
    return ""


def _deadline_ms(context: Context) -> float | None:
    """The nearer of gRPC's own deadline and the metadata's; None without either."""
    found = []
    if told := _told(context, DEADLINE_HEADER.lower()):
        found.append(deadline_of(told, DEADLINE_HEADER))
    if (left_s := context.time_remaining()) is not None:
        found.append(max(0.0, left_s * 1000))
    return min(found, default=None)
