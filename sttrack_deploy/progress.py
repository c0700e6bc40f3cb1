"""How the library says how far it is: one small protocol, which a command shows as a bar and anyone else ignores."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SILENT", "Progress"]


class Progress(Protocol):
    """Told what goes on, by the thread that does the work."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Another piece of work begins; ``total``: its steps, if they are known."""
        ...

    def advance(self, count: int = 1) -> None:
        """So many more steps are done."""
        ...

    def note(self, text: str) -> None:
        """A line worth keeping."""
        ...


class _Silent:
    """Nobody looks."""

    def stage(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
