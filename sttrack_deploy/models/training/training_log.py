"""What a run tells about itself while it runs: a CSV file, and TensorBoard's if it is wanted."""

from __future__ import annotations

import contextlib
import csv
import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttrack_deploy.errors import MissingDependencyError
from sttrack_deploy.files import atomic_path

__all__ = ["COLUMNS", "LOG", "TENSORBOARD", "Progress", "TrainingLog", "Validation", "read_log"]

LOG, TENSORBOARD = "log.csv", "tensorboard"


@dataclass(frozen=True, slots=True)
class Validation:
    """Teacher-forced quality on held-out clips: mean IoU where the target is present, and the AUROC of
    the confidence for its being present (NaN if all frames are alike)."""

    iou: float
    auroc: float


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the log; means since the line before, over all processes.

    Attributes:
        step: of the schedule's ``steps``, this one done.
        loss: what is minimised; ``giou``, ``l1``, ``corner`` and ``foreground`` are its parts, unweighted.
        iou: of the training clips.
        frames_per_second: search frames of all processes over the time that passed.
        bare_frames_per_second: the same without the time spent waiting for clips.
        waiting: share of the time spent waiting for clips, 0 to 1.
        learning_rate: of the last step, before the parts' factors.
        skipped: steps left out, since their gradient was not finite.
        seconds_left: to the end of this run's legs at the present pace.
        validation: if it was time for one.
    """

    step: int
    steps: int
    loss: float
    giou: float
    l1: float
    corner: float
    foreground: float
    iou: float
    frames_per_second: float
    bare_frames_per_second: float
    waiting: float
    learning_rate: float
    skipped: int
    seconds_left: float
    validation: Validation | None


_FORMATS = {
    "step": "d",
    "loss": ".4f",
    "giou": ".4f",
    "l1": ".4f",
    "corner": ".4f",
    "foreground": ".4f",
    "iou": ".4f",
    "frames_per_second": ".1f",
    "bare_frames_per_second": ".1f",
    "waiting": ".3f",
    "learning_rate": ".3g",
    "skipped": "d",
}
COLUMNS = (*_FORMATS, "val_iou", "val_auroc")


class TrainingLog:
    """The log of one process, the only one that writes.

    Args:
        folder: the run's.
        step: where the run goes on; what a killed one logged after it is removed.
        tensorboard: write TensorBoard's log as well.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False) -> None:
        self.path = folder / LOG
        kept = [row for row in read_log(self.path) if row["step"] <= step]
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([_cell(row, name) for name in COLUMNS] for row in kept)
        self.writer: Any = None
        if tensorboard:
            try:
                # By name: torch has no types for it, and whether mypy minds depends on what is installed.
                module = importlib.import_module("torch.utils.tensorboard")
            except ImportError as error:
                raise MissingDependencyError(
                    "tensorboard", "--tensorboard", "pip install tensorboard"
                ) from error
            self.writer = module.SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)

    def write(self, line: Progress) -> None:
        """Add a line."""
        row: dict[str, Any] = {name: getattr(line, name) for name in _FORMATS}
        if line.validation:
            row |= {"val_iou": line.validation.iou, "val_auroc": line.validation.auroc}
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([_cell(row, name) for name in COLUMNS])
        if self.writer is not None:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    place = "validation" if name.startswith("val_") else "training"
                    self.writer.add_scalar(f"{place}/{name.removeprefix('val_')}", value, line.step)
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log, also of one with other columns or with a last line cut short; empty if there is none."""
    rows = []
    with contextlib.suppress(OSError), path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with contextlib.suppress(ValueError):
                rows.append({k: float(v) for k, v in row.items() if isinstance(k, str) and v})
    return [row for row in rows if "step" in row]


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    value = row[name]
    code = _FORMATS.get(name, ".4f")
    return format(int(value) if code == "d" else value, code)
