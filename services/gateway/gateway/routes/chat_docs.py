"""How chats look, for the OpenAPI document; the endpoint itself reads its body faster than FastAPI would."""

from typing import Any

from gateway.routes.openai_errors import KINDS

_MESSAGE = {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}, "content": {}}}
_BODY = {
    "type": "object",
    "required": ["model", "messages"],
    "description": "As OpenAI's chat completions; what is not named here goes to the provider as it is.",
    "properties": {
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "route/<name>, a name that a route matches, or feature/<name>.",
            "examples": ["route/chat"],
        },
        "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
        "stream": {"type": ["boolean", "null"], "default": False},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
        "user": {"type": "string", "description": "The subject; by default the key stands for it."},
    },
    "additionalProperties": True,
}
REQUEST: dict[str, Any] = {"required": True, "content": {"application/json": {"schema": _BODY}}}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "trivium_code": {"type": "string"},
            },
        }
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A completion in OpenAI's shape, or its pieces as server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
    **{
        status: {"description": told, "content": {"application/json": {"schema": _ERROR}}}
        for status, told in KINDS.items()
    },
}
