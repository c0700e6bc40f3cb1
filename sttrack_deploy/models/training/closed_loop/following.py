"""One clip after the other through the network, each crop cut around its own last box; and what that costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sttrack_deploy.geometry import CropWindow, context_box, crop_window, iou, snapped_window
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.dense_network import DenseStep, DenseSTTrack
from sttrack_deploy.models.nanotrack import NanoKernels, NanoMaps
from sttrack_deploy.models.training.closed_loop.clip_groups import ClipGroup, Views, concatenated
from sttrack_deploy.models.training.losses import grade_dense

__all__ = ["Features", "Terms", "follow"]

FloatArray = npt.NDArray[np.float64]

SIZE_RATE = 0.5
"""Share of a change of size that the next crop follows at confidence 1; the runtime smooths alike."""
LOST_AFTER = 3
"""Frames without the target in the crop after which the crop is put back on it: nothing more can be learned there."""
LONGEST_MISLED = 8
"""Further frames for which the crops of a misled clip may stay away."""
FOLLOWED = 0.1
"""Least overlap of a box of a misled clip that has to fit better."""
ANNOTATED = 0.7
"""Share of the misled clips that go on with another annotated object, where there is one."""
RIVAL, BACKGROUND = 0.6, 0.25
"""Shares of the other ones that go on with the second best box, and with a place beside the target; the rest goes on
with a part of the target, or with far too large a box."""
SMALLEST = 6.0
"""Least side, in pixels, of the box that the next crop follows."""


class Features(Protocol):
    """The frozen part of the network."""

    def template(self, views: Views) -> tuple[NanoKernels, Tensor]:
        """Filters and features ``(n, 96, 8, 8)``."""
        ...

    def search(self, views: Views, kernels: NanoKernels) -> tuple[NanoMaps, Tensor]:
        """Maps and features ``(n, 96, cells, cells)``."""
        ...


class Terms(NamedTuple):
    """Losses of a batch of clips (means over its frames), and how well it went.

    Attributes:
        box, place, confidence: generalized IoU and L1; cross entropy of the score map; of the confidence.
        iou: mean overlap where the target was in the crop.
        away: share of frames whose crop did not show a target that was visible.
        correct: share of frames on which confidence above 0.5 told right.
    """

    box: Tensor
    place: Tensor
    confidence: Tensor
    iou: float
    away: float
    correct: float


@dataclass(slots=True)
class _Followed:
    """Boxes x, y, w, h in frame pixels that the next crops follow, ``(n, 4)``, and how long the target was away."""

    box: FloatArray
    lost: npt.NDArray[np.int64]


def follow(
    network: DenseSTTrack,
    frozen: Features,
    groups: Sequence[ClipGroup],
    rng: np.random.Generator,
    misled: float = 0.0,
    on_target: tuple[float, float] = (0.3, 0.6),
) -> Terms:
    """Track all clips from their first frame to their last, gradients through query and memory.

    Args:
        network: its trained part is used; crops follow its detached boxes.
        frozen: computes the part that is not trained.
        groups: of equally many frames.
        rng: where the first crops lie.
        misled: share of the clips in which the crops are put on something else after one of the frames.
        on_target: between these overlaps the wanted confidence rises from 0 to 1.
    """
    c = network.config
    truth = np.concatenate([w.boxes for w in groups]).astype(np.float64)
    visible = np.concatenate([w.visible for w in groups])
    limits = np.concatenate([w.limits for w in groups]).astype(np.float64)
    rivals = [boxes for w in groups for boxes in w.rivals] if misled > 0 else []
    clips, frames = truth.shape[:2]
    device = network.query_embed.device
    template = _look(groups, 0, [_template_window(b, c) for b in truth[:, 0]], c.template_size)
    kernels, features = frozen.template(template)
    state = network.start(kernels, features)
    at = _Followed(_jittered(truth[:, 1], rng, 0.12), np.zeros(clips, np.int64))
    misled_after = np.zeros(clips, np.int64)
    if misled > 0:
        chosen = np.flatnonzero(rng.random(clips) < misled)
        misled_after[chosen] = rng.integers(1, max(2, frames - 1), len(chosen))
    boxes, places, confidences = [], [], []
    overlaps, away, correct = [], [], []
    for frame in range(1, frames):
        windows = [_search_window(box, c) for box in at.box]
        views = _look(groups, frame, windows, c.search_size)
        maps, features = frozen.search(views, kernels)
        step, state = network.refined(maps, features, torch.from_numpy(views.masks).to(device), state)
        corners = np.array([[w.x1, w.y1, w.side] for w in windows], np.float64)
        wanted = _in_crop(truth[:, frame], corners)
        middle = (wanted[:, :2] + wanted[:, 2:]) / 2
        inside = ((middle > 0.02) & (middle < 0.98)).all(1)
        present = inside & visible[:, frame]
        target = torch.from_numpy(wanted).float().to(device)
        held = torch.from_numpy(present).to(device)
        overlap, losses = grade_dense(network, step, target, held, on_target)
        # To stretch a box that lies on something else towards the target would teach wrong sizes.
        followed = overlap > FOLLOWED
        followed |= torch.from_numpy((misled_after == 0) | (frame <= misled_after)).to(device)
        boxes.append(losses.box * followed)
        places.append(losses.place)
        confidences.append(losses.confidence)
        overlaps.append(overlap[held])
        away.append((visible[:, frame] & ~inside).mean())
        on = (overlap > 0.5) & held
        correct.append(float(((step.confidence.detach() > 0.5) == on).float().mean()))
        _move_on(at, step, corners, truth[:, frame], inside | ~visible[:, frame], limits, rng)
        for clip in np.flatnonzero(misled_after == frame):
            other = _rival(rivals[clip][:, frame], truth[clip, frame], rng)
            if other is None:
                other = _something_else(at.box[clip], step, int(clip), corners[clip], rng)
            at.box[clip] = _within(other[:2] + other[2:] / 2, other[2:], limits[clip])
            at.lost[clip] = -int(rng.integers(LONGEST_MISLED + 1))
    held_count = max(1, sum(len(o) for o in overlaps))
    total = clips * (frames - 1)
    return Terms(
        torch.stack(boxes).sum() / held_count,
        torch.stack(places).sum() / held_count,
        torch.stack(confidences).sum() / total,
        float(torch.cat(overlaps).mean()) if held_count > 1 else 0.0,
        float(np.mean(away)),
        float(np.mean(correct)),
    )


def _rival(boxes: FloatArray, truth: FloatArray, rng: np.random.Generator) -> FloatArray | None:
    """One of the other annotated objects, somewhat inexact; those nearby are taken most often.

    Args:
        boxes: x, y, w, h of the others on this frame, ``(k, 4)``; NaN where unknown.
        truth: of the target.
    """
    fit = np.isfinite(boxes).all(1) & (boxes[:, 2:] >= SMALLEST).all(1)
    boxes = boxes[fit]
    boxes = boxes[iou(boxes, truth) < 0.1] if len(boxes) else boxes
    if not len(boxes) or rng.random() >= ANNOTATED:
        return None
    away = np.hypot(*(boxes[:, :2] + boxes[:, 2:] / 2 - truth[:2] - truth[2:] / 2).T)
    chances = 1.0 / (away + math.sqrt(float(truth[2] * truth[3])))
    chosen = int(rng.choice(len(boxes), p=chances / chances.sum()))
    found: FloatArray = _jittered(boxes[chosen : chosen + 1], rng, 0.08)[0]
    return found


def _something_else(
    box: FloatArray,
    step: DenseStep,
    clip: int,
    corners: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """A box x, y, w, h in frame pixels that a tracker might follow by mistake instead of ``box``."""
    kind = rng.random()
    if kind < RIVAL:
        left, top, side = corners
        found = step.boxes[clip].detach().double().cpu().numpy().T * side + [left, top, left, top]
        x, y, w, h = box
        across = np.minimum(found[:, 2:], [x + w, y + h]) - np.maximum(found[:, :2], [x, y])
        elsewhere = (across <= 0).any(1)
        if elsewhere.any():
            scores = step.logits[clip].detach().double().cpu().numpy()
            x1, y1, x2, y2 = found[np.argmax(np.where(elsewhere, scores, -np.inf))]
            return np.array([x1, y1, x2 - x1, y2 - y1])
    unit = math.sqrt(float(box[2] * box[3]))
    if kind < RIVAL + BACKGROUND:
        angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2.5) * unit
        shift, scale = gap * np.array([np.cos(angle), np.sin(angle)]), float(np.exp(rng.normal(0, 0.3)))
    elif rng.random() < 0.5:
        scale = float(rng.uniform(0.25, 0.5))
        shift = rng.uniform(-0.35, 0.35, 2) * box[2:]
    else:
        scale, shift = float(rng.uniform(2.0, 3.5)), rng.normal(0, 0.3, 2) * unit
    size = box[2:] * scale
    return np.concatenate((box[:2] + box[2:] / 2 + shift - size / 2, size))


def _within(middle: FloatArray, size: FloatArray, limits: FloatArray) -> FloatArray:
    """Boxes ``(..., 4)`` with their middles in the frame, no larger than it and no smaller than ``SMALLEST``."""
    size, middle = np.clip(size, SMALLEST, limits), np.clip(middle, 0, limits)
    return np.concatenate((middle - size / 2, size), -1)


def _look(groups: Sequence[ClipGroup], frame: int, windows: Sequence[CropWindow], size: int) -> Views:
    views, first = [], 0
    for group in groups:
        count = len(group.boxes)
        views.append(group.look(frame, windows[first : first + count], size))
        first += count
    return concatenated(views)


def _template_window(box: FloatArray, c: ModelConfig) -> CropWindow:
    return crop_window(context_box(box.tolist(), c.crop_context), c.template_factor)


def _search_window(box: FloatArray, c: ModelConfig) -> CropWindow:
    measured = context_box(box.tolist(), c.crop_context)
    if c.search_grid > 0:
        return snapped_window(measured, c.search_factor, c.search_grid, c.search_scale_step)
    return crop_window(measured, c.search_factor)


def _jittered(box: FloatArray, rng: np.random.Generator, spread: float) -> FloatArray:
    """Boxes about as inexact as a tracker's."""
    n = len(box)
    size = box[:, 2:] * np.exp(rng.normal(0, spread, (n, 1)) + rng.normal(0, spread / 2, (n, 2)))
    unit = np.sqrt(box[:, 2:].prod(1, keepdims=True))
    middle = box[:, :2] + box[:, 2:] / 2 + rng.normal(0, 1.5 * spread, (n, 2)) * unit
    return np.concatenate((middle - size / 2, np.maximum(size, SMALLEST)), 1)


def _in_crop(box: FloatArray, corners: FloatArray) -> FloatArray:
    """x, y, w, h of frames to x1 y1 x2 y2 over the crop's side."""
    left, top, side = corners.T
    low = (box[:, :2] - np.stack((left, top), 1)) / side[:, None]
    return np.concatenate((low, low + box[:, 2:] / side[:, None]), 1)


def _move_on(
    at: _Followed,
    step: DenseStep,
    corners: FloatArray,
    truth: FloatArray,
    well: npt.NDArray[np.bool_],
    limits: FloatArray,
    rng: np.random.Generator,
) -> None:
    """Where the next crops are cut; in place."""
    box = step.box.detach().double().cpu().numpy()
    confidence = step.confidence.detach().double().cpu().numpy()[:, None]
    left, top, side = corners.T
    middle = (box[:, :2] + box[:, 2:]) / 2 * side[:, None] + np.stack((left, top), 1)
    size = np.maximum((box[:, 2:] - box[:, :2]) * side[:, None], 1.0)
    size = at.box[:, 2:] + (size - at.box[:, 2:]) * SIZE_RATE * confidence
    at.box = _within(middle, size, limits)
    at.lost = np.where(well, 0, at.lost + 1)
    again = at.lost >= LOST_AFTER
    if again.any():
        at.box[again] = _jittered(truth[again], rng, 0.12)
        at.lost[again] = 0
    assert math.isfinite(float(at.box.sum()))
