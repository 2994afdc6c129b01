"""What every service's processes take: the same row on several dashboards."""

from collections.abc import Callable

from boards.layout import Row
from boards.panels import Query, lines, rows
from boards.queries import WINDOW, of


def processes(of_service: Callable[[str], str]) -> Row:
    """CPU, memory, open files and versions of one service's processes.

    Args:
        of_service: bounds an expression to that service's processes.
    """
    cpu = of_service(f"rate({of('process_cpu_seconds_total')}[{WINDOW}])")
    memory = of_service(of("process_resident_memory_bytes"))
    files = of_service(f"{of('process_open_fds')} / {of('process_max_fds')}")
    age = of_service(f"time() - {of('process_start_time_seconds')}")
    version = f"{of('trivium_build_info')}"
    return Row(
        "Processes",
        (
            lines(
                "CPU",
                "Cores in use, by process. A process runs Python on one core at most, an edge model on as "
                "many as it has slots. Near that for minutes: add processes, don't wait for time-outs.",
                Query(cpu, "{{instance}}"),
                unit="short",
                width=6,
            ),
            lines(
                "Memory",
                "Resident. It levels off within the first hour; if it still climbs after that, restart the "
                "process before its limit does, and report it.",
                Query(memory, "{{instance}}"),
                unit="bytes",
                width=6,
            ),
            lines(
                "Open files",
                "Of those that a process may have. Near 100 % it refuses connections: somebody opens "
                "connections and does not close them.",
                Query(files, "{{instance}}"),
                unit="percentunit",
                width=6,
                at_most=1,
                limit=0.8,
            ),
            rows(
                "Age and version",
                "A young process among old ones was restarted: its log's end says why. Two versions at "
                "once are an upgrade under way, or one that stands still.",
                Query(f"({age}) * on (namespace, job, instance) group_left (version) {version}", "age"),
                units=("s",),
                width=6,
                shown=("job", "instance", "version"),
            ),
        ),
    )
