"""Small files in the shapes of published data sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt


def write_image(path: Path, level: int = 60) -> None:
    """A gray image of 16 by 12 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((12, 16, 3), level, np.uint8))


def write_images(folder: Path, pattern: str, numbers: Iterable[int]) -> None:
    """Images whose gray level is their number, so that the right one can be told."""
    for number in numbers:
        write_image(folder / (pattern % number), level=number % 256)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def boxes(frames: int, first: int = 1, delimiter: str = ",") -> str:
    """One box a frame, its x the frame's number."""
    return "\n".join(delimiter.join(map(str, (first + n, 2, 3, 4))) for n in range(frames)) + "\n"


def level(frame: np.ndarray) -> int:
    return round(float(frame.mean()))


def flags_of(array: npt.NDArray[np.bool_] | None) -> list[bool]:
    """Flags of a sequence, which it must have."""
    assert array is not None
    return [bool(flag) for flag in array]
