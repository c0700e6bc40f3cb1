"""What an annotator should look at: the fewest boxes that say the rest, and Label Studio's format for them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sttrack_deploy.errors import UsageError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.results import FrameResult

__all__ = ["key_frames", "label_studio_task", "write_label_studio"]


def key_frames(results: Sequence[FrameResult], below: float, every: int = 30) -> list[FrameResult]:
    """The frames of one track that a person should see.

    Its first and last frame, frames on which it becomes lost or is found again, the worst frame of each stretch whose
    confidence is below ``below``, and one at least every ``every`` frames.

    Raises:
        UsageError: there are no results, ``below`` is not in 0..1, or ``every`` is below 1.
    """
    if not results:
        raise UsageError("there are no results to choose key frames from")
    if not 0 <= below <= 1 or every < 1:
        raise UsageError(f"below must be 0 to 1 and every 1 or more, not {below:g} and {every}")
    chosen = {0, len(results) - 1}
    worst: int | None = None
    for index, result in enumerate(results):
        if index and result.lost != results[index - 1].lost:
            chosen |= {index - 1, index}
        if result.confidence < below:
            if worst is None or result.confidence < results[worst].confidence:
                worst = index
        elif worst is not None:
            chosen.add(worst)
            worst = None
    if worst is not None:
        chosen.add(worst)
    last = 0
    for index in range(len(results)):
        if index in chosen:
            last = index
        elif index - last >= every:
            chosen.add(index)
            last = index
    return [results[index] for index in sorted(chosen)]


def label_studio_task(
    video: str,
    tracks: Sequence[Sequence[FrameResult]],
    size: tuple[int, int],
    label: str,
    below: float,
    every: int = 30,
) -> dict[str, Any]:
    """A task of Label Studio with one prediction: a ``videorectangle`` for each track, to import and correct.

    The labeling configuration must name its tags ``box`` (``VideoRectangle``), ``video`` and ``videoLabels`` as its
    templates do.

    Args:
        video: address of the video, as Label Studio sees it.
        tracks: results of every frame for each target.
        size: width and height of the frames, pixels.
        below, every: see :func:`key_frames`.
    """
    width, height = size
    last = max((result for track in tracks for result in track), key=lambda result: result.frame)
    frames = last.frame + 1
    # Frame 0 is at 0 s, and the last one is shown as long as the others.
    duration = last.seconds * frames / last.frame if last.frame else 0.0
    shown: list[dict[str, Any]] = []
    for number, track in enumerate(tracks, 1):
        sequence = [
            {
                # Label Studio counts frames from 1 and measures boxes in percent.
                "frame": result.frame + 1,
                "time": round(result.seconds, 6),
                "enabled": not result.lost,
                "rotation": 0,
                **_percent(result.box, width, height),
            }
            for result in key_frames(track, below, every)
        ]
        confidence = math.fsum(result.confidence for result in track) / len(track)
        shown.append(
            {
                "id": f"track{number}",
                "type": "videorectangle",
                "from_name": "box",
                "to_name": "video",
                "score": round(confidence, 4),
                "value": {
                    "labels": [label],
                    "framesCount": frames,
                    "duration": round(duration, 6),
                    "sequence": sequence,
                },
            }
        )
    score = math.fsum(region["score"] for region in shown) / len(shown)
    prediction = {"model_version": "sttrack-deploy", "score": round(score, 4), "result": shown}
    return {"data": {"video": video}, "predictions": [prediction]}


def write_label_studio(tasks: Sequence[dict[str, Any]], path: Path) -> None:
    """Write tasks to a file that Label Studio imports.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(list(tasks), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _percent(box: Box, width: int, height: int) -> dict[str, float]:
    x, y, w, h = box
    values = {"x": x / width, "y": y / height, "width": w / width, "height": h / height}
    return {name: round(100 * value, 4) for name, value in values.items()}
