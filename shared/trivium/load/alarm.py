"""A timer finer than an event loop's, which rounds to milliseconds."""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

CLOCK_MONOTONIC = 1
TFD_TIMER_ABSTIME = 1


class Alarm:
    """Calls `ring` at times of `time.monotonic()`: by a timerfd on Linux, else by the loop's timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer: asyncio.TimerHandle | None = None
        self._fd = self._open()
        if self._fd >= 0:
            loop.add_reader(self._fd, self._rang)

    def set(self, at: float) -> None:
        """Rings once at `at`, or at once if that has passed; a later call replaces an earlier."""
        if self._fd < 0:
            self._cancel()
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._ring)
            return
        whole = int(at)
        spec = (ctypes.c_long * 4)(0, 0, whole, int((at - whole) * 1e9) or 1)
        self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, spec, None)

    def close(self) -> None:
        """Rings no more."""
        self._cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        try:
            fd: int = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError:
            return -1
        return fd

    def _rang(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._ring()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
