"""The open loop: requests leave when the schedule says so, whatever the server does."""

import asyncio
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from trivium.load.alarm import Alarm
from trivium.load.connection import FREE, Connection, ReadingConnection, connect
from trivium.load.samples import CONNECTION, DEGRADED, NO_CONNECTION, TIMEOUT, UNSENT, Samples
from trivium.load.target import Address

BURST = 16
"""Sends between two looks at what has arrived, when the schedule is behind."""
LOOK_S = 0.05
"""How often timeouts are looked for."""
IDLE_S = 1.5
"""Connections unused for longer are not trusted: servers close them from 2 s on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one exchange: open connections, and seconds from the intended send to giving up."""

    connections: int = 2000
    timeout_s: float = 2.0


class Exchange:
    """Sends requests at times given in seconds from its start, and keeps what becomes of them."""

    def __init__(
        self,
        address: Address,
        ip: str,
        requests: Sequence[bytes],
        times: "array[float]",
        limits: Limits,
        unless: bytes | None = None,
    ) -> None:
        self.samples = Samples(len(times))
        self.sent = 0
        self.left = len(times)
        self.peak_connections = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = 0.0
        self._address, self._ip, self._requests, self._times = address, ip, requests, times
        self._limits, self._unless = limits, unless
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._waiting: dict[int, Connection | None] = {}
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._send_due)
        self._look: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins the schedule."""
        self.began = time.monotonic()
        self._look = self._loop.call_later(LOOK_S, self._give_up)
        self._send_due()

    def stop(self) -> None:
        """Sends no more; what is under way is still waited for."""
        self.left -= len(self._times) - self.sent
        del self._times[self.sent :]
        self.samples.cut(self.sent)
        self._settle()

    def close(self) -> None:
        """Drops every connection."""
        self._alarm.close()
        if self._look is not None:
            self._look.cancel()
        for task in self._connecting.values():
            task.cancel()
        for connection in list(self._open):
            connection.transport.abort()

    @property
    def resolved(self) -> int:
        """How many requests have come to something."""
        return len(self._times) - self.left

    def answered(self, connection: Connection, index: int, status: int) -> None:
        """Called by a connection."""
        if self._unless is not None and status == 200 and isinstance(connection, ReadingConnection):
            status = DEGRADED if self._unless in connection.body else status
        if not connection.transport.is_closing():
            self._idle.append(connection)
        self._resolve(index, status, connection.freed_at)

    def lost(self, connection: Connection) -> None:
        """Called by a connection."""
        self._open.discard(connection)

    def _send_due(self) -> None:
        count = len(self._times)
        for _ in range(BURST):
            if self.sent >= count:
                return
            due = self.began + self._times[self.sent]
            now = time.monotonic()
            if due > now:
                break
            index, self.sent = self.sent, self.sent + 1
            self.samples.lateness_ms[index] = (now - due) * 1000
            if now - due > self._limits.timeout_s:
                self._resolve(index, UNSENT, now)
            else:
                self._send(index, now)
        if self.sent < count:
            self._alarm.set(self.began + self._times[self.sent])

    def _send(self, index: int, now: float) -> None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            if now - connection.freed_at > IDLE_S:
                connection.transport.close()
                continue
            self._waiting[index] = connection
            connection.send(index, self._requests[index % len(self._requests)])
            return
        if len(self._open) + len(self._connecting) >= self._limits.connections:
            self._resolve(index, NO_CONNECTION, now)
            return
        self._waiting[index] = None
        self._connecting[index] = self._loop.create_task(self._connect(index))
        self.peak_connections = max(self.peak_connections, len(self._open) + len(self._connecting))

    async def _connect(self, index: int) -> None:
        connection = Connection(self) if self._unless is None else ReadingConnection(self)
        try:
            await connect(self._address, self._ip, connection)
        except OSError:
            self._resolve(index, CONNECTION, time.monotonic())
            return
        finally:
            del self._connecting[index]
        self._open.add(connection)
        self._waiting[index] = connection
        connection.send(index, self._requests[index % len(self._requests)])

    def _give_up(self) -> None:
        """Counts what waited too long as timed out, oldest first."""
        now = time.monotonic()
        horizon = now - self.began - self._limits.timeout_s
        old = []
        for index in self._waiting:
            if self._times[index] > horizon:
                break
            old.append(index)
        for index in old:
            connection = self._waiting[index]
            if connection is not None:
                connection.index = FREE
                connection.transport.abort()
            else:
                self._connecting[index].cancel()
            self._resolve(index, TIMEOUT, now)
        self._look = self._loop.call_later(LOOK_S, self._give_up)

    def _resolve(self, index: int, status: int, now: float) -> None:
        self._waiting.pop(index, None)
        self.samples.status[index] = status
        self.samples.latency_ms[index] = (now - self.began - self._times[index]) * 1000
        self.left -= 1
        self._settle()

    def _settle(self) -> None:
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)
