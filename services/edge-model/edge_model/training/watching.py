"""The progress bar of a training; where there is no terminal, a line for each tenth."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressWatcher:
    """Shows stages on a console."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._console = console
        self._stage, self._steps, self._done = "", 0, 0
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, stage: str, steps: int | None) -> None:
        """Shows a new bar; one without end if the steps are not counted."""
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._stage, self._steps, self._done = stage, steps or 0, 0
        self._task = self._progress.add_task(stage, total=steps)
        if not self._console.is_terminal:
            self.note(stage)

    def step(self, loss: float) -> None:
        """Moves the bar by one."""
        self._done += 1
        told = f"{self._stage}, loss {loss:.3f}"
        if self._console.is_terminal and self._task is not None:
            self._progress.update(self._task, advance=1, description=told)
        elif self._done * 10 // self._steps > (self._done - 1) * 10 // self._steps:
            self.note(f"{told}, {self._done} of {self._steps}")

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, markup=False, highlight=False)
