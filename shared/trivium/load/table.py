"""A stage in a line and in a row of a table."""

from trivium.load.result import Goal, Percentiles, StageResult

COLUMNS = (
    *("stage", "offered/s", "goodput/s", "P50 ms", "P90 ms", "P99 ms", "P99.9 ms", "max ms"),
    *("refused", "refusal P99 ms", "ready P99 ms", "RSS MiB", "late by P99 ms", "verdict"),
)


def cells(stage: StageResult, goal: Goal) -> tuple[str, ...]:
    """One stage under COLUMNS."""
    latency, refusal, ready, late = stage.latency, stage.refusal_latency, stage.readiness, stage.lateness
    rss = stage.rss_after_bytes
    return (
        stage.label,
        f"{stage.offered_per_s:.1f}",
        f"{stage.goodput_per_s:.1f}",
        *(_ms(latency, key) for key in ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")),
        str(stage.outcomes.get("refused", 0)),
        _ms(refusal, "p99_ms"),
        _ms(ready.latency if ready else None, "p99_ms"),
        f"{rss / 2**20:.0f}" if rss else "-",
        _ms(late, "p99_ms"),
        verdict(stage, goal),
    )


def _ms(measured: Percentiles | None, key: str) -> str:
    return f"{getattr(measured, key):.1f}" if measured else "-"


def verdict(stage: StageResult, goal: Goal) -> str:
    """Held or each miss, and whether that may be the generator's fault."""
    told = ", ".join(stage.misses(goal)) or "held"
    told += "; generator saturated" if stage.generator_saturated else ""
    return told + ("; interrupted" if stage.interrupted else "")


def line(stage: StageResult, goal: Goal) -> str:
    """One stage for a log."""
    latency = stage.latency
    figures = f"P50 {latency.p50_ms:.1f}  P99 {latency.p99_ms:.1f} ms" if latency else "no answer"
    return (
        f"{stage.label:>8}  {stage.rate:8.1f}/s  {stage.seconds:4.0f} s  {figures}  "
        f"goodput {stage.goodput_per_s:.1f}/s ({stage.goodput_share:.0%})  {verdict(stage, goal)}"
    )
