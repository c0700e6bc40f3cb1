"""Reports of trackers that never ran: boxes made from the truth, over sequences of a few tiny images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from moving_square import HEIGHT, SIDE, WIDTH, frame_of, truth_of

from sttrack_deploy.evaluation.comparison import Comparison
from sttrack_deploy.evaluation.protocols import PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Protocol
from sttrack_deploy.evaluation.scores import Report, score_run
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

PYTRACKING = PROTOCOLS["pytracking"]
# Stands for a second toolkit, whatever others there are: it only has a success curve.
PICKY = dataclasses.replace(
    PYTRACKING,
    name="picky",
    measure=lambda boxes, sequence, size: dataclasses.replace(
        PYTRACKING.measure(boxes, sequence, size), frames=0 if "UNSEEN" in sequence.attributes else len(boxes)
    ),
    score=lambda measured: {"ao": measured.mean_overlap, "sr50": float(measured.success[10])},
    headings={"ao": "AO", "sr50": "SR50"},
)

Spoil = Callable[[np.ndarray], None]


def sequence(
    name: str,
    folder: Path | None = None,
    frames: int = 12,
    absent: tuple[int, ...] = (),
    attributes: tuple[str, ...] = (),
) -> VideoSequence:
    """With a folder its images are written, otherwise there are none to read."""
    truth = truth_of(frames, absent)
    source = (folder or Path("nowhere")) / name
    if folder is not None:
        source.mkdir(parents=True)
        for number, box in enumerate(truth):
            cv2.imwrite(str(source / f"{number:05d}.png"), frame_of(box))
    return VideoSequence(name, source, truth, attributes=attributes)


def run(
    data: VideoSequence,
    shift: float = 0.0,
    missed: tuple[int, int] = (0, 0),
    *,
    confidences: bool = True,
    lost: tuple[int, int] = (0, 0),
    fps: float = 50.0,
) -> TrackRun:
    """The truth (where the target last was, in frames without it) moved ``shift`` pixels to the right.

    In the frames from ``missed[0]`` to before ``missed[1]`` the box is nowhere near; it is called lost in
    those of ``lost``.
    """
    boxes = data.truth.copy()
    for index in range(1, len(boxes)):
        if np.isnan(boxes[index]).any():
            boxes[index] = boxes[index - 1]
    boxes[1:, 0] += shift
    boxes[slice(*missed)] = (WIDTH - SIDE, HEIGHT - SIDE, SIDE, SIDE)
    confidence = np.linspace(0.9, 0.7, len(boxes))
    confidence[slice(*missed)] -= 0.4
    confidence[np.isnan(data.truth).any(axis=1)] = 0.1
    confidence[0] = 1.0
    flags = np.zeros(len(boxes), np.bool_)
    flags[slice(*lost)] = True
    times = np.full(len(boxes), 1.0 / fps if fps else 1.0)
    return TrackRun(
        data.name,
        boxes,
        confidence if confidences else None,
        flags if confidences else None,
        times if fps else None,
        len(boxes) * 1.5 / fps if fps else float("nan"),
    )


def report(
    label: str,
    runs: list[tuple[VideoSequence, TrackRun]],
    protocols: tuple[Protocol, ...] = (PYTRACKING, PICKY),
    **more: Any,
) -> Report:
    scored = tuple(score_run(result, data, protocols) for data, result in runs)
    return Report(label, "squares", protocols, scored, planned=len(scored), **more)


def three_trackers(folder: Path | None = None, good: str = "good") -> Comparison:
    """Close to the truth, further from it, and failing for a time; the last without confidences and times."""
    data = [
        sequence("open", folder, attributes=("FM",)),
        sequence("gone", folder, absent=(5, 6, 7), attributes=("FM", "OV")),
        sequence("long", folder, frames=40, attributes=("OCC",)),
    ]
    return Comparison.of(
        [
            report(good, [(d, run(d, 1.0, lost=(5, 8) if d.name == "gone" else (0, 0))) for d in data]),
            report("shifted", [(d, run(d, 6.0, fps=20.0)) for d in data]),
            report("failing", [(d, run(d, 1.0, (6, 11), confidences=False, fps=0.0)) for d in data]),
        ]
    )
