"""A red square on gray noise, an engine that finds it in its crop, and a bundle for that engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from plain_bundle import Batch, plain_manifest, write_plain_bundle

from sttrack_deploy.bundle import CropSpec, Manifest, TrackingPolicy
from sttrack_deploy.engines.base import Prediction
from sttrack_deploy.geometry import Box

SIZE = (96, 160)  # height, width of the frames
SQUARE = 24
CROP = CropSpec(template_size=64, template_factor=2.0, search_size=128, search_factor=4.0, stride=16)


class BlobEngine:
    """Finds red; confidence 0.9 where there is some, 0.05 and the middle of the crop where there is none."""

    name = "blob"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.masks: list[npt.NDArray[np.bool_]] = []
        self.searches: list[npt.NDArray[np.uint8]] = []

    def initial_state(self, template: Any, mask: Any) -> int:
        assert template.shape == (1, 64, 64, 3)
        assert template.dtype == np.uint8
        assert mask.shape == (1, 4, 4)
        assert mask.dtype == np.bool_
        return 0

    def step(self, search: Any, mask: Any, state: int) -> tuple[Prediction, int]:
        assert search.shape == (1, 128, 128, 3)
        assert mask.shape == (1, 8, 8)
        time.sleep(self.seconds)
        self.masks.append(mask[0])
        self.searches.append(search[0])
        red = (search[0, ..., 0] > 128) & (search[0, ..., 1] < 100) & (search[0, ..., 2] < 100)
        box, confidence = [0.45, 0.45, 0.55, 0.55], 0.05
        if red.sum() > 4:
            ys, xs = np.nonzero(red)
            box, confidence = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], 0.9
            box = [value / 128 for value in box]
        return Prediction(np.array([box], np.float32), np.array([confidence], np.float32)), state + 1

    def export_state(self, state: int) -> dict[str, Any]:
        return {"steps": np.array([state])}

    def import_state(self, arrays: dict[str, Any]) -> int:
        return int(arrays["steps"][0])

    def describe(self) -> dict[str, str]:
        return {"version": "1"}


def manifest(policy: TrackingPolicy | None = None) -> Manifest:
    return plain_manifest("blob", CROP, policy)


def write_bundle(folder: Path, batch: Batch = 1) -> Path:
    return write_plain_bundle(folder, "blob", CROP, batch=batch)


def truth(index: int) -> Box:
    """Where the square is on a frame."""
    return (20.0 + 2 * index, 30.0 + index, float(SQUARE), float(SQUARE))


def frame(box: Box | None, size: tuple[int, int] = SIZE, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A BGR frame with the square at ``box``, or without it."""
    noise = np.random.default_rng(seed).integers(100, 160, (*size, 1), np.uint8)
    image = np.repeat(noise, 3, axis=2)
    if box is not None:
        x, y, w, h = (round(v) for v in box)
        image[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = (30, 30, 230)
    return np.ascontiguousarray(image)


def write_video(
    path: Path, frames: int = 20, codec: str = "MJPG", size: tuple[int, int] = SIZE, fps: float = 25.0
) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (size[1], size[0]))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(frame(truth(index), size, index))
    writer.release()
    return path


def write_images(folder: Path, frames: int = 6, size: tuple[int, int] = SIZE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        assert cv2.imwrite(str(folder / f"frame{index}.png"), frame(truth(index), size, index))
    return folder


def read_video(path: Path) -> list[npt.NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    frames: list[npt.NDArray[np.uint8]] = []
    while True:
        ok, image = capture.read()
        if not ok:
            break
        frames.append(np.asarray(image, np.uint8))
    capture.release()
    return frames
