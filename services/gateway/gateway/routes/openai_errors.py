"""Errors as OpenAI's SDKs know them."""

from math import ceil

import orjson
import structlog
from fastapi import Response

from trivium.errors import (
    BudgetExhausted,
    ConnectionFailed,
    ContextOverflow,
    InvalidRequest,
    LimitReached,
    NotFound,
    PolicyRefused,
    RateLimited,
    RequestRefused,
    StepError,
    TriviumError,
    Unauthenticated,
)

log = structlog.get_logger()
KINDS = {
    400: "The request is wrong, or the provider refused it; `param` names the field.",
    401: "No key, or not a valid one.",
    403: "The key lacks the scope, or may not call the route or feature.",
    404: "There is no such route or feature.",
    413: "The body is too large.",
    429: "A limit of the key, a budget or the provider's limit is reached, or wrong keys came from here.",
    502: "No target could answer.",
    503: "No target could be asked.",
    504: "No target answered in time.",
}
"""What each status of an error says."""
_CODES: dict[type[TriviumError], str] = {
    NotFound: "model_not_found",
    Unauthenticated: "invalid_api_key",
    ContextOverflow: "context_length_exceeded",
    PolicyRefused: "content_policy_violation",
    RateLimited: "rate_limit_exceeded",
    LimitReached: "rate_limit_exceeded",
    BudgetExhausted: "insufficient_quota",
}


def openai_error(error: TriviumError, headers: dict[str, str] | None = None) -> Response:
    """An error in OpenAI's shape, with our stable code beside theirs."""
    status = 400 if isinstance(error, InvalidRequest | RequestRefused) else error.status
    message = error.detail
    if status == 500:
        log.error("request_failed", code=error.code, detail=message)
        message = "The service is misconfigured; its log says how."
    if isinstance(error, ConnectionFailed):
        # What went wrong names hosts and ports of ours; the ledger keeps it.
        message = "A target could not be reached, or broke the connection off"
    told = {
        "message": message,
        "type": _type(status, error),
        "param": error.errors[0].field if error.errors else None,
        "code": _CODES.get(type(error), error.code),
        "trivium_code": error.code,
    }
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(max(1, ceil(error.retry_after_s)))
    elif isinstance(error, StepError) and status >= 500:
        # Every target was tried as often as it made sense.
        sent["x-should-retry"] = "false"
    if status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps({"error": told}), status, sent, "application/json")


def _type(status: int, error: TriviumError) -> str:
    if isinstance(error, BudgetExhausted):
        return "insufficient_quota"
    if status == 429:
        return "rate_limit_error"
    if status == 401:
        return "authentication_error"
    return "invalid_request_error" if status < 500 else "server_error"
