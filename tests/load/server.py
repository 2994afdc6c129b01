"""A small HTTP server whose capacity is known: one slot, `--service-ms` a request, a bounded queue."""

import argparse
import asyncio
import json
import ssl
import sys
from typing import ClassVar

from httptools import HttpRequestParser


class Server(asyncio.Protocol):
    slot_free_at = 0.0
    served = 0
    bodies: ClassVar[list[str]] = []
    heads: ClassVar[list[str]] = []

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.parser = HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.path, self.body, self.head = b"", b"", b""

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head += name + b": " + value + b"\n"

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.path == b"/seen":
            self.answer(200, json.dumps({"bodies": Server.bodies, "heads": Server.heads}))
        elif self.path == b"/metrics" and self.options.metrics:
            self.answer(200, f"process_resident_memory_bytes {50e6 + Server.served}\n")
        elif self.path == b"/metrics":
            self.answer(404, "{}")
        elif self.path.endswith(b"/health/ready"):
            self.answer(200, "{}")
        else:
            self.work()

    def work(self) -> None:
        """The slot's time is virtual, so that the capacity does not depend on a timer's rounding."""
        Server.served += 1
        if self.options.keep:
            Server.bodies.append(self.body.decode())
            Server.heads.append(self.head.decode())
        now, service_s = asyncio.get_running_loop().time(), self.options.service_ms / 1000
        often = self.options.refuse_every
        if often and Server.served > 1 and Server.served % often == 0:
            self.answer(self.options.refuse_with, '{"error": "busy"}')
        elif self.options.queue_ms and Server.slot_free_at - now > self.options.queue_ms / 1000:
            self.answer(503, '{"error": "full"}')
        elif service_s:
            Server.slot_free_at = max(now, Server.slot_free_at) + service_s
            asyncio.get_running_loop().call_at(Server.slot_free_at, self.answer, self.options.status)
        else:
            self.answer(self.options.status)

    def answer(self, status: int, body: str | None = None) -> None:
        if self.transport.is_closing():
            return
        content = (self.options.answer if body is None else body).encode()
        head = f"HTTP/1.1 {status} OK\r\n"
        if self.options.style == "chunked":
            middle = len(content) // 2
            parts = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (content[:middle], content[middle:]) if p)
            self.transport.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + parts[:9])
            self.transport.write(parts[9:] + b"0\r\n\r\n")
        elif self.options.style == "close":
            self.transport.write(
                f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
            )
            self.transport.close()
        elif self.options.style == "until-close":
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + content)
            self.transport.close()
        elif self.options.style == "cut":
            self.transport.write(f"{head}Content-Length: {len(content) + 9}\r\n\r\n".encode() + content)
            self.transport.close()
        else:
            self.transport.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--service-ms", type=float, default=0.0)
    parser.add_argument("--queue-ms", type=float, default=0.0)
    parser.add_argument("--refuse-every", type=int, default=0)
    parser.add_argument("--refuse-with", type=int, default=503)
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--style", default="length")
    parser.add_argument("--answer", default='{"outputs": []}')
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--certificate", help="PEM file of a certificate and its key")
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    server = await loop.create_server(lambda: Server(options), "127.0.0.1", 0, backlog=4096, ssl=tls)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
