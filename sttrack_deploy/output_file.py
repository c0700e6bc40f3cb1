"""Output files: named once, complete when they have their name, never on top of something unasked."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.files import atomic_path, check_file, is_special
from sttrack_deploy.locks import alone

__all__ = ["OutputFile", "check_outputs", "is_within"]


def check_outputs(outputs: Sequence[Path], sources: Sequence[Path], *, overwrite: bool) -> None:
    """Check, before any work, that nothing is lost by writing these files.

    Args:
        outputs: what will be written.
        sources: what is read: files, bundles, or folders of images.
        overwrite: existing files may be replaced; a source never.

    Raises:
        UsageError: an output is a source, or lies among its images; two outputs are one file; it exists.
        UserError: the name cannot become a file.
    """
    seen: list[Path] = []
    for path in outputs:
        check_file(path)
        if is_special(path):
            continue
        for source in sources:
            if _same(path, source) or (source.is_dir() and path.is_file() and _same(path.parent, source)):
                raise UsageError(
                    f"{path} is the source, or a part of it, and is never written over; name another file"
                )
        if any(_same(path, other) for other in seen):
            raise UsageError(f"{path} is named twice: each output needs a name of its own")
        seen.append(path)
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists; name another file, or replace it with --overwrite")


def is_within(path: Path, source: Path) -> bool:
    """Whether a file that exists is ``source``, or lies below that folder."""
    try:
        there = path.resolve(strict=True)
        return _same(path, source) or source.resolve() in there.parents
    except (OSError, RuntimeError, ValueError):
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        if one.exists() and other.exists():
            return one.samefile(other)  # hard links too
        return one.resolve() == other.resolve()
    except (OSError, RuntimeError, ValueError):
        return False


class _Discarded(Exception):
    """Leaves :func:`atomic_path` without giving the file its final name."""


class OutputFile:
    """A context that gives a file its final name on the way out, unless nothing is in it.

    A symbolic link's target is written, not the link replaced. A device or FIFO is written to as it is.

    Attributes:
        path: the name, as it was given.
        frames: frames written so far.
        kept: the file is there and complete.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError where the file cannot be made."""
        self.path = path
        self.frames = 0
        self.kept = False
        self._special = is_special(path)
        self._guard = contextlib.ExitStack()
        if not self._special:
            self._guard.enter_context(alone(path))
        self._target = self._guard.enter_context(atomic_path(path))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                self._finish()
            except BaseException:
                self._discard()
                raise
            self._commit()
        except UserError:
            # The first failure is the one to report; a full disk would otherwise be told twice.
            if error is None:
                raise

    def abandon(self) -> None:
        """Keep nothing of it: what is there is only a part, and must not be taken for the whole."""
        self.frames = 0

    def _finish(self) -> None:
        """Complete the temporary file."""
        raise NotImplementedError

    def _commit(self) -> None:
        if self.frames:
            self._guard.close()
            self.kept = True
        else:
            self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(_Discarded), self._guard:
            raise _Discarded
