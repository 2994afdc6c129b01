"""A run on the terminal: a bar while a stage runs, a line when it ends, a table at the end."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from trivium.load.result import Goal, StageResult
from trivium.load.stage import StageProgress
from trivium.load.table import COLUMNS, cells, line


class Display:
    """Shows progress on `console`; without a terminal there are lines and no bar."""

    def __init__(self, console: Console, goal: Goal) -> None:
        self._console, self._goal = console, goal
        self._task: TaskID | None = None
        # Drawn by the loop's own calls: a drawing thread would hold the interpreter's lock at any time.
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[seen]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )

    def progress(self, now: StageProgress) -> None:
        """Moves the bar."""
        if self._task is None:
            self._task = self._bar.add_task(f"{now.label} {now.rate:.1f}/s", total=now.seconds, seen="")
            self._bar.start()
        waiting = now.sent - now.resolved
        self._bar.update(self._task, completed=now.elapsed_s, seen=f"{now.sent} sent, {waiting} under way")
        self._bar.refresh()

    def stage(self, result: StageResult) -> None:
        """Replaces the bar by the stage's line."""
        self.close()
        self._console.print(line(result, self._goal), markup=False, highlight=False)

    def close(self) -> None:
        """Takes the bar away."""
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None


def table(stages: list[StageResult], goal: Goal) -> Table:
    """Every stage in a row."""
    shown = Table()
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("stage", "verdict") else "right")
    for stage in stages:
        shown.add_row(*cells(stage, goal))
    return shown
