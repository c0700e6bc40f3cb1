"""The library's progress on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sttrack_deploy.cli.common import console, say

__all__ = ["Bar", "progress_bar", "rich_progress"]


class Bar:
    """A :class:`~sttrack_deploy.progress.Progress` of one line: the piece of work under way."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None = None) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total or None)

    def advance(self, count: int = 1) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        say(text)


@contextlib.contextmanager
def rich_progress(refresh: float = 4.0) -> Iterator[Progress]:
    """rich's own bar on standard error, where that is a terminal; gone when the block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        refresh_per_second=refresh,
    ) as bar:
        yield bar


@contextlib.contextmanager
def progress_bar(refresh: float = 4.0) -> Iterator[Bar]:
    """A bar for the library; ``refresh``: times a second."""
    with rich_progress(refresh) as bar:
        yield Bar(bar)
