"""What a tracker can look at while it trains: clips that are cut where it looks, not beforehand.

Of a group of clips any square can be asked for at any frame. Two kinds: annotated video, with
moving copies of the target pasted into some clips, and photographs set in motion.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sttrack_deploy.cropping import cut_window
from sttrack_deploy.geometry import CropWindow
from sttrack_deploy.models.training.clips.augmentation import Degradation
from sttrack_deploy.models.training.clips.batch import Draws
from sttrack_deploy.models.training.clips.real.video_clips import Track
from sttrack_deploy.models.training.clips.synthetic.image_bank import SpriteSampler
from sttrack_deploy.models.training.clips.synthetic.layers import crop_matrix, draw_layer, sample_plane
from sttrack_deploy.models.training.clips.synthetic.scenes import make_scene

__all__ = ["ClipGroup", "PhotographGroup", "VideoGroup", "VideoLook", "Views"]

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

STRIDES = (1, 1, 1, 2, 2, 3, 4, 6)
"""Frames from one search frame to the next: faster targets than the videos show."""
REVERSED = 0.5
MIRRORED = 0.5
LATE = 0.4
"""Share of video clips whose template is from some time before the first search frame."""
LATEST = 90
COPIED = 0.4
"""Share of video clips with a moving copy of the target."""
COVERED = 0.15
"""Share of video clips where something passes in front of the target."""
GRAY = 0.08
HIDDEN = 0.35
"""A target of which less than this can be seen counts as absent."""


@dataclass(frozen=True, slots=True)
class Views:
    """Crops of ``n`` clips: uint8 ``(n, s, s, 3)`` RGB and their masks, bool ``(n, s / 16, s / 16)``."""

    pixels: UInt8Array
    masks: npt.NDArray[np.bool_]


class ClipGroup(Protocol):
    """``n`` clips of ``F`` frames; frame 0 is the template's.

    Attributes:
        boxes: float32 ``(n, F, 4)``, x, y, w, h in pixels of the clip's frames.
        visible: bool ``(n, F)``, whether enough of the target can be seen there (if the crop shows that place).
        limits: float32 ``(n, 2)``, width and height of the frames.
        rivals: of each clip the other annotated objects, float64 ``(k, F, 4)`` like ``boxes``; NaN where unknown.
    """

    boxes: FloatArray
    visible: npt.NDArray[np.bool_]
    limits: FloatArray

    @property
    def rivals(self) -> Sequence[npt.NDArray[np.float64]]: ...

    def look(self, frame: int, windows: Sequence[CropWindow], size: int) -> Views:
        """The crops of one frame, one window a clip."""
        ...


@dataclass(frozen=True, slots=True)
class _Passer:
    """Something pasted into a video: it passes the target at ``gap`` target sizes.

    Attributes:
        place: float32 ``(F, 2)``, its middle in frame pixels.
        copy: it is the target's own picture, from the frame it is pasted into; else ``patch`` is.
        scale: its size over the target's.
    """

    place: FloatArray
    copy: bool
    scale: float
    patch: UInt8Array | None


class VideoLook:
    """How the frames of video clips look beside what they show: gain, gray, blur and noise.

    Args:
        frames: of a clip, the template's included.
    """

    def __init__(self, rng: np.random.Generator, clips: int, frames: int) -> None:
        self._rng = rng
        self._gray = rng.random(clips) < GRAY
        self._gain = np.exp(rng.normal(0, 0.12, (clips, 1, 3)) + rng.normal(0, 0.15, (clips, frames, 1)))
        self._blur = np.where(rng.random(clips) < 0.15, rng.uniform(0.02, 0.08, clips), 0.0)
        self._noise = np.where(rng.random(clips) < 0.2, rng.uniform(2, 12, clips), 0.0)

    def degraded(self, patch: UInt8Array, clip: int, frame: int) -> UInt8Array:
        """A crop, uint8 ``(s, s, 3)``, as this clip's camera shows it."""
        if self._gray[clip]:
            patch = np.asarray(cv2.merge([cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)] * 3), np.uint8)
        if frame and self._blur[clip]:
            length = max(2, round(self._blur[clip] * patch.shape[0]))
            kernel = (length, 1) if clip % 2 else (1, length)
            patch = np.asarray(cv2.blur(patch, kernel), np.uint8)
        table = np.arange(256, dtype=np.float32)[:, None] * self._gain[clip, frame][None]
        patch = np.asarray(cv2.LUT(patch, np.clip(table, 0, 255).astype(np.uint8)[None]), np.uint8)
        if self._noise[clip]:
            noise = self._rng.normal(0, self._noise[clip], patch.shape[:2]).astype(np.int16)[..., None]
            patch = np.clip(patch + noise, 0, 255).astype(np.uint8)
        return patch


class VideoGroup:
    """Clips of annotated video; see :class:`ClipGroup`.

    Args:
        tracks: to choose from, by their ``weights``.
        rng: decides everything.
        clips, frames: ``n`` and the number of search frames (``F - 1``).
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        weights: npt.NDArray[np.float64],
        rng: np.random.Generator,
        clips: int,
        frames: int,
    ) -> None:
        self._rng = rng
        chosen = rng.choice(len(tracks), clips, p=weights)
        self._all_tracks = tracks
        self._tracks = [tracks[int(i)] for i in chosen]
        self._frames = np.stack([_moments(track, rng, frames) for track in self._tracks])
        self.boxes = np.stack(
            [track.boxes[f] for track, f in zip(self._tracks, self._frames, strict=True)]
        ).astype(np.float32)
        self._mirrored = rng.random(clips) < MIRRORED
        self._look = VideoLook(rng, clips, frames + 1)
        sizes = [self._read(i, 0).shape for i in range(clips)]
        self.limits = np.array([(s[1], s[0]) for s in sizes], np.float32)
        flip = self._mirrored
        self.boxes[flip, :, 0] = self.limits[flip, None, 0] - self.boxes[flip, :, 0] - self.boxes[flip, :, 2]
        self.visible = np.ones(self.boxes.shape[:2], np.bool_)
        self._passers = [self._companions(i) for i in range(clips)]

    def look(self, frame: int, windows: Sequence[CropWindow], size: int) -> Views:
        pixels, masks = [], []
        for clip, window in enumerate(windows):
            crop = cut_window(self._picture(clip, frame), window, size, 16)
            pixels.append(self._look.degraded(crop.patch, clip, frame))
            masks.append(crop.mask)
        return Views(np.stack(pixels), np.stack(masks))

    def _read(self, clip: int, frame: int) -> UInt8Array:
        picture = cv2.imdecode(self._tracks[clip].frames[self._frames[clip, frame]], cv2.IMREAD_COLOR)
        assert picture is not None
        return np.asarray(picture, np.uint8)

    def _picture(self, clip: int, frame: int) -> UInt8Array:
        """A frame, mirrored if the clip is, with what passes by."""
        picture = self._read(clip, frame)
        if self._mirrored[clip]:
            picture = np.asarray(cv2.flip(picture, 1), np.uint8)
        for passer in self._passers[clip] if frame else ():
            patch = passer.patch
            if passer.copy:
                patch = _cutout(picture, self.boxes[clip, frame])
            if patch is not None:
                wanted = self.boxes[clip, frame, 2:] * passer.scale
                _paste(picture, patch, passer.place[frame], wanted)
        return picture

    def _companions(self, clip: int) -> list[_Passer]:
        rng, box = self._rng, self.boxes[clip]
        middle = box[:, :2] + box[:, 2:] / 2
        unit = np.sqrt(box[:, 2:].prod(1, keepdims=True))
        count = len(box)
        passers = []
        if rng.random() < COPIED:
            path = _passing(rng, count, rng.uniform(0.75, 1.8), rng.uniform(0, 5))
            scale = float(rng.uniform(0.8, 1.25))
            passers.append(_Passer((middle + path * unit).astype(np.float32), True, scale, None))
        if rng.random() < COVERED:
            other = int(rng.integers(len(self._tracks)))
            patch = _cutout(self._read(other, 0), self._tracks[other].boxes[self._frames[other, 0]])
            if patch is not None:
                gap, scale = rng.uniform(0, 0.6), float(rng.uniform(0.7, 1.6))
                path = _passing(rng, count, gap, rng.uniform(3, 8)).astype(np.float32)
                passers.append(_Passer((middle + path * unit).astype(np.float32), False, scale, patch))
                # What is left of the target beside an ellipse of that size, about.
                far = np.hypot(*(path / (0.5 * (1 + scale))).T)
                self.visible[clip, 1:] &= (1.0 - scale**2 * np.clip(1 - far, 0, 1))[1:] > HIDDEN
        return passers

    @functools.cached_property
    def rivals(self) -> Sequence[npt.NDArray[np.float64]]:
        """See :class:`ClipGroup`; made when asked for, since most training does not."""
        return [self._others(clip) for clip in range(len(self._tracks))]

    def _others(self, clip: int) -> npt.NDArray[np.float64]:
        """The boxes of the other tracks of the same video."""
        track = self._tracks[clip]
        number = np.array(track.number)[self._frames[clip]]
        found = []
        for other in self._all_tracks:
            if other is not track and other.video == track.video:
                known = dict(zip(other.number, other.boxes, strict=True))
                unknown = np.full(4, np.nan)
                found.append(np.array([known.get(int(n), unknown) for n in number]))
        out = np.stack(found or [np.full((len(number), 4), np.nan)])
        if self._mirrored[clip]:
            out[..., 0] = self.limits[clip, 0] - out[..., 0] - out[..., 2]
        return out


def _moments(track: Track, rng: np.random.Generator, frames: int) -> npt.NDArray[np.int64]:
    """Which of the track's frames a clip shows, ``(frames + 1,)``; the first is the template's."""
    length = len(track.frames)
    stride = int(rng.choice(STRIDES))
    stride = max(1, min(stride, (length - 1) // (frames + 1)))
    gap = stride
    span = stride * (frames - 1)
    if rng.random() < LATE:
        gap = int(rng.integers(1, max(2, min(LATEST, length - span - 1))))
    start = int(rng.integers(0, max(1, length - span - gap)))
    out = np.concatenate([[start], start + gap + stride * np.arange(frames)])
    out = np.minimum(out, length - 1)
    return out if rng.random() >= REVERSED else np.asarray(out[0] + out[-1] - out, np.int64)


def _passing(rng: np.random.Generator, frames: int, gap: float, pace: float) -> npt.NDArray[np.float64]:
    """Places relative to the target's, in target sizes, ``(frames, 2)``: nearest, at ``gap``, in one of the frames."""
    angle = rng.uniform(0, 2 * np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    meeting = rng.integers(1, frames)
    offset = pace * (np.arange(frames) - meeting) / max(1, frames - 1)
    return np.asarray(offset[:, None] * along + gap * across * rng.choice([-1, 1]), np.float64)


def _cutout(picture: UInt8Array, box: npt.NDArray[np.floating]) -> UInt8Array | None:
    x, y, w, h = (round(float(v)) for v in box)
    patch = picture[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
    return patch.copy() if min(patch.shape[:2]) >= 3 else None


def _paste(picture: UInt8Array, patch: UInt8Array, place: FloatArray, wanted: FloatArray) -> None:
    """A soft ellipse of the patch, ``wanted`` wide and high, about ``place``; in place."""
    w, h = (max(3, round(float(v))) for v in wanted)
    x, y = round(float(place[0]) - w / 2), round(float(place[1]) - h / 2)
    height, width = picture.shape[:2]
    left, top, right, bottom = max(0, x), max(0, y), min(width, x + w), min(height, y + h)
    if right - left < 2 or bottom - top < 2 or w > 4 * width or h > 4 * height:
        return
    v, u = np.mgrid[0:h, 0:w]
    radius = np.hypot((u + 0.5) / w * 2 - 1, (v + 0.5) / h * 2 - 1)
    alpha = np.clip((1.08 - radius) / 0.16, 0, 1).astype(np.float32)[..., None]
    shown = (slice(top - y, bottom - y), slice(left - x, right - x))
    under = picture[top:bottom, left:right]
    over = cv2.resize(patch, (w, h))[shown]
    picture[top:bottom, left:right] = (under + alpha[shown] * (over.astype(np.float32) - under)).astype(
        np.uint8
    )


class PhotographGroup:
    """Photographs set in motion; see :class:`ClipGroup`."""

    def __init__(
        self, sampling: SpriteSampler, generator: torch.Generator, clips: int, frames: int, across: float
    ) -> None:
        """Draw the scenes.

        Args:
            across: about how many pixels of a search crop a target covers.
        """
        draws = Draws(generator, torch.device("cpu"))
        self._bank, self._across = sampling.bank, across
        self._scene = scene = make_scene(sampling, draws, clips, frames, (0.5 * across, 1.6 * across))
        noise = torch.randn(3, 320, 320, generator=generator)
        self._camera = Degradation(draws, clips, frames + 1, scene.time, noise)
        low = torch.minimum(scene.box[..., :2].clamp(min=0), scene.frame_size[:, None])
        high = torch.minimum(scene.box[..., 2:].clamp(min=0), scene.frame_size[:, None])
        self.boxes = torch.cat((low, high - low), -1).numpy().astype(np.float32)
        self.limits = scene.frame_size.numpy().astype(np.float32)
        inside = (scene.interior > 0) & (scene.interior < scene.frame_size[:, None, None])
        self.visible = ((inside.all(-1) * scene.visible).mean(-1) >= HIDDEN).numpy()
        self.rivals: Sequence[npt.NDArray[np.float64]] = [np.full((1, frames + 1, 4), np.nan)] * clips
        self._photo = self._bank.images[scene.photo].float()

    def look(self, frame: int, windows: Sequence[CropWindow], size: int) -> Views:
        scene, part = self._scene, slice(frame, frame + 1)
        crop = torch.tensor([[w.x1 + w.side / 2, w.y1 + w.side / 2, w.side] for w in windows])[:, None]
        to_frame = crop_matrix(crop)
        canvas = sample_plane(self._photo, scene.camera[:, part] @ to_frame, size)
        for layer in scene.layers:
            draw_layer(canvas, layer, self._bank, to_frame, part, self._across)
        canvas = self._camera.apply(canvas, part)[:, :, 0]
        pixels = (canvas + 0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        axis = ((torch.arange(size) + 0.5) / size - 0.5) * crop[..., 2]
        column, row = axis + crop[:, 0, :1], axis + crop[:, 0, 1:2]
        column_in = ((column >= 0) & (column < scene.frame_size[:, :1])).numpy()
        row_in = ((row >= 0) & (row < scene.frame_size[:, 1:])).numpy()
        pixels *= (row_in[:, :, None] & column_in[:, None, :])[..., None]
        masks = ~(row_in[:, ::16, None] & column_in[:, None, ::16])
        return Views(pixels, masks)


def concatenated(views: Sequence[Views]) -> Views:
    """The crops of several groups, one after the other."""
    return Views(np.concatenate([v.pixels for v in views]), np.concatenate([v.masks for v in views]))


def as_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """A tensor over the same memory."""
    return torch.from_numpy(np.ascontiguousarray(array))
