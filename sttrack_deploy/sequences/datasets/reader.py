"""What a data set's reader is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = ["DatasetReader", "Read"]


class Read(Protocol):
    """Reads a data set's annotations; images are not decoded, and not all of them looked for."""

    def __call__(self, root: Path, partial: bool = False) -> list[VideoSequence]:
        """Its sequences.

        Args:
            root: the data set's own folder.
            partial: leave aside what is missing, as long as anything is there.

        Raises:
            UserError: something is missing, or an annotation is malformed.
        """
        ...


@dataclass(frozen=True, slots=True)
class DatasetReader:
    """One data set in its published layout.

    Attributes:
        name: key in ``DATASETS``; each of its sequences carries it as ``dataset``.
        title: as its authors write it.
        read: its reader.
        layout: what its folder holds, in words that can follow "a folder with".
        source: where it is obtained; empty for layouts that are nobody's in particular.
        subfolder: its usual name in a folder of data sets; empty: it has none.
        also: other names in use for that.
    """

    name: str
    title: str
    read: Read
    layout: str
    source: str = ""
    subfolder: str = ""
    also: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that says where it lies."""
        return f"STTRACK_{self.name.upper()}"
