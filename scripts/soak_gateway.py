"""`make soak-gateway`: half a million chats through one gateway, with broken providers and leaving callers.

A compiled client asks for what a compiled stub answers, portion by portion; beside it a few callers ask for
targets that break in every way that the tests know, and some go away in the middle. After each portion the
gateway's memory, files and tasks are read. What must be flat is compared with its value after the warm-up.
"""

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer
import yaml
from bench_gateway import LOGS, Bench, Server, console
from peers.gateways import CONTENDERS, OURS
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import fates
from support.broken_provider import BrokenProvider

TIMES = {"connect_s": 1.0, "first_token_s": 0.3, "idle_s": 0.2, "total_s": 0.5}
BROKEN = [*fates.ANY.values(), *fates.IN_STREAM.values(), *fates.BEFORE_TOKENS.values()]
MODELS = 20 * len(BROKEN)
"""Of each kind several, or their breakers would keep them from being asked."""
PORTION_S = 5.0
SETTLE_S = 3.0
LEAVES = 0.05
"""Share of the callers of broken targets that go away."""


def main(
    requests: Annotated[int, typer.Option(min=1_000)] = 500_000,
    callers: Annotated[int, typer.Option(min=1, help="Of broken targets.")] = 4,
    warm: Annotated[float, typer.Option(help="Share of the requests before memory counts.")] = 0.1,
    max_growth_mb: Annotated[float, typer.Option(help="More than this after it fails.")] = 24.0,
) -> None:
    """Prints what was read, and exits 1 if something grew, hung or failed."""
    LOGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        bench = Bench(Path(folder), running)
        bench.start(next(one for one in CONTENDERS if one.name == OURS))
        faults = asyncio.run(_soak(bench, Path(folder), requests, callers, warm, max_growth_mb))
    shutil.rmtree(folder, ignore_errors=True)
    for fault in faults:
        console.print(f"[red]{fault}[/]")
    raise typer.Exit(int(bool(faults)))


async def _soak(
    bench: Bench, folder: Path, requests: int, callers: int, warm: float, max_growth_mb: float
) -> list[str]:
    ours = bench.servers[-1]
    seen: list[dict[str, float]] = []
    done = 0
    numbers = itertools.count()
    async with BrokenProvider({f"broken-{n}": BROKEN[n % len(BROKEN)] for n in range(MODELS)}) as provider:
        _write_routes(folder / OURS / "routes.yaml", provider.url, bench.upstream)
        await _routes_are_read(ours)
        tally: dict[str, int] = {}
        calling = [asyncio.create_task(_call(ours, tally, numbers)) for _ in range(callers)]
        with Progress(console=console) as progress:
            task = progress.add_task("soak", total=requests)
            while done < requests:
                told = await _portion(bench, ours)
                done += told["requests"]
                if told["errors"] or told["unanswered"]:
                    return [f"the stub's route: {told}"]
                seen.append({"requests": done, **await _read(ours)})
                progress.update(task, completed=min(done, requests))
        for one in calling:
            one.cancel()
        await asyncio.gather(*calling, return_exceptions=True)
        await asyncio.sleep(SETTLE_S)
        seen.append({"requests": done, **await _read(ours)})
    return _judged(seen, tally, warm * requests, max_growth_mb)


def _judged(
    seen: list[dict[str, float]], tally: dict[str, int], settled_at: float, max_growth_mb: float
) -> list[str]:
    settled = next(one for one in seen if one["requests"] >= settled_at)
    last = seen[-1]
    for one in [*seen[:: max(1, len(seen) // 12)], last]:
        console.print(
            f"{one['requests']:>9,.0f} requests  {one['rss_mb']:6.1f} MB  {one['files']:4.0f} files  "
            f"{one['tasks']:4.0f} tasks  {one['waiting']:6.0f} records wait"
        )
    console.print(f"broken targets: {tally}")
    faults = []
    if last["rss_mb"] - settled["rss_mb"] > max_growth_mb:
        faults.append(f"memory grew by {last['rss_mb'] - settled['rss_mb']:.1f} MB")
    if last["tasks"] > settled["tasks"]:
        faults.append(f"{last['tasks']:.0f} tasks are left, {settled['tasks']:.0f} were there under load")
    if last["files"] > settled["files"]:
        faults.append(f"{last['files']:.0f} files are open, {settled['files']:.0f} were under load")
    if tally.get("hung"):
        faults.append(f"{tally['hung']} requests hung")
    return faults


def _write_routes(file: Path, broken: str, good: str) -> None:
    routes = yaml.safe_load(file.read_text())["routes"]
    target = {"provider": "openai", "timeouts": TIMES}
    targets = [{**target, "base_url": broken}, {**target, "base_url": good, "model": "stub-model"}]
    routes["route/broken"] = {"match": "broken-*", "targets": targets}
    file.write_text(yaml.safe_dump({"routes": routes}))


async def _routes_are_read(ours: Server) -> None:
    async with aiohttp.ClientSession(headers=ours.headers) as session, asyncio.timeout(10):
        while True:
            async with session.get(f"http://127.0.0.1:{ours.port}/v1/models") as response:
                if "route/broken" in await response.text():
                    return
            await asyncio.sleep(0.1)


async def _portion(bench: Bench, ours: Server) -> dict[str, Any]:
    command = [str(bench.client), "--port", str(ours.port), "--connections", "8", "--seconds", str(PORTION_S)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    out, _ = await process.communicate(ours.request(stream=False))
    told: dict[str, Any] = json.loads(out)
    return told


async def _call(ours: Server, tally: dict[str, int], numbers: "itertools.count[int]") -> None:
    """Asks for broken targets, one after the other; sometimes goes away before the end."""
    url = f"http://127.0.0.1:{ours.port}/v1/chat/completions"
    async with aiohttp.ClientSession(headers=ours.headers) as session:
        while True:
            number = next(numbers)
            model = f"broken-{number % MODELS}"
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "hi"}],
                "stream": number % 3 != 0,
            }
            patience = 0.05 if random.random() < LEAVES else 20.0
            began = time.monotonic()
            try:
                async with asyncio.timeout(patience), session.post(url, json=body) as response:
                    raw = await response.read()
                    ended = b"[DONE]" in raw or b'"error"' in raw or not body["stream"]
                    outcome = str(response.status) if ended else "cut"
            except TimeoutError:
                outcome = "left" if patience < 1 else "hung"
            except aiohttp.ClientError as error:
                outcome = type(error).__name__
            tally[outcome] = tally.get(outcome, 0) + 1
            await asyncio.sleep(max(0.0, 0.02 - (time.monotonic() - began)))


async def _read(ours: Server) -> dict[str, float]:
    headers = {"Authorization": "Bearer development-service-key"}
    url = f"http://127.0.0.1:{ours.port}/metrics"
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
        lines = (await response.text()).splitlines()
    values = {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
    }
    return {
        "rss_mb": ours.process.memory_info().rss / 1e6,
        "files": ours.process.num_fds(),
        "tasks": values["trivium_tasks"],
        "waiting": values.get('trivium_queue_depth{queue="journal"}', 0.0),
    }


if __name__ == "__main__":
    typer.run(main)
