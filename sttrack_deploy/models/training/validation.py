"""Grading a network on held-out clips, the temporal state carried through each, and a picture of its boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sttrack_deploy.auroc import auroc
from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.corner_network import Corners, SearchEncoding, STTrack
from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.distributed import ALONE, Processes
from sttrack_deploy.models.training.losses import generalized_iou
from sttrack_deploy.models.training.training_log import Validation
from sttrack_deploy.plotting import tracker_style

__all__ = [
    "STRIP",
    "ClipNetwork",
    "ClipPrediction",
    "Predictions",
    "SimilarityProbe",
    "draw_validation_strip",
    "forward_clip",
    "grade_predictions",
    "predict_clips",
]


class SimilarityProbe(nn.Module):
    """Scale and offset that turn similarity to the temporal query into a logit; used in training only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(dim**-0.5))
        self.offset = nn.Parameter(torch.tensor(-2.0))

    def forward(self, tokens: Tensor, temporal_query: Tensor) -> Tensor:
        """``(N, cells^2, dim)`` and ``(N, dim)`` to logits ``(N, cells^2)``."""
        return (tokens @ temporal_query[:, :, None])[:, :, 0] * self.scale + self.offset


class ClipPrediction(NamedTuple):
    """Predictions for ``B * T`` frames, frame index fastest, and the probe's logits ``(B * T, cells^2)``."""

    corners: Corners
    similarity: Tensor


def forward_clip(
    network: STTrack, probe: SimilarityProbe, clip: ClipBatch, truncate: int = 0
) -> ClipPrediction:
    """Run a batch of clips, the temporal query and the memory carried and back-propagated through.

    Equals calling :meth:`STTrack.step` frame by frame. Backbone and encoder see template and search
    region only, and the head only its frame's query, so both run on all frames at once.

    Args:
        network: may be in training or evaluation mode.
        probe: reads the foreground off the encoder's output.
        clip: the frames.
        truncate: the gradient does not pass from a frame whose number is a multiple of this to the one before
            through query and memory; 0: it passes always. The prediction is the same.
    """
    batch, frames = clip.search.shape[:2]
    state = network.initial_state(clip.template, clip.template_mask)
    repeated = state._replace(
        target_features=state.target_features.repeat_interleave(frames, 0),
        target_position=state.target_position.repeat_interleave(frames, 0),
        target_mask=state.target_mask.repeat_interleave(frames, 0),
    )
    encoding = network.encode(clip.search.flatten(0, 1), clip.search_mask.flatten(0, 1), repeated)
    views = [part.unflatten(0, (batch, frames)) for part in encoding]
    queries: list[Tensor] = []
    for frame in range(frames):
        if truncate and frame and frame % truncate == 0:
            state = state._replace(query=state.query.detach(), memory=state.memory.detach())
        _, state = network.advance(SearchEncoding(*(view[:, frame] for view in views)), state)
        queries.append(state.query)
    query = torch.stack(queries, dim=1).flatten(0, 1)
    corners, _ = network.predict(encoding, query)
    return ClipPrediction(corners, probe(network.search_tokens(encoding), query))


class ClipNetwork(nn.Module):
    """Network and probe as one module whose call is a training step's whole forward pass.

    That is what ``DistributedDataParallel`` wraps: it averages the gradients of one call.
    """

    def __init__(self, network: STTrack, probe: SimilarityProbe, truncate: int = 0) -> None:
        super().__init__()
        self.network, self.probe, self.truncate = network, probe, truncate

    def forward(self, clip: ClipBatch) -> ClipPrediction:
        """See :func:`forward_clip`."""
        return forward_clip(self.network, self.probe, clip, self.truncate)


AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class Predictions:
    """Boxes float32 ``(B, T, 4)`` x1 y1 x2 y2 over the crop's side, and confidences ``(B, T)``, on the CPU."""

    box: Tensor
    confidence: Tensor


@torch.no_grad()
def predict_clips(
    network: STTrack, probe: SimilarityProbe, clips: ClipBatch, processes: Processes = ALONE
) -> Predictions:
    """What the network says of all frames; each process does its part, and all get the whole.

    Args:
        network: in evaluation mode, equal in all processes.
        probe: only there to make the call.
        clips: equal in all processes.
        processes: of the run.
    """
    count, frames = clips.search.shape[:2]
    mine: dict[int, tuple[Tensor, Tensor]] = {}
    for number, start in enumerate(range(0, count, AT_A_TIME)):
        if number % processes.count == processes.rank:
            part = clips.select(torch.arange(start, min(start + AT_A_TIME, count)))
            corners = forward_clip(network, probe, part.to(processes.device)).corners
            mine[number] = corners.box.float().cpu(), corners.confidence.float().cpu()
    whole = {number: part for parts in processes.gather(mine) for number, part in parts.items()}
    box, confidence = (torch.cat([whole[number][i] for number in sorted(whole)]) for i in (0, 1))
    return Predictions(box.unflatten(0, (count, frames)), confidence.unflatten(0, (count, frames)))


def grade_predictions(predictions: Predictions, clips: ClipBatch) -> Validation:
    """Compare predictions with the clips (on the CPU) that they were made of."""
    present = clips.present.flatten()
    truth = clips.box.flatten(0, 1).clamp(0, 1)
    overlap, _ = generalized_iou(predictions.box.flatten(0, 1)[present], truth[present])
    iou = float(overlap.mean()) if len(overlap) else math.nan
    return Validation(iou, auroc(predictions.confidence.flatten().numpy(), present.numpy()))


STRIP = "validation.png"

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

_TILE = 192  # pixels
_CAPTION = 18
_TRUTH: Color = (70, 220, 60)  # BGR
_BACK: Color = (38, 32, 27)
_TEXT: Color = (236, 232, 228)
_DARK: Color = (20, 20, 20)


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
    iou = overlap.unflatten(0, predictions.box.shape[:2])
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
            for box, color in boxes:
                _draw(tile[:_TILE], box, color)
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


def _draw(picture: Image, box: torch.Tensor, color: Color) -> None:
    """``box`` float ``(4,)`` over the crop's side; what lies beyond the picture is left out."""
    # Far outside (a young network's boxes are anywhere) OpenCV's integers would overflow.
    x1, y1, x2, y2 = (box.clamp(-1, 2) * _TILE).round().int().tolist()
    for line, shade in ((4, _DARK), (2, color)):
        cv2.rectangle(picture, (x1, y1), (x2, y2), shade, line)
