"""Images as frames: a folder, a numbered pattern (``%05d.jpg``) or a glob (``*.png``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from sttrack_deploy.errors import UserError
from sttrack_deploy.video.file_types import IMAGE_SUFFIXES
from sttrack_deploy.video.frames import DEFAULT_FPS, Frame, Image

__all__ = ["image_files", "image_frames", "matching_images", "natural_key", "read_image"]


_NUMBER = re.compile(r"%(0?)(\d*)d")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts names as people do: ``frame2`` before ``frame10``."""
    # ASCII digits alone: int() knows no superscripts.
    parts = re.split(r"([0-9]+)", name.lower())
    key = [
        (0, int(part[:18]), "") if part[:1].isdigit() and part.isascii() else (1, 0, part) for part in parts
    ]
    return (*key, (2, 0, name))  # the name itself decides between 7 and 007


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names, numbers counted as numbers; no hidden files.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        files = [
            file
            for file in folder.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    return sorted(files, key=lambda file: natural_key(file.name))


def matching_images(pattern: str) -> list[Path] | None:
    """The files that a pattern names, in order; ``None`` if ``pattern`` is none.

    A pattern has one number as C prints it (``%d``, ``%05d``), or ``*``, ``?`` or ``[…]`` in its last part.

    Raises:
        UserError: no file matches, or its folder cannot be read.
    """
    path = Path(pattern)
    numbers = _NUMBER.findall(path.name)
    if len(numbers) != 1 and not any(sign in path.name for sign in "*?["):
        return None
    try:
        if len(numbers) == 1:
            before, after = _NUMBER.split(path.name)[0], _NUMBER.split(path.name)[-1]
            zero, width = numbers[0]
            digits = rf"[0-9]{{{width or 1},}}" if zero else r"[0-9]+"
            wanted = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
            found = [
                (match, file) for file in path.parent.iterdir() if (match := wanted.fullmatch(file.name))
            ]
            files = [file for match, file in sorted(found, key=lambda pair: natural_key(pair[0][1]))]
        else:
            files = sorted(path.parent.glob(path.name), key=lambda file: natural_key(file.name))
    except (OSError, ValueError, NotImplementedError, re.error, OverflowError) as error:
        raise UserError(f"cannot look for {pattern}: {getattr(error, 'strerror', None) or error}") from error
    if not files:
        raise UserError(f"no image matches {pattern}")
    return files


def image_frames(files: Sequence[Path], start: int = 0, fps: float | None = None) -> Iterator[Frame]:
    """Read images one after the other.

    Args:
        files: they must have one size.
        start: index of the first of them.
        fps: they are this far apart.

    Raises:
        UserError: unreadable, or of another size than the first.
    """
    shape = None
    for index, file in enumerate(files, start):
        image = read_image(file)
        if shape is not None and image.shape != shape:
            raise UserError(
                f"{file} is {image.shape[1]} x {image.shape[0]}, the images before it are "
                f"{shape[1]} x {shape[0]}; all images of a folder must have one size"
            )
        shape = image.shape
        yield Frame(index, index / (fps or DEFAULT_FPS), image)


def read_image(file: Path) -> Image:
    """BGR uint8 ``(height, width, 3)``, turned as EXIF says; gray, 16-bit and 4-channel images are converted.

    Raises:
        UserError: it cannot be read.
    """
    try:
        # Not by imread, which crashes on file names that are not UTF-8 (opencv#17141).
        data = np.fromfile(file, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:
        raise UserError(
            f"cannot read the image {file}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if image is None:
        raise UserError(f"{file} cannot be read as an image: it is empty, damaged or not an image")
    return np.asarray(image, np.uint8)
