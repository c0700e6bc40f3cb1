"""The window of ``--show`` and ``--select``, and knowing beforehand that there can be none."""

from __future__ import annotations

import subprocess
import sys
from enum import Enum
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.geometry import Box

__all__ = ["Key", "Window", "require_display"]

Image = npt.NDArray[np.uint8]

TITLE = "sttrack"
ESCAPE = 27


class Key(Enum):
    """What the user pressed."""

    NONE = "none"
    SELECT = "select"
    PAUSE = "pause"
    QUIT = "quit"


def require_display() -> None:
    """Raises UserError where no window can be opened.

    Tried in another process, because Qt ends the process that has no display.
    """
    probe = "import cv2; cv2.namedWindow('sttrack'); cv2.destroyAllWindows()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe], capture_output=True, timeout=30, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        done = 1
    if done != 0:
        raise UserError(
            "no window can be opened here (no display, or an OpenCV without windows): "
            "give the box with --init-box X,Y,W,H and leave --show out"
        )


class Window:
    """The window, as a context that closes it."""

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cv2.destroyAllWindows()

    def show(self, image: Image) -> Key:
        """Show a frame and answer the key that was pressed meanwhile: q or Esc, r, space."""
        cv2.imshow(TITLE, image)
        return _meaning(cv2.waitKey(1) & 0xFF)

    def wait(self) -> Key:
        """Wait for one of the keys."""
        while (key := _meaning(cv2.waitKey(50) & 0xFF)) is Key.NONE:
            pass
        return key

    def select(self, image: Image) -> Box:
        """Let the user draw a box.

        Raises:
            UsageError: cancelled.
        """
        x, y, w, h = cv2.selectROI(TITLE, image, showCrosshair=True, fromCenter=False)
        if w <= 0 or h <= 0:
            raise UsageError("no box was drawn: drag one with the mouse and press Enter")
        return float(x), float(y), float(w), float(h)


def _meaning(code: int) -> Key:
    if code in (ord("q"), ESCAPE):
        return Key.QUIT
    return {ord("r"): Key.SELECT, ord(" "): Key.PAUSE}.get(code, Key.NONE)
