"""PromQL as the dashboards write it: every selector is bounded by the chosen namespace."""

SCOPE = 'namespace=~"$namespace"'
PROCESS = "namespace, job, instance"
"""The labels that a scrape adds, by which one process is known."""
WINDOW = "$__rate_interval"
SHOWN = "$__range"
"""The whole time that the dashboard shows."""


def of(metric: str, *matchers: str) -> str:
    """A selector of a metric: `of("m", 'a="b"')`."""
    return f"{metric}{{{', '.join((SCOPE, *matchers))}}}"


def rate(metric: str, *matchers: str, by: str = "") -> str:
    """A counter's rate per second, summed over the processes."""
    return _sum(f"rate({of(metric, *matchers)}[{WINDOW}])", by)


def increase(metric: str, *matchers: str, by: str = "", over: str = SHOWN) -> str:
    """What a counter gained, by default in the time shown."""
    return _sum(f"increase({of(metric, *matchers)}[{over}])", by)


def largest(metric: str, *matchers: str, by: str = "") -> str:
    """A gauge that several processes export alike."""
    return f"max by ({by}) ({of(metric, *matchers)})" if by else f"max({of(metric, *matchers)})"


def quantile(share: float, metric: str, *matchers: str, by: str = "") -> str:
    """A quantile off a histogram's buckets."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', *matchers, by=labels)})"


def mean(metric: str, *matchers: str, by: str = "") -> str:
    """The mean of what a histogram observed."""
    return f"{rate(f'{metric}_sum', *matchers, by=by)} / {rate(f'{metric}_count', *matchers, by=by)}"


def share(part: str, whole: str) -> str:
    """A part of the whole, 0 where there is no such part; nothing where there is no whole."""
    return f"({part} or 0 * {whole}) / {whole}"


def or_none(expr: str, label: str) -> str:
    """A line "none" at 0 as long as there is no series, so that a quiet panel isn't an empty one."""
    return f'{expr} or on () label_replace(vector(0), "{label}", "none", "", "")'


def or_zero(expr: str) -> str:
    """0 as long as there is no series."""
    return f"{expr} or on () vector(0)"


def of_gateway(expr: str) -> str:
    """Of the gateways alone: theirs is the only event loop whose tasks are counted."""
    return f"{expr} and on ({PROCESS}) ({of('trivium_tasks')} > 0)"


def of_edge(expr: str) -> str:
    """Of the edge models alone: nobody else has slots."""
    return f"{expr} and on ({PROCESS}) ({of('trivium_edge_slots')} > 0)"


def of_trivium(expr: str) -> str:
    """Of Trivium's processes alone, where the metric is one that others export too."""
    return f"{expr} and on ({PROCESS}) {of('trivium_build_info')}"


def _sum(expr: str, by: str) -> str:
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"
