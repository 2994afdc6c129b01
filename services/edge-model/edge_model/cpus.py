"""How many CPUs this process was granted: never the host's count."""

import os
from math import floor
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def granted_cpus(cpu_max: Path = _CPU_MAX) -> int:
    """The smaller of the affinity mask and the cgroup's quota (`cpu.max`), at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return affinity
    if quota == "max":
        return affinity
    return max(1, min(affinity, floor(int(quota) / int(period))))
