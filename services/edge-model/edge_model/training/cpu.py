"""What the CPU can do, as far as quantisation cares."""

from pathlib import Path

_VNNI_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether int8 products are summed in 32 bits.

    Without it, on AVX2, two products are first summed in 16 bits, which saturates unless the weights
    keep to 7 bits (`reduce_range` of ONNX Runtime). A file that cannot be read counts as a no.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return not _VNNI_FLAGS.isdisjoint(value.split())
    return False
