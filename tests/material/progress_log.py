"""A progress that keeps what it is told."""

from __future__ import annotations


class ProgressLog:
    """See :class:`sttrack_deploy.progress.Progress`."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[int] = []
        self.notes: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)

    def advance(self, count: int = 1) -> None:
        self.steps.append(count)

    def note(self, text: str) -> None:
        self.notes.append(text)
