"""The picture of the README: the rendered demo clip, tracked with the included network.

``python -m benchmarks.demo_picture docs/images/demo.png`` (needs the ``report`` extra).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from sttrack_deploy import Tracker
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.overlay import draw_result
from sttrack_deploy.runtime.results import FrameResult

FOUND, LOST = "#2a9d5c", "#d1383b"


def track() -> tuple[list[npt.NDArray[np.uint8]], list[FrameResult]]:
    """The clip's frames, BGR, with their results drawn in, and the results."""
    clip, tracker = DemoClip(), Tracker.from_bundle()
    images, results = [], []
    for index, timed in enumerate(clip.frames()):
        if index == 0:
            tracker.init(timed.image, clip.truth[0])
            result = FrameResult(0, 0.0, clip.truth[0], 1.0, False)
        else:
            result = FrameResult(index, index / clip.fps, *tracker.update(timed.image))
        image = timed.image.copy()
        draw_result(image, result)
        images.append(image)
        results.append(result)
    return images, results


def shown(results: list[FrameResult]) -> list[int]:
    """Four frames that tell the story: early, before it is lost, lost, found again."""
    lost = [result.frame for result in results if result.lost]
    if not lost:
        return [round(share * (len(results) - 1)) for share in (0.1, 0.4, 0.7, 1.0)]
    return [lost[0] // 3, 2 * lost[0] // 3, lost[len(lost) // 2], min(lost[-1] + 20, len(results) - 1)]


def main(path: str) -> None:
    images, results = track()
    chosen = shown(results)
    figure = plt.figure(figsize=(12, 3.5), dpi=110)
    grid = figure.add_gridspec(2, 4, height_ratios=(1.75, 1), hspace=0.1, wspace=0.03)
    for column, index in enumerate(chosen):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(cv2.cvtColor(images[index], cv2.COLOR_BGR2RGB))
        axes.axis("off")
    axes = figure.add_subplot(grid[1, :])
    confidence = np.array([result.confidence for result in results])
    lost = np.array([result.lost for result in results])
    frames = np.arange(len(results))
    axes.fill_between(
        frames, 0, 1, where=lost.tolist(), color=LOST, alpha=0.2, lw=0, step="mid", label="LOST"
    )
    axes.plot(frames, confidence, color=FOUND, lw=2, label="confidence")
    for index in chosen:
        axes.axvline(index, color="#888888", lw=0.8, ls=":")
    axes.set(xlim=(0, len(results) - 1), ylim=(0, 1.05), xlabel="frame")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False, ncols=2)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.08)
    size = Path(path).stat().st_size
    print(f"{path}: frames {chosen}, {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
