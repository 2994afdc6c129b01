"""Every way in which a provider is known to break, by name; each is played by a BrokenProvider."""

import asyncio
from collections.abc import Awaitable, Callable

from support.broken_provider import USAGE, WORDS, Call, Fate

OVERFLOW = "This model's maximum context length is 8192 tokens, however you requested 9000."
POLICY = "Your request was rejected by our content policy."


async def reset_at_once(call: Call) -> None:
    call.reset()


async def reset_after_headers(call: Call) -> None:
    await call.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
    await asyncio.sleep(0.02)
    call.reset()


async def cut_body(call: Call) -> None:
    await call.send('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"id":')
    call.writer.close()


async def black_hole(call: Call) -> None:
    await call.left()


async def stall_after_headers(call: Call) -> None:
    kind = "text/event-stream" if call.streams else "application/json"
    await call.send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 500\r\n\r\n")
    await call.left()


async def stall_in_body(call: Call) -> None:
    await call.send('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"id":')
    await call.left()


async def drip(call: Call) -> None:
    """A byte now and then, for ever."""
    await call.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50000\r\n\r\n")
    while True:
        await call.send(" ")
        await asyncio.sleep(0.05)


async def nonsense(call: Call) -> None:
    await call.send(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
    call.writer.close()


async def html(call: Call) -> None:
    body = "<html><h1>Bad gateway</h1></html>"
    await call.send(
        f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )


async def not_json(call: Call) -> None:
    await call.json(200, b'{"choices": [')


async def empty_body(call: Call) -> None:
    await call.json(200, b"")


async def no_choices(call: Call) -> None:
    await call.json(200, {"choices": [], "usage": USAGE})


async def no_finish_reason(call: Call) -> None:
    if call.streams:
        await call.open()
        await call.finish(None)
    else:
        await call.completion(finish=None)


async def error_under_200(call: Call) -> None:
    await call.json(200, {"error": {"message": "upstream failed", "code": 502}})


async def bad_utf8(call: Call) -> None:
    await call.json(200, b'{"choices": [{"message": {"content": "\xff\xfe"}, "finish_reason": "stop"}]}')


async def redirect(call: Call) -> None:
    await call.send("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/steal\r\nContent-Length: 0\r\n\r\n")


def status(number: int, message: str = "no", *headers: str, **more: object) -> Fate:
    """An HTTP error."""

    async def answer(call: Call) -> None:
        await call.error(number, message, *headers, **more)

    return answer


async def _begun(call: Call, words: int = 3) -> None:
    await call.open()
    await call.pieces(WORDS[:words])
    await asyncio.sleep(0.02)


async def cut_mid_stream(call: Call) -> None:
    await _begun(call)
    call.writer.close()


async def reset_mid_stream(call: Call) -> None:
    await _begun(call)
    call.reset()


async def stall_mid_stream(call: Call) -> None:
    await _begun(call)
    await call.left()


async def comments_mid_stream(call: Call) -> None:
    """It keeps the connection open, and says nothing."""
    await _begun(call)
    while True:
        await call.send(": keep-alive\n\n")
        await asyncio.sleep(0.05)


async def malformed_mid_stream(call: Call) -> None:
    await _begun(call)
    await call.event(b'{"choices": [{"delta": {"content": "bro')
    await call.finish()


async def error_mid_stream(call: Call) -> None:
    await _begun(call)
    await call.event({"error": {"message": "the server had an error", "type": "server_error", "code": None}})


async def rate_limit_mid_stream(call: Call) -> None:
    await _begun(call)
    await call.event({"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}})


async def done_without_finish(call: Call) -> None:
    await _begun(call, len(WORDS))
    await call.event(b"[DONE]")


async def closed_without_a_piece(call: Call) -> None:
    await call.open()
    call.writer.close()


async def done_without_a_piece(call: Call) -> None:
    await call.open()
    await call.event(b"[DONE]")


async def role_then_silence(call: Call) -> None:
    await call.open()
    await call.piece({"role": "assistant", "content": ""})
    await call.left()


async def cut_within_a_character(call: Call) -> None:
    await call.open()
    await call.pieces(WORDS[:2])
    await call.send(b'data: {"choices": [{"index": 0, "delta": {"content": "caf\xc3')
    call.writer.close()


async def broken_chunking(call: Call) -> None:
    await call.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await call.send("zz\r\nno length\r\n")
    call.writer.close()


async def tool_call_cut(call: Call) -> None:
    await call.open()
    await call.piece({"role": "assistant", "content": None})
    function = {"name": "look_up", "arguments": '{"order": '}
    await call.piece({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]})
    call.writer.close()


# Complete answers, if oddly told.
async def finish_without_done(call: Call) -> None:
    await _begun(call, len(WORDS))
    await call.finish(done=False, usage=False)
    call.writer.close()


async def finish_then_silence(call: Call) -> None:
    await _begun(call, len(WORDS))
    await call.finish(done=False, usage=False)
    await call.left()


def healing(fate: Fate, times: int) -> Fate:
    """Breaks so often, then answers."""
    left = times

    async def play(call: Call) -> None:
        nonlocal left
        left -= 1
        await (fate(call) if left >= 0 else call.completion())

    return play


def saying(text: str) -> Callable[[Call], Awaitable[None]]:
    """Answers something else."""

    async def play(call: Call) -> None:
        await call.completion(text)

    return play


ANY: dict[str, Fate] = {
    "reset at once": reset_at_once,
    "reset after headers": reset_after_headers,
    "cut body": cut_body,
    "black hole": black_hole,
    "stall after headers": stall_after_headers,
    "stall in the body": stall_in_body,
    "drip": drip,
    "no HTTP": nonsense,
    "HTML under 200": html,
    "cut JSON": not_json,
    "empty body": empty_body,
    "no choices": no_choices,
    "no finish reason": no_finish_reason,
    "error under 200": error_under_200,
    "no UTF-8": bad_utf8,
    "redirect": redirect,
    "401": status(401, "bad key"),
    "403": status(403, "not for you"),
    "404": status(404, "no such model"),
    "408": status(408, "too slow"),
    "429": status(429, "slow down"),
    "429, long Retry-After": status(429, "slow down", "Retry-After: 30"),
    "500": status(500, "oh"),
    "502": status(502, "oh"),
    "503": status(503, "busy"),
    "504": status(504, "oh"),
    "529": status(529, "overloaded"),
}
"""Faults that another target makes good, of buffered and of streamed answers."""
IN_STREAM: dict[str, Fate] = {
    "cut in mid-stream": cut_mid_stream,
    "reset in mid-stream": reset_mid_stream,
    "silence in mid-stream": stall_mid_stream,
    "comments in mid-stream": comments_mid_stream,
    "malformed event": malformed_mid_stream,
    "error event": error_mid_stream,
    "429 in mid-stream": rate_limit_mid_stream,
    "[DONE] without a finish reason": done_without_finish,
    "cut within a character": cut_within_a_character,
}
"""Faults after the first token."""
BEFORE_TOKENS: dict[str, Fate] = {
    "closed without a piece": closed_without_a_piece,
    "[DONE] without a piece": done_without_a_piece,
    "the role, then silence": role_then_silence,
    "broken chunking": broken_chunking,
    "cut call of a tool": tool_call_cut,
}
"""Faults of streams that leave no trace."""
WHOLE: dict[str, Fate] = {
    "finish without [DONE]": finish_without_done,
    "finish, then silence": finish_then_silence,
}
REFUSALS: dict[str, tuple[Fate, str]] = {
    "400": (status(400, "temperature must be at most 2"), "refused"),
    "413": (status(413, "too large"), "refused"),
    "422": (status(422, "no"), "refused"),
    "context overflow": (status(400, OVERFLOW, code="context_length_exceeded"), "context_overflow"),
    "policy": (status(400, POLICY, code="content_policy_violation"), "policy_refused"),
}
"""What no repetition changes, and the code that the caller is told."""
