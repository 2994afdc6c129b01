"""A run of pre-computation that a fault falls upon."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from drills.site import Site

FEATURE = "similar-tickets"
DONE_S = 90.0


@dataclass(frozen=True, slots=True)
class Run:
    """A forced run over the whole archive; `missing` are the entities that it did not compute."""

    id: str
    missing: int = 0


async def begin_run(site: Site) -> Run | None:
    """Starts one; None if the gateway does not take it."""
    body = {"source": "archive", "force": True, "overlap": "queue"}
    path = f"/v1/features/{FEATURE}/precompute"
    async with _session(site) as session, session.post(path, json=body) as response:
        return Run((await response.json())["run_id"]) if response.status == 202 else None


async def end_run(site: Site, run: Run) -> Run:
    """Waits until it is over."""
    until = time.monotonic() + DONE_S
    seen: dict[str, Any] = {"total": 1, "computed": 0, "state": "unknown"}
    async with _session(site) as session:
        while time.monotonic() < until:
            async with session.get(f"/v1/precompute/{run.id}") as response:
                if response.status == 200:
                    seen = await response.json()
            if seen.get("finished_at"):
                break
            await asyncio.sleep(0.2)
    return Run(run.id, int(seen["total"]) - int(seen["computed"]))


def _session(site: Site) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {site.platform.key}"}
    return aiohttp.ClientSession(
        site.platform.url("gateway", ""), headers=headers, timeout=aiohttp.ClientTimeout(total=10)
    )
