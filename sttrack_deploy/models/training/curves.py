"""The learning curves of a run as one picture, drawn from its log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.training.training_log import read_log
from sttrack_deploy.plotting import Plot, drawing, new_figure, tracker_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CURVES", "draw_curves"]

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
        axes.plot(steps, values, color=style.colour, marker=marker, markersize=3, linewidth=1.2, label=label)


def _title(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(below)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
