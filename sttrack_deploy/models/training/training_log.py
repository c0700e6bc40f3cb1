"""What a run tells about itself: means over steps, a CSV file, TensorBoard's if it is wanted, learning curves."""

from __future__ import annotations

import contextlib
import csv
import importlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.training.distributed import Processes
from sttrack_deploy.models.training.losses import LossTerms
from sttrack_deploy.models.training.recipe import Recipe
from sttrack_deploy.plotting import Plot, drawing, new_figure, tracker_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLUMNS",
    "CURVES",
    "LOG",
    "TENSORBOARD",
    "LogLine",
    "Meter",
    "TrainingLog",
    "Validation",
    "draw_curves",
    "read_log",
]


LOG, TENSORBOARD = "log.csv", "tensorboard"


@dataclass(frozen=True, slots=True)
class Validation:
    """Teacher-forced quality on held-out clips: mean IoU where the target is present, and the AUROC of
    the confidence for its being present (NaN if all frames are alike)."""

    iou: float
    auroc: float


@dataclass(frozen=True, slots=True)
class LogLine:
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
        seconds_left: to the last step at the present pace.
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

    def write(self, line: LogLine) -> None:
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


HOPELESS = 100
"""So many steps in a row without a finite gradient: it will not come back. (fp16's scale settles in 20.)"""


class Meter:
    """Sums since the last line, kept on the device until a line is due.

    Args:
        recipe: of the run.
        shares: batches of a step.
        processes: that the line is about; each keeps its own sums.
        device: where the losses are.
        steps_left: to the last step.
    """

    def __init__(
        self, recipe: Recipe, shares: int, processes: Processes, device: str, steps_left: int
    ) -> None:
        self.processes, self.steps_left = processes, steps_left
        self.frames_a_step = recipe.data.clips * recipe.data.frames * recipe.optimizer.accumulate * shares
        self._in_a_row = torch.zeros((), device=device)
        self._clear()

    def _clear(self) -> None:
        device = self._in_a_row.device
        self._terms = torch.zeros(len(LossTerms._fields), device=device)
        self._skipped = torch.zeros((), device=device)
        self._batches = self._steps = 0
        self._waited, self._started = 0.0, time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for clips."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block does not count: validating and saving say nothing about the pace."""
        start = time.monotonic()
        yield
        self._started += time.monotonic() - start

    def add(self, terms: LossTerms) -> None:
        """The losses of a batch."""
        self._terms += torch.stack([term.detach() for term in terms])
        self._batches += 1

    def add_step(self, skipped: Tensor) -> None:
        """A step is over; ``skipped`` is bool ``()``."""
        self._steps += 1
        self.steps_left -= 1
        self._skipped += skipped
        self._in_a_row = (self._in_a_row + 1) * skipped

    def line(self, step: int, steps: int, learning_rate: float, validation: Validation | None) -> LogLine:
        """The line of the log after ``step`` of ``steps``; all processes call it. The sums start again.

        Raises:
            UserError: the gradient has not been finite for long.
        """
        counts = torch.stack((self._skipped, self._in_a_row))
        sums = self.processes.average(torch.cat((self._terms, counts))).tolist()  # waits for the device
        terms = LossTerms(*(torch.tensor(value / max(1, self._batches)) for value in sums[:-2]))
        passed = max(1e-9, time.monotonic() - self._started)
        bare = max(1e-9, passed - self._waited)
        frames = self.frames_a_step * self._steps
        if sums[-1] >= HOPELESS:
            raise UserError(
                f"the gradient was not finite for {int(sums[-1])} steps up to step {step}: lower learning_rate, or "
                "choose autocast = 'none'; the last checkpoint is from before"
            )
        line = LogLine(
            step=step,
            steps=steps,
            loss=float(terms.total),
            giou=float(terms.giou),
            l1=float(terms.l1),
            corner=float(terms.corner),
            foreground=float(terms.foreground),
            iou=float(terms.iou),
            frames_per_second=frames / passed,
            bare_frames_per_second=frames / bare,
            waiting=min(1.0, self._waited / passed),
            learning_rate=learning_rate,
            skipped=int(sums[-2]),
            seconds_left=self.steps_left * passed / max(1, self._steps),
            validation=validation,
        )
        self._clear()
        return line


CURVES = "curves.png"

Series = tuple[list[float], list[float]]


def draw_curves(log: Path, out: Path) -> None:
    """Draw loss, IoU, speed and learning rate over the steps.

    Args:
        log: the run's CSV file.
        out: PNG, replaced in one go.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rows = read_log(log)
    with drawing("training"):
        figure = new_figure(9.0, 6.0)
        loss, quality, speed, rate = figure.subplots(2, 2).flatten()
        for index, name in enumerate(("loss", "giou", "l1", "corner", "foreground")):
            _line(loss, rows, name, index, name if index else "loss, weighted")
        loss.set_yscale("log")
        _title(loss, "Loss", "")
        _line(quality, rows, "iou", 0, "training clips")
        _line(quality, rows, "val_iou", 1, "held-out clips")
        _line(quality, rows, "val_auroc", 2, "AUROC of the confidence")
        _title(quality, "IoU and confidence", "")
        quality.set_ylim(0, 1)
        _line(speed, rows, "frames_per_second", 0, "with making clips")
        _line(speed, rows, "bare_frames_per_second", 1, "without")
        _title(speed, "Search frames a second", "step")
        speed.set_ylim(bottom=0)
        _line(rate, rows, "learning_rate", 0, "")
        _title(rate, "Learning rate", "step")
        plot = Plot("training", "Training", "Loss, IoU, speed and learning rate over the steps", figure)
        with atomic_path(out) as temporary:
            temporary.write_bytes(plot.png(110))


def _line(axes: Axes, rows: list[dict[str, float]], name: str, index: int, label: str) -> None:
    steps = [row["step"] for row in rows if name in row]
    values = [row[name] for row in rows if name in row]
    if any(values):  # a term that the network has no target for stays 0
        style = tracker_style(index)
        # A few points would make no line.
        marker = style.marker if len(values) < 30 else None
        axes.plot(steps, values, color=style.color, marker=marker, markersize=3, linewidth=1.2, label=label)


def _title(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(below)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
