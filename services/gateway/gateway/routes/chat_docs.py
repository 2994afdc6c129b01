"""How chats look, for the OpenAPI document; the endpoint itself reads its body faster than FastAPI would."""

from typing import Any

from gateway.routes.openai_errors import KINDS
from trivium.openapi import Responses

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
_COMPLETION = {
    "type": "object",
    "required": ["id", "object", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "model": {"type": ["string", "null"], "description": "That answered."},
        "choices": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    },
}
_LIST = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "object", "created", "owned_by"],
                "properties": {"id": {"type": "string"}, "object": {"const": "model"}},
            },
        },
    },
}


def _errors(*statuses: int) -> Responses:
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": KINDS[status], "content": content} for status in statuses}


RESPONSES: Responses = {
    200: {
        "description": "A completion in OpenAI's shape, or its pieces as server-sent events.",
        "content": {"application/json": {"schema": _COMPLETION}, "text/event-stream": {}},
    },
    **_errors(*KINDS),
}
MODELS: Responses = {
    200: {
        "description": "A list, in OpenAI's shape.",
        "content": {"application/json": {"schema": _LIST}},
    },
    **_errors(401, 403, 429, 503),
}
