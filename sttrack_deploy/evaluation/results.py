"""Result files: what a tracker said in each sequence, a line a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sttrack_deploy.evaluation.runner import SequenceRun
from sttrack_deploy.files import atomic_path

__all__ = ["as_written", "write_run"]

FloatArray = npt.NDArray[np.float64]


def as_written(boxes: FloatArray) -> FloatArray:
    """The boxes as a reader of the file will see them.

    Scores are computed from these, so that scoring the files later gives the same numbers to the last bit.
    """
    return np.array([[float(value) for value in line.split(",")] for line in _box_lines(boxes)], np.float64)


def write_run(run: SequenceRun, folder: Path) -> tuple[Path, ...]:
    """Write ``<name>.txt`` (x,y,w,h, two decimals), ``<name>_confidence.txt`` and ``<name>_time.txt`` (seconds).

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    files = {
        f"{run.name}.txt": _box_lines(run.boxes),
        # Nine digits carry a float32 confidence exactly.
        f"{run.name}_confidence.txt": [f"{value:.9g}" for value in run.confidences],
        f"{run.name}_time.txt": [f"{value:.6f}" for value in run.times],
    }
    for name, lines in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="ascii")
    return tuple(folder / name for name in files)


def _box_lines(boxes: FloatArray) -> list[str]:
    return [",".join(f"{value:.2f}" for value in box) for box in boxes]
