"""A tiny world for evaluation tests: a red square that moves, and an engine that finds red pixels."""

# Stand-ins take arguments that they do not need.
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sttrack_deploy.bundle import Bundle, CropSpec, TrackingPolicy, open_bundle
from sttrack_deploy.engines.base import Prediction
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.runtime.tracker import Tracker

SIDE = 24
HEIGHT, WIDTH = 120, 160


def truth_of(frames: int, absent: tuple[int, ...] = ()) -> np.ndarray:
    boxes = np.array([[20.0 + 2 * n, 40.0 + n, SIDE, SIDE] for n in range(frames)])
    boxes[list(absent)] = np.nan
    return boxes


def frame_of(box: np.ndarray) -> np.ndarray:
    frame = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    if not np.isnan(box).any():
        x, y, w, h = (int(v) for v in box)
        frame[y : y + h, x : x + w] = (0, 0, 255)
    return frame


def write_sequence(
    folder: Path, name: str, frames: int = 8, absent: tuple[int, ...] = (), video: bool = False
) -> None:
    """``<name>.txt`` and a folder of images, or a video."""
    truth = truth_of(frames, absent)
    folder.mkdir(parents=True, exist_ok=True)
    if video:
        writer = cv2.VideoWriter(
            str(folder / f"{name}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (WIDTH, HEIGHT)
        )
        for box in truth:
            writer.write(frame_of(box))
        writer.release()
    else:
        (folder / name).mkdir()
        for number, box in enumerate(truth):
            cv2.imwrite(str(folder / name / f"{number}.png"), frame_of(box))
    lines = [",".join(f"{v:g}" for v in box) for box in truth]
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


class RedEngine:
    """Boxes the red pixels of the crop; sure where there are any."""

    name = "red"

    def initial_state(self, template: np.ndarray, mask: np.ndarray) -> None:
        return None

    def step(self, search: np.ndarray, mask: np.ndarray, state: None) -> tuple[Prediction, None]:
        rows, columns = np.nonzero((search[0, :, :, 0] > 140) & (search[0, :, :, 1] < 50))
        size = search.shape[1]
        if not rows.size:
            return Prediction(
                np.array([[0.4, 0.4, 0.6, 0.6]], np.float32), np.array([0.05], np.float32)
            ), None
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Prediction(np.array([box], np.float32) / size, np.array([0.9], np.float32)), None

    def export_state(self, state: None) -> dict[str, np.ndarray]:
        return {}

    def import_state(self, arrays: dict[str, np.ndarray]) -> None:
        return None

    def describe(self) -> dict[str, str]:
        return {"version": "1", "device": "imagination"}


def write_bundle(folder: Path) -> Path:
    from plain_bundle import write_plain_bundle  # needs onnx, which this world's other parts do without

    return write_plain_bundle(
        folder, "red-square", CropSpec(64, 2.0, 128, 4.0, 16), TrackingPolicy(recovery=True)
    )


@dataclass(frozen=True)
class RedTracker:
    """In the place of ``BundleTracker``; picklable like it."""

    bundle: Path | None = None
    engine: str = "red"
    threads: int | None = None
    changes: PolicyChanges = NO_CHANGES

    def __call__(self) -> Tracker:
        bundle: Bundle = open_bundle(self.bundle)
        return Tracker(bundle, RedEngine(), bundle.manifest.tracking.override(self.changes))
