"""`make soak`: 200,000 requests of mixed lengths through one edge model service, and its memory."""

import http.client
import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.edge import KEY, end_on_sigterm, resident_bytes, running_edge, text_tensor  # noqa: E402

console = Console(stderr=True, soft_wrap=True)


def main(
    requests: Annotated[int, typer.Option(min=1_000)] = 200_000,
    callers: Annotated[int, typer.Option(min=1)] = 4,
    settle: Annotated[float, typer.Option(help="Share of the requests before memory counts.")] = 0.1,
    max_growth_mb: Annotated[float, typer.Option(help="More than this after settling fails.")] = 16.0,
) -> None:
    """Prints resident memory at every twentieth, and exits 1 if it grew by more than the bound."""
    end_on_sigterm()
    log = ROOT / ".bench-soak.log"
    log.unlink(missing_ok=True)
    with running_edge(ROOT / "models", log) as edge:
        seen, statuses = send(edge.port, edge.pid, requests, callers)
    settled = next(size for number, size in seen if number >= settle * requests)
    grown = max(size for number, size in seen if number >= settle * requests) - settled
    for number, size in seen:
        console.print(f"{number:>8} requests  {size:6.1f} MB")
    console.print(f"answers by status: {statuses}; grown by {grown:.1f} MB, bound {max_growth_mb:.0f} MB")
    raise typer.Exit(int(grown > max_growth_mb or not statuses.keys() <= {200, 503}))


def send(port: int, pid: int, requests: int, callers: int) -> tuple[list[tuple[int, float]], dict[int, int]]:
    """Memory in MB by the number of requests, and the answers by status."""
    seen: list[tuple[int, float]] = []
    statuses: dict[int, int] = {}
    lock = threading.Lock()
    left = iter(range(requests))
    with Progress(console=console) as progress:
        task = progress.add_task("soak", total=requests)

        def call() -> None:
            wire = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            for number in left:
                wire.request("POST", "/v2/models/ticket-triage/infer", _body(number), _HEADERS)
                reply = wire.getresponse()
                reply.read()
                with lock:
                    statuses[reply.status] = statuses.get(reply.status, 0) + 1
                    progress.advance(task)
                    if number % (requests // 20) == 0:
                        seen.append((number, resident_bytes(pid) / 1e6))

        threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen.append((requests, resident_bytes(pid) / 1e6))
    return sorted(seen), statuses


_HEADERS = {"Authorization": f"Bearer {KEY}", "X-Deadline-Ms": "30000"}


def _body(number: int) -> bytes:
    """One to nine texts of up to 80 words, some with all outputs."""
    draw = random.Random(number)
    texts = ["word " * draw.randrange(80) for _ in range(draw.choice((1, 1, 1, 1, 2, 3, 9)))]
    asked: dict[str, Any] = {"inputs": [text_tensor(*texts)]}
    if draw.random() < 0.8:
        asked["outputs"] = [{"name": "label"}, {"name": "confidence"}]
    return json.dumps(asked).encode()


if __name__ == "__main__":
    os.chdir(ROOT)
    typer.run(main)
