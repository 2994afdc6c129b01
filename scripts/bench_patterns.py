"""Times the three patterns over HTTP on a running platform: `python scripts/bench_patterns.py`.

One caller, one request at a time, beside the gateway's own liveness probe in turn: what HTTP on this
machine costs at that moment. Prints milliseconds, and each pattern's median as a multiple of the probe's.
"""

import json
import os
import statistics
import time
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

REQUESTS = {"ticket-triage": 300, "similar-tickets": 300, "ticket-summary": 40}
BASE = f"http://127.0.0.1:{8080 + int(os.environ.get('TRIVIUM_PORT_OFFSET', '0'))}"
STATE = Path(os.environ.get("TRIVIUM_STATE_DIR", ".trivium"))


def main() -> None:
    """Runs the rounds and prints the table."""
    key = (STATE / "dev.key").read_text().strip()
    features = {f["feature"]: f for f in json.loads(_call("/v1/features", key))}
    table = Table("feature", "pattern", "n", "P50 ms", "P99 ms", "probe P50 ms", "P50 / probe", "degraded")
    for name, count in REQUESTS.items():
        feature = features[name]
        body = json.dumps({**feature["example"], "subject": {"id": "bench"}}).encode()
        own, probe, degraded = [], [], 0
        for _ in track(range(count), name, console=Console(stderr=True), transient=True):
            began = time.perf_counter()
            _call("/health/live", key)
            probe.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            answer = json.loads(_call(f"/v1/features/{name}/infer", key, body))
            own.append((time.perf_counter() - began) * 1000)
            degraded += answer["degraded"]
        p50, base = statistics.median(own), statistics.median(probe)
        p99 = statistics.quantiles(own, n=100)[98]
        pattern = feature["variants"][feature["serve"]]["pattern"]
        figures = (f"{p50:.1f}", f"{p99:.1f}", f"{base:.1f}", f"{p50 / base:.1f}", str(degraded))
        table.add_row(name, pattern, str(count), *figures)
    Console(width=110).print(table)


def _call(path: str, key: str, body: bytes | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(BASE + path, body, headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        raw: bytes = response.read()
        return raw


if __name__ == "__main__":
    main()
