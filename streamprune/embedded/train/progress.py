"""A progress bar that follows a run's log, for whoever watches on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamprune.embedded.train.loop import Stage, log_entries


class LogBar:
    """One bar per stage, filled from ``log.jsonl``; shows nothing when the console is no terminal."""

    def __init__(self, folder: Path, stages: Sequence[Stage], console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description:26}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.folder = folder
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {
            stage.name: self.progress.add_task(stage.name, total=stage.steps, figures="") for stage in stages
        }

    def __enter__(self) -> LogBar:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def update(self) -> dict[str, str]:
        """Read the log again and return what each started stage shows: its loss and its last accuracy."""
        shown: dict[str, str] = {}
        accuracy: dict[str, float] = {}
        for entry in log_entries(self.folder):
            name = entry["stage"]
            if name not in self.tasks:
                continue
            accuracy[name] = entry.get("accuracy", accuracy.get(name, float("nan")))
            shown[name] = f"loss {entry['loss']:.3f}  held-out {accuracy[name]:.3f}"
            self.progress.update(self.tasks[name], completed=entry["step"], figures=shown[name])
        return shown
