"""Grading a network on held-out clips, the temporal state carried through each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sttrack_deploy.metrics import auroc
from sttrack_deploy.models.network import STTrack
from sttrack_deploy.models.training.clip_forward import LikenessProbe, forward_clip
from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.distributed import ALONE, Processes
from sttrack_deploy.models.training.losses import generalized_iou
from sttrack_deploy.models.training.training_log import Validation

__all__ = ["Predictions", "grade_predictions", "predict_clips"]

AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class Predictions:
    """Boxes float32 ``(B, T, 4)`` x1 y1 x2 y2 over the crop's side, and confidences ``(B, T)``, on the CPU."""

    box: Tensor
    confidence: Tensor


@torch.no_grad()
def predict_clips(
    network: STTrack, probe: LikenessProbe, clips: ClipBatch, processes: Processes = ALONE
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
    return Predictions(box.unflatten(0, (count, frames)), confidence.unflatten(0, (count, frames)))  # type: ignore[no-untyped-call]


def grade_predictions(predictions: Predictions, clips: ClipBatch) -> Validation:
    """Compare predictions with the clips (on the CPU) that they were made of."""
    present = clips.present.flatten()
    truth = clips.box.flatten(0, 1).clamp(0, 1)
    overlap, _ = generalized_iou(predictions.box.flatten(0, 1)[present], truth[present])
    iou = float(overlap.mean()) if len(overlap) else math.nan
    return Validation(iou, auroc(predictions.confidence.flatten().numpy(), present.numpy()))
