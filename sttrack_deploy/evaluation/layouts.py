"""How the field names and formats result files: one layout for each toolkit that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = ["DEFAULT_LAYOUT", "LAYOUTS", "Layout", "box_lines"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one tracker's files on one data set lie, and how a box is written.

    Attributes:
        folder: of a run under the results' root, with the fields ``{tracker}``, ``{parameters}``, ``{dataset}``.
        boxes: file of a sequence's boxes in that folder, with the field ``{name}``.
        times: the same for seconds a frame; ``None``: the layout has none.
        delimiter: between x, y, w and h.
        decimals: of a box.
    """

    name: str
    folder: str
    boxes: str
    times: str | None
    delimiter: str
    decimals: int

    def run_folder(self, root: Path, tracker: str, parameters: str, dataset: str) -> Path:
        return root / self.folder.format(tracker=tracker, parameters=parameters, dataset=dataset)

    def boxes_path(self, folder: Path, sequence: VideoSequence) -> Path:
        """Where a sequence's boxes are written."""
        return folder / self.boxes.format(name=self._name(sequence))

    def times_path(self, folder: Path, sequence: VideoSequence) -> Path | None:
        return None if self.times is None else folder / self.times.format(name=self._name(sequence))

    def confidence_path(self, folder: Path, sequence: VideoSequence) -> Path:
        """Beside the boxes, under a name that no toolkit takes for a result."""
        path = self.boxes_path(folder, sequence)
        return path.with_name(f"{path.stem}_confidence.txt")

    def record_path(self, folder: Path, sequence: VideoSequence) -> Path:
        """What made the boxes, for resuming; beside them too."""
        path = self.boxes_path(folder, sequence)
        return path.with_name(f"{path.stem}_run.json")

    def has(self, folder: Path, sequence: VideoSequence) -> bool:
        """Whether the sequence's boxes are there."""
        return self.boxes_path(folder, sequence).is_file()

    def _name(self, sequence: VideoSequence) -> str:
        return sequence.filed_as.get(self.name, sequence.name)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("pytracking", "{tracker}/{parameters}/{dataset}", "{name}.txt", "{name}_time.txt", "\t", 2),
        Layout("got10k", "{tracker}-{parameters}", "{name}/{name}_001.txt", "{name}/{name}_time.txt", ",", 3),
        Layout("otb", "{tracker}-{parameters}", "{name}.txt", "times/{name}_time.txt", ",", 3),
        Layout("trackingnet", "{tracker}-{parameters}", "{name}.txt", None, ",", 2),
    )
}
"""By the name that ``--layout`` takes: pytracking and STARK; the got10k toolkit on GOT-10k, and on other data
sets; the TrackingNet server."""

DEFAULT_LAYOUT = LAYOUTS["pytracking"]


def box_lines(boxes: FloatArray, delimiter: str, decimals: int) -> list[str]:
    """One line a box ``(N, 4)``. Zero decimals are a truncation, as other tools' integer files have it."""
    values = np.trunc(boxes) if decimals == 0 else boxes
    return [delimiter.join(f"{value:.{decimals}f}" for value in box) for box in values]
