"""TensorZero's gateway as a library, behind the least of an ASGI app, for `make bench-gateway`.

Its server is no Python package; the same Rust core is, so this measures the core and a bare uvicorn.
Started as `python tensorzero_app.py PORT CONFIG`, with the configuration's model `stub-model`.
"""

import importlib
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

tensorzero: Any = importlib.import_module("tensorzero")
PORT, CONFIG = int(sys.argv[1]), sys.argv[2]
Send = Callable[[dict[str, Any]], Awaitable[None]]
gateway: list[Any] = []


async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    """Every POST is a chat completion."""
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        await _begin(send, b"text/plain")
        await send({"type": "http.response.body", "body": b"ready"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = json.loads(body)
    system, *messages = asked["messages"]
    if not gateway:
        gateway.append(await tensorzero.AsyncTensorZeroGateway.build_embedded(config_file=CONFIG))
    answer = await gateway[0].inference(
        model_name="stub-model",
        input={"system": system["content"], "messages": messages},
        params={"chat_completion": {"max_tokens": asked["max_tokens"]}},
        stream=asked.get("stream", False),
    )
    await (_stream if asked.get("stream") else _whole)(answer, send)


async def _whole(answer: Any, send: Send) -> None:
    message = {"role": "assistant", "content": answer.content[0].text}
    usage = {
        "prompt_tokens": answer.usage.input_tokens,
        "completion_tokens": answer.usage.output_tokens,
        "total_tokens": answer.usage.input_tokens + answer.usage.output_tokens,
    }
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason.value}
    told = {"id": str(answer.inference_id), "object": "chat.completion", "choices": [choice], "usage": usage}
    await _begin(send, b"application/json")
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


async def _stream(chunks: Any, send: Send) -> None:
    await _begin(send, b"text/event-stream")
    async for chunk in chunks:
        delta = {"content": "".join(part.text for part in chunk.content)}
        finish = chunk.finish_reason and chunk.finish_reason.value
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        told = {"id": str(chunk.inference_id), "object": "chat.completion.chunk", "choices": [choice]}
        event = f"data: {json.dumps(told)}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _begin(send: Send, content_type: bytes) -> None:
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=PORT,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
