"""The yardstick of `make bench-gateway`: a bare pass-through, FastAPI and aiohttp on uvicorn[standard].

It reads the body, sends it on, and sends back what comes: no keys, no routes, no record.
Started as `python passthrough.py PORT UPSTREAM`.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer upstream"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client session for all requests."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    """It answers."""
    return {"status": "ready"}


@app.post("/v1/chat/completions")
async def completions(request: Request) -> Response:
    """Sends on and back."""
    session: aiohttp.ClientSession = request.app.state.session
    body = await request.body()
    upstream = await session.post(f"{UPSTREAM}/chat/completions", data=body, headers=HEADERS)
    if upstream.content_type == "text/event-stream":
        return StreamingResponse(_pieces(upstream), upstream.status, media_type="text/event-stream")
    try:
        return Response(await upstream.read(), upstream.status, media_type=upstream.content_type)
    finally:
        upstream.release()


async def _pieces(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with upstream:
        async for piece in upstream.content.iter_any():
            yield piece


if __name__ == "__main__":
    # Named, so that an environment without them fails instead of being slow.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=PORT,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
