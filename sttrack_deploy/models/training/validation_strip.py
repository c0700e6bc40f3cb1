"""A picture of held-out clips with the truth and what the network says, to see what it learns."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.losses import generalized_iou
from sttrack_deploy.models.training.validation import Predictions
from sttrack_deploy.plotting import tracker_style

__all__ = ["STRIP", "draw_validation_strip"]

STRIP = "validation.png"

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_TILE = 192  # pixels
_CAPTION = 18
_TRUTH: Colour = (70, 220, 60)  # BGR
_BACK: Colour = (38, 32, 27)
_TEXT: Colour = (236, 232, 228)
_DARK: Colour = (20, 20, 20)


def draw_validation_strip(clips: ClipBatch, predictions: Predictions, out: Path, rows: int = 8) -> None:
    """A row for each clip: its template, then its search frames with the truth in green and the prediction.

    Under each frame stand IoU and confidence.

    Args:
        clips: held out, on the CPU; the first ``rows`` of them are drawn.
        predictions: for all of them.
        out: PNG, replaced in one go.
    """
    count, frames = clips.present.shape
    count = min(rows, count)
    overlap, _ = generalized_iou(predictions.box.flatten(0, 1), clips.box.flatten(0, 1).clamp(0, 1))
    iou = overlap.unflatten(0, predictions.box.shape[:2])  # type: ignore[no-untyped-call]
    lines = []
    for clip in range(count):
        tiles = [_tile(clips.template[clip], "template")]
        for frame in range(frames):
            seen = bool(clips.present[clip, frame])
            said = f"IoU {iou[clip, frame]:.2f}" if seen else "absent"
            tile = _tile(
                clips.search[clip, frame], f"{said}  conf. {predictions.confidence[clip, frame]:.2f}"
            )
            boxes = [(predictions.box[clip, frame], tracker_style(1).bgr)]
            boxes += [(clips.box[clip, frame], _TRUTH)] if seen else []
            for box, colour in boxes:
                _draw(tile[:_TILE], box, colour)
            tiles.append(tile)
        lines.append(np.hstack(tiles))
    _, data = cv2.imencode(".png", np.vstack(lines))
    with atomic_path(out) as temporary:
        temporary.write_bytes(data.tobytes())


def _tile(pixels: torch.Tensor, caption: str) -> Image:
    """BGR ``(TILE + CAPTION, TILE, 3)`` of uint8 RGB ``(side, side, 3)``."""
    tile = np.full((_TILE + _CAPTION, _TILE, 3), _BACK, np.uint8)
    method = cv2.INTER_AREA if pixels.shape[0] > _TILE else cv2.INTER_LINEAR
    tile[:_TILE] = cv2.resize(
        np.ascontiguousarray(pixels.numpy()[..., ::-1]), (_TILE, _TILE), interpolation=method
    )
    cv2.putText(
        tile, caption, (4, _TILE + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, _TEXT, 1, lineType=cv2.LINE_AA
    )
    return tile


def _draw(picture: Image, box: torch.Tensor, colour: Colour) -> None:
    """``box`` float ``(4,)`` over the crop's side; what lies beyond the picture is left out."""
    # Far outside (a young network's boxes are anywhere) OpenCV's integers would overflow.
    x1, y1, x2, y2 = (box.clamp(-1, 2) * _TILE).round().int().tolist()
    for line, shade in ((4, _DARK), (2, colour)):
        cv2.rectangle(picture, (x1, y1), (x2, y2), shade, line)
