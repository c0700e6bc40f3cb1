"""Whether a data set's sequences are all there, without looking for each of its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.reader import DatasetReader
from sttrack_deploy.sequences.sequence import Numbering, VideoSequence

__all__ = ["Lacking", "check_ends", "check_root", "count_images", "gather", "require"]

_NAMED = 3
"""How many missing sequences an error names."""


class Lacking(Exception):
    """A file of a sequence is not there; :func:`gather` decides whether that matters."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no {path}")
        self.path = path


def require(path: Path) -> Path:
    """The path itself.

    Raises:
        Lacking: it does not exist.
    """
    if not path.exists():
        raise Lacking(path)
    return path


def check_ends(folder: Path, numbering: Numbering, frames: int) -> None:
    """The first and the last image are there; looking for all would take minutes on network drives.

    Raises:
        Lacking: one is not.
    """
    for number in (numbering.first, numbering.first + frames - 1):
        require(folder / (numbering.pattern % number))


def count_images(folder: Path, numbering: Numbering) -> int:
    """How many images a folder has, numbered from ``numbering.first`` on without a gap.

    Raises:
        Lacking: the folder, the first, or one in between is not there.
    """
    names = {entry.name for entry in os.scandir(require(folder))}
    stems = (Path(name).stem for name in names)
    numbers = {int(stem) for stem in stems if stem.isdecimal() and numbering.pattern % int(stem) in names}
    count = len(numbers)
    expected = range(numbering.first, numbering.first + max(count, 1))
    for number in expected:
        if number not in numbers:
            raise Lacking(folder / (numbering.pattern % number))
    return count


def check_root(reader: DatasetReader, root: Path) -> None:
    """The data set's folder is one.

    Raises:
        UserError: it is not.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{reader.title}: {root} {problem}; give a folder with {reader.layout}")


def gather(
    reader: DatasetReader,
    root: Path,
    names: Iterable[str],
    read_one: Callable[[str], VideoSequence],
    partial: bool,
) -> list[VideoSequence]:
    """Read one sequence after another.

    Args:
        read_one: raises :class:`Lacking` for one that is not there or only half.
        partial: leave those aside.

    Raises:
        UserError: some are missing and ``partial`` is not set, or all are.
    """
    found: list[VideoSequence] = []
    lacking: list[str] = []
    for name in names:
        try:
            found.append(read_one(name))
        except Lacking as lack:
            inside = lack.path.is_relative_to(root)
            lacking.append(f"{name} (no {lack.path.relative_to(root) if inside else lack.path})")
    total = len(found) + len(lacking)
    if not total:
        raise UserError(
            f"{reader.title} at {root} holds no sequence; it must be a folder with {reader.layout}"
        )
    if lacking and not (partial and found):
        named = ", ".join(lacking[:_NAMED]) + (", …" if len(lacking) > _NAMED else "")
        remedy = (
            "extract them, or do without them with --partial"
            if found
            else f"it must be a folder with {reader.layout}"
        )
        raise UserError(
            f"{reader.title} at {root} lacks {len(lacking)} of {total} sequences: {named}; {remedy}"
        )
    return found
