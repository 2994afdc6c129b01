"""Errors in the shapes that the three vendors document, and what each is with us."""

from typing import Any

from trivium.errors import (
    AccessDenied,
    ContextOverflow,
    Overloaded,
    PolicyRefused,
    ProviderError,
    RateLimited,
    RequestRefused,
    StepError,
)

SECRET = "sk-secret"  # a vendor may repeat it


def openai_error(code: str | None, kind: str, message: str = "no") -> dict[str, Any]:
    """An error of this vendor."""
    return {"error": {"message": f"{message} {SECRET}", "type": kind, "param": None, "code": code}}


def anthropic_error(kind: str, message: str = "no") -> dict[str, Any]:
    """An error of this vendor."""
    return {"type": "error", "error": {"type": kind, "message": f"{message} {SECRET}"}, "request_id": "req_1"}


def google_error(code: int, status: str, message: str = "no", *details: Any) -> dict[str, Any]:
    """An error of this vendor."""
    told = {"code": code, "message": f"{message} {SECRET}", "status": status}
    return {"error": {**told, **({"details": list(details)} if details else {})}}


_PAUSE = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}
_BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
ERRORS: list[tuple[str, int, dict[str, Any], type[StepError]]] = [
    ("openai", 429, openai_error("rate_limit_exceeded", "requests"), RateLimited),
    ("openai", 429, openai_error("insufficient_quota", "insufficient_quota"), RateLimited),
    ("openai", 400, openai_error("context_length_exceeded", "invalid_request_error"), ContextOverflow),
    ("openai", 400, openai_error("content_filter", "invalid_request_error"), PolicyRefused),
    ("openai", 400, openai_error(None, "invalid_request_error"), RequestRefused),
    ("openai", 500, openai_error(None, "server_error"), ProviderError),
    ("anthropic", 529, anthropic_error("overloaded_error"), Overloaded),
    ("anthropic", 429, anthropic_error("rate_limit_error"), RateLimited),
    ("anthropic", 500, anthropic_error("api_error"), ProviderError),
    ("anthropic", 504, anthropic_error("timeout_error"), ProviderError),
    ("anthropic", 400, anthropic_error("invalid_request_error"), RequestRefused),
    (
        "anthropic",
        400,
        anthropic_error("invalid_request_error", "prompt is too long: 210000 tokens"),
        ContextOverflow,
    ),
    ("anthropic", 401, anthropic_error("authentication_error"), AccessDenied),
    ("anthropic", 403, anthropic_error("permission_error"), AccessDenied),
    ("google", 429, google_error(429, "RESOURCE_EXHAUSTED", "quota", _PAUSE), RateLimited),
    ("google", 503, google_error(503, "UNAVAILABLE", "The model is overloaded."), Overloaded),
    ("google", 500, google_error(500, "INTERNAL"), ProviderError),
    ("google", 504, google_error(504, "DEADLINE_EXCEEDED"), ProviderError),
    ("google", 400, google_error(400, "INVALID_ARGUMENT"), RequestRefused),
    (
        "google",
        400,
        google_error(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number"),
        ContextOverflow,
    ),
    (
        "google",
        400,
        google_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", _BAD_KEY),
        AccessDenied,
    ),
    ("google", 403, google_error(403, "PERMISSION_DENIED"), AccessDenied),
    ("google", 404, google_error(404, "NOT_FOUND"), AccessDenied),
]
