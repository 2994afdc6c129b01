"""CPU and memory of the parts."""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import psutil
from drills.site import PARTS, Site


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a part: share of one core, and resident memory in MB, what its processes share counted once."""

    part: str
    cpu_share: float
    memory_mb: float


async def usage(site: Site, seconds: float) -> list[Usage]:
    """What each part takes over so many seconds."""
    before = {part: _cpu_s(site.processes(part)) for part in PARTS}
    began = time.monotonic()
    await asyncio.sleep(seconds)
    took_s = time.monotonic() - began
    return [
        Usage(part, (_cpu_s(site.processes(part)) - before[part]) / took_s, _memory_mb(site.processes(part)))
        for part in PARTS
    ]


def _cpu_s(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _memory_mb(processes: list[psutil.Process]) -> float:
    """The first process whole, of the others only what is theirs alone."""
    total = 0.0
    for number, process in enumerate(processes):
        with contextlib.suppress(psutil.Error):
            info = process.memory_full_info()
            total += info.rss if number == 0 else info.uss
    return total / 1e6
