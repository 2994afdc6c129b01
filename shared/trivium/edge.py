"""The client of the edge model service: the Open Inference Protocol's REST, thin."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from trivium.errors import (
    ConnectionFailed,
    Overloaded,
    ProviderError,
    RequestRefused,
    StepTimeout,
)
from trivium.http import DEADLINE_HEADER, seconds_of
from trivium.tracing import Span, call

_TEXTS_A_CALL = 64


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's outputs for some texts, by name; each list has one entry a text."""

    model: str
    outputs: dict[str, list[Any]]


class EdgeClient:
    """Calls one edge model service."""

    def __init__(self, base_url: str, service_key: str, session: aiohttp.ClientSession) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {service_key}", "Content-Type": "application/json"}
        self._session = session

    async def predict(self, model: str, texts: list[str], outputs: list[str], timeout_s: float) -> Prediction:
        """Runs a model (`name` or `name/version`) over texts.

        Raises:
            StepError: StepTimeout, ConnectionFailed, Overloaded, RequestRefused or ProviderError.
        """
        name, _, version = model.partition("/")
        path = f"/v2/models/{name}" + (f"/versions/{version}" if version else "") + "/infer"
        body = {
            "inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}],
            "outputs": [{"name": output} for output in outputs],
        }
        with call(f"infer {model}") as span:
            if span.recording:
                span.set({**self._told(), "trivium.model": model, "trivium.rows": len(texts)})
            status, retry_after, raw = await self._posted(path, orjson.dumps(body), timeout_s, span)
            if status != 200:
                _refuse(status, retry_after, raw)
            return _prediction(raw, len(texts), outputs)

    async def _posted(
        self, path: str, body: bytes, timeout_s: float, span: Span
    ) -> tuple[int, str | None, bytes]:
        """Status, `Retry-After` and body of the answer."""
        headers = span.carry({**self._headers, DEADLINE_HEADER: f"{timeout_s * 1000:.0f}"})
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=timeout_s)
        try:
            async with self._session.post(
                self.base_url + path,
                data=body,
                headers=headers,
                timeout=limits,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
        except TimeoutError as error:
            raise StepTimeout(f"edge model: nothing within {timeout_s * 1000:.0f} ms") from error
        except aiohttp.ClientError as error:
            raise ConnectionFailed(f"edge model: {type(error).__name__}: {error}") from error
        span.set({"http.response.status_code": response.status})
        return response.status, response.headers.get("Retry-After"), raw

    def _told(self) -> dict[str, str | int | None]:
        """What a span says of the service."""
        address = urlsplit(self.base_url)
        return {
            "http.request.method": "POST",
            "server.address": address.hostname,
            "server.port": address.port or (443 if address.scheme == "https" else 80),
        }

    async def embed(self, model: str, texts: list[str], timeout_s: float = 30.0) -> list[list[float]]:
        """A vector of unit length for each text, in their order; `timeout_s` is for each call of several.

        Raises:
            StepError: as `predict`.
        """
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _TEXTS_A_CALL):
            part = texts[start : start + _TEXTS_A_CALL]
            vectors += (await self.predict(model, part, ["embedding"], timeout_s)).outputs["embedding"]
        return vectors


def _refuse(status: int, retry_after: str | None, raw: bytes) -> None:
    try:
        said = str(orjson.loads(raw)["error"])[:300]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        said = raw[:100].decode(errors="replace")
    detail = f"edge model answered {status}: {said}"
    if status in (429, 503):
        raise Overloaded(detail, retry_after_s=seconds_of(retry_after))
    if status == 504:
        raise StepTimeout(detail)
    if status in (400, 401, 403, 404, 413, 422):
        raise RequestRefused(detail)
    raise ProviderError(detail)


def _prediction(raw: bytes, rows: int, asked: list[str]) -> Prediction:
    try:
        answer = orjson.loads(raw)
        outputs = {o["name"]: _rows(o["data"], o["shape"]) for o in answer["outputs"]}
        model = f"{answer['model_name']}/{answer['model_version']}"
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ProviderError("edge model answered with something else than a prediction") from error
    if outputs.keys() != set(asked) or any(len(values) != rows for values in outputs.values()):
        raise ProviderError("edge model answered something else than it was asked")
    if any(value is None for values in outputs.values() for value in values):
        raise ProviderError("edge model answered with a number that is none")
    return Prediction(model, outputs)


def _rows(data: list[Any], shape: list[int]) -> list[Any]:
    """One entry a text: the flat data of a matrix is cut into its rows."""
    if len(shape) == 1:
        return data
    width = shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]
