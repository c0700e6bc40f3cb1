"""All that a live source gives."""

from __future__ import annotations

from sttrack_deploy.errors import UserError
from sttrack_deploy.video.frames import Frame


def drain(opened: object) -> tuple[list[Frame], str]:
    frames: list[Frame] = []
    problem = ""
    with opened as frames_of:  # type: ignore[attr-defined]
        try:
            frames.extend(frames_of)
        except UserError as error:
            problem = str(error)
    return frames, problem
