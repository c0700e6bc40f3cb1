"""One evaluation spread over machines: which sequences each takes, and putting their results together."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.files import atomic_path, sha256_of
from sttrack_deploy.records import show
from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = ["Merged", "Shard", "merge_results"]

MOST_SHARDS = 10_000


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``I/N``.

        Raises:
            UsageError: not that, or I is not in 1..N.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARDS:
            raise UsageError(
                f"--shard is {show(text)}; it must be I/N with I from 1 to N, as 1/4, and N at most {MOST_SHARDS}"
            )
        return cls(int(match[1]), int(match[2]))

    def take(self, sequences: list[VideoSequence]) -> list[VideoSequence]:
        """This part's sequences, in their order; about the same number of frames in every part.

        All machines must see the same data: the parts are dealt by length, longest first, and none is told
        what the others took.
        """
        ordered = sorted(sequences, key=lambda s: (-len(s), s.name))
        loads = [0] * self.count
        mine = set()
        for sequence in ordered:
            part = loads.index(min(loads))
            loads[part] += len(sequence)
            if part == self.index - 1:
                mine.add(sequence.name)
        return [s for s in sequences if s.name in mine]


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did."""

    copied: int
    same: int


def merge_results(parts: Iterable[Path], target: Path) -> Merged:
    """Copy the result files of several folders into one, keeping the paths below each.

    A file that several parts have must be the same in all. Nothing is copied unless all of it fits.

    Raises:
        UserError: a part is missing or empty, two parts disagree on a file, or the copy fails.
    """
    wanted: dict[Path, Path] = {}
    same = 0
    for part in parts:
        if not part.is_dir():
            raise UserError(
                f"the results' folder {part} {'is not a folder' if part.exists() else 'does not exist'}"
            )
        files = sorted(
            p
            for p in part.rglob("*")
            if p.is_file() and not any(name.startswith(".") for name in p.relative_to(part).parts)
        )
        if not files:
            raise UserError(f"{part} holds no result files; was its part of the evaluation run with --out?")
        for file in files:
            path = file.relative_to(part)
            other = wanted.get(path, target / path)
            if not other.exists():
                wanted[path] = file
            elif sha256_of(other) == sha256_of(file):
                same += 1
            else:
                raise UserError(
                    f"{file} and {other} differ; both say what one tracker did in one sequence. "
                    "Were the parts run with different bundles? Remove one of them"
                )
    for path, file in wanted.items():
        with atomic_path(target / path) as temporary:
            shutil.copyfile(file, temporary)
    return Merged(len(wanted), same)
