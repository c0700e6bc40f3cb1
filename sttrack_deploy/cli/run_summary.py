"""What ``sttrack-run`` says at its end, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape

from sttrack_deploy.cli.common import console
from sttrack_deploy.geometry import Box, iou

if TYPE_CHECKING:
    from sttrack_deploy.runtime.multi_tracker import MultiTracker
    from sttrack_deploy.runtime.session import Session
    from sttrack_deploy.runtime.sink import AtomicFile, FrameResult

__all__ = ["report_truth", "suggest_next", "summarise"]


def summarise(
    session: Session, files: Sequence[AtomicFile], tracker: MultiTracker, *, finished: bool
) -> None:
    """Print frames, speed and the files that are there, to standard error."""
    if session.stats.frames:
        _say_speed(session, tracker, finished=finished)
    written = "wrote" if finished else "kept"
    for file in files:
        if file.kept:
            size = file.path.stat().st_size
            _say(f"{written} {escape(str(file.path))}: {file.frames} frames, {_size(size)}")


def _say_speed(session: Session, tracker: MultiTracker, *, finished: bool) -> None:
    stats, name = session.stats, tracker.bundle.manifest.name
    facts = tracker.engine.describe().items()
    engine = ", ".join(f"{key} {value}" for key, value in facts if value != tracker.engine.name)
    targets = "" if len(stats.lost) == 1 else f" of {len(stats.lost)} targets"
    _say(
        f"{'tracked' if finished else 'stopped early after'} [bold]{stats.frames}[/] frames{targets}, "
        f"[bold]{stats.fps:.1f}[/] fps end to end, lost on {_lost(stats.lost)}; "
        f"model {escape(name)}, {tracker.engine.name} ({escape(engine)})"
    )
    medians = stats.medians_ms()
    if medians:
        _say("median ms: " + ", ".join(f"{part} {value:.2f}" for part, value in medians.items()))


def _lost(counts: Sequence[int]) -> str:
    """Frames on which each target was lost: ``3``, or ``3 (target 1), 0 (target 2)``."""
    if len(counts) == 1:
        return str(counts[0])
    return ", ".join(f"{count} (target {number})" for number, count in enumerate(counts, 1))


def report_truth(truth: Sequence[Box], results: Sequence[FrameResult]) -> None:
    """Print the mean IoU of results against the demo's exact boxes, and how absence was seen."""
    followed = results[1:]  # the first box was given
    if not followed:
        return
    exact = np.array([truth[result.frame] for result in followed])
    overlap = iou([result.box for result in followed], exact)
    visible = ~np.isnan(exact).any(axis=1)
    lost = np.array([result.lost for result in followed])
    if visible.any():
        _say(
            f"mean IoU with the exact truth [bold]{overlap[visible].mean():.3f}[/] "
            f"(lowest {overlap[visible].min():.3f}) on the {visible.sum()} frames that show the target"
        )
    if (~visible).any():
        _say(
            f"said LOST on {(lost & ~visible).sum()} of the {(~visible).sum()} frames that hide it, "
            f"and on {(lost & visible).sum()} of the others"
        )


def suggest_next(source: str | None, selected: Sequence[Box]) -> None:
    """Print the next command to type, after the demo or after boxes were drawn with the mouse."""
    if source is None:
        _say("next: sttrack-run YOUR_VIDEO.mp4 --select   (without a display: --init-box X,Y,W,H)")
    elif selected:
        boxes = (",".join(f"{value:g}" for value in box) for box in selected)
        options = " ".join(f"--init-box {box}" for box in boxes)
        _say(f"again without the mouse: sttrack-run {escape(source)} {options}")
    else:
        _say("next, with videos whose boxes are known: sttrack-eval --dataset folder --data DIR")


def _say(line: str) -> None:
    """One line, however long: what people copy must not be broken."""
    console.print(line, soft_wrap=True)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
