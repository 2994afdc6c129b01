"""What is done to the parts, and how it is undone."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from drills.site import SUPERVISED, Site

Act = Callable[[Site], Awaitable[None]]
SLOW_S = 0.25
MEMORY_BYTES = 60_000_000
CGROUPS = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))


@dataclass(frozen=True, slots=True)
class Fault:
    """One row; `heals` is whether it is over by itself, as when the supervisor starts a part again."""

    part: str
    kind: str
    begin: Act
    end: Act
    heals: bool = False
    missing: str | None = None

    @property
    def name(self) -> str:
        """As it is chosen on the command line."""
        return f"{self.part}:{self.kind}"


async def _nothing(site: Site) -> None:
    """No fault."""


def _kill(part: str) -> Fault:
    async def begin(site: Site) -> None:
        if part == "postgres":
            await asyncio.to_thread(site.postgres.kill)
            return
        for process in site.processes(part):
            process.kill()
            process.wait()

    async def end(site: Site) -> None:
        if part == "postgres":
            await asyncio.to_thread(site.postgres.start_again)
        elif part == "valkey":
            site.valkey.kill()  # reaps it
            await asyncio.to_thread(site.valkey.start)
        elif part == "llm":
            site.start_llm()
        elif part == "unleash":
            assert site.unleash
            await asyncio.to_thread(site.unleash.start)

    return Fault(part, "kill -9", begin, end, heals=part in SUPERVISED)


def _freeze(part: str) -> Fault:
    frozen: list[psutil.Process] = []

    async def begin(site: Site) -> None:
        frozen[:] = site.processes(part)
        for process in frozen:
            process.send_signal(signal.SIGSTOP)

    async def end(site: Site) -> None:
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    return Fault(part, "frozen", begin, end)


def _black_hole(part: str) -> Fault:
    async def begin(site: Site) -> None:
        site.proxies[part].swallow()

    async def end(site: Site) -> None:
        site.proxies[part].heal()

    return Fault(part, "black hole", begin, end)


def _slow(part: str) -> Fault:
    async def begin(site: Site) -> None:
        site.proxies[part].slow(SLOW_S)

    async def end(site: Site) -> None:
        site.proxies[part].heal()

    return Fault(part, "slow", begin, end)


def _full_disk(site: Site) -> Fault:
    def fill() -> None:
        with (site.disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(b"\0" * 65_536):
                pass

    async def begin(site: Site) -> None:
        await asyncio.to_thread(fill)

    async def end(site: Site) -> None:
        (site.disk / "filler").unlink(missing_ok=True)

    missing = None if site.has_own_disk else "to mount a small disk takes root"
    return Fault("disk", "full", begin, end, missing=missing)


def _little_memory(part: str) -> Fault:
    """Started anew with less memory than it needs: the kernel kills it, again and again."""
    root, limit = next(((Path(r), name) for r, name in CGROUPS if _can_limit(Path(r), name)), (None, ""))
    catching: list[asyncio.Task[None]] = []

    async def catch(site: Site, group: Path) -> None:
        """Puts every new process of the part into the group, before it has grown."""
        while True:
            with suppress(AssertionError, OSError, psutil.Error):
                for process in site.processes(part):
                    (group / "cgroup.procs").write_text(str(process.pid))
            await asyncio.sleep(0.02)

    async def begin(site: Site) -> None:
        assert root
        group = root / f"trivium-drill-{part}"
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(MEMORY_BYTES))
        for process in site.processes(part):
            process.kill()
            process.wait()
        catching.append(asyncio.create_task(catch(site, group)))

    async def end(site: Site) -> None:
        assert root
        catching.pop().cancel()
        (root / f"trivium-drill-{part}" / limit).write_text("-1" if "bytes" in limit else "max")

    missing = None if root else "to limit memory takes a cgroup that may be written"
    return Fault(part, "memory limit", begin, end, missing=missing)


def _can_limit(root: Path, limit: str) -> bool:
    probe = root / "trivium-drill-probe"
    try:
        probe.mkdir()
    except OSError:
        return False
    able = (probe / limit).exists()
    probe.rmdir()
    return able


def _of_flag_server() -> list[Fault]:
    return [_kill("unleash"), _freeze("unleash"), _black_hole("unleash")]


def all_faults(site: Site) -> list[Fault]:
    """The rows in their order; the first is what no fault at all looks like."""
    return [
        Fault("none", "no fault", _nothing, _nothing),
        *(replace(one, missing=site.no_unleash) for one in _of_flag_server()),
        *(_kill(part) for part in ("gateway", "edge", "llm", "worker", "valkey", "postgres")),
        *(_freeze(part) for part in ("gateway", "edge", "llm", "worker", "valkey", "postgres")),
        *(_black_hole(part) for part in ("edge", "llm", "valkey", "postgres")),
        *(_slow(part) for part in ("edge", "llm", "valkey", "postgres")),
        *(_little_memory(part) for part in ("edge", "worker")),
        _full_disk(site),
    ]
