"""Clips cut from annotated sequences: videos, or the published sets' frames on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sttrack_deploy.cropping import crop_patch
from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.augmentation import Degradation, Drift, JitterRule, Published
from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipGeometry, Draws, seeded
from sttrack_deploy.models.training.clips.real.frame_choice import ChosenClip, FrameChooser
from sttrack_deploy.models.training.clips.real.track_bank import VISIBLE, TrackBank, UnreadableImageError
from sttrack_deploy.models.training.recipe import AugmentationRecipe, DataRecipe, JitterRecipe

__all__ = ["TrackSource"]

UInt8Array = npt.NDArray[np.uint8]

NOISE_TILE = 640
ATTEMPTS = 100  # draws for one clip; some lead nowhere
SMALLEST_SIDE = 4.0  # pixels of a crop's side in its frame
WIDEST = 4  # crop sides as seen, over as shown: wider ones are cut from a smaller copy of the frame
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Cut:
    """One crop of the clip: its pixels uint8 ``(size, size, 3)`` RGB, its mask, its window left, top, side."""

    patch: UInt8Array
    mask: npt.NDArray[np.bool_]
    window: tuple[float, float, float]


class TrackSource:
    """A :class:`~sttrack_deploy.models.training.clips.batch.ClipSource` over a bank of tracks (always on the CPU).

    Each clip has a random generator of its own, whose seed is drawn from the batch's. So nothing depends on
    how many threads share the work, and an image that cannot be read changes no other clip.
    """

    def __init__(
        self,
        bank: TrackBank,
        geometry: ClipGeometry | None = None,
        recipe: DataRecipe | None = None,
        *,
        notice: Callable[[str], None] = print,
    ) -> None:
        """Take frames from ``bank`` by the rules of ``recipe``.

        Args:
            notice: told of images that are passed over, when there are 1, 10, 100 and so on.
        """
        recipe = recipe or DataRecipe()
        self.bank = bank
        self.geometry = geometry or ClipGeometry()
        self.augmentation = recipe.augmentation
        self.chooser = FrameChooser(bank, recipe.sampling, recipe.negatives)
        self.jitter = _rule(recipe.jitter)
        self.skip_unreadable = recipe.skip_unreadable
        self.unreadable = 0
        self.notice = notice
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(recipe.workers, "clips") if recipe.workers > 1 else None
        tile = max(NOISE_TILE, self.geometry.search_size + 64)
        self.noise = torch.randn(3, tile, tile, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        """See :meth:`~sttrack_deploy.models.training.clips.batch.ClipSource.sample`.

        Raises:
            UserError: no sequence is long enough, or an image cannot be read.
        """
        self.chooser.prepare(frames)
        seeds = torch.randint(2**62, (batch,), generator=generator).tolist()
        cut = self.pool.map if self.pool else map
        clips = list(cut(lambda seed: self._clip(seed, frames), seeds))
        joined = ClipBatch(*(torch.stack(parts) for parts in zip(*clips, strict=True)))
        if self.augmentation.rule != "camera":
            return joined
        draws = Draws(generator, CPU)
        time = torch.linspace(0, 1, frames + 1).expand(batch, -1) * draws.log_uniform(0.02, 0.5, batch, 1)
        camera = Degradation(draws, batch, frames + 1, time, self.noise)
        template = _degraded(camera, joined.template[:, None], slice(0, 1))[:, 0]
        search = _degraded(camera, joined.search, slice(1, frames + 1))
        return ClipBatch(
            template, joined.template_mask, search, joined.search_mask, joined.box, joined.present
        )

    def _clip(self, seed: int, frames: int) -> tuple[Tensor, ...]:
        """The fields of a :class:`ClipBatch` for one clip, without the batch's axis."""
        for attempt in range(ATTEMPTS):
            draws = Draws(seeded(seed, attempt), CPU)
            chosen = self.chooser.choose(draws, frames)
            if chosen is None:
                continue
            try:
                clip = self._cut_clip(draws, chosen)
            except UnreadableImageError as error:
                if not self.skip_unreadable:
                    raise
                self._pass_over(error)
                continue
            if clip is not None:
                return clip
        raise UserError(f"{self.bank.title}: {ATTEMPTS} draws gave no clip; are its images and boxes right?")

    def _cut_clip(self, draws: Draws, chosen: ChosenClip) -> tuple[Tensor, ...] | None:
        """A clip; ``None`` if some crop shows nothing of its frame."""
        g, frames = self.geometry, chosen.frames
        boxes, shown = self._boxes(chosen)
        spots = [(chosen.track, int(frame)) for frame in frames]
        template_box = boxes[:1]
        if chosen.stranger is not None:
            spots[0] = chosen.stranger
            template_box = _corners(self.bank.boxes(chosen.stranger[0])[chosen.stranger[1]][None])
            shown = np.zeros_like(shown)
        pictures = self._read(spots)
        height, width = pictures[1].shape[:2]
        limit = torch.tensor([[width, height]], dtype=torch.float32)
        template_at = self.jitter.template(draws, torch.from_numpy(template_box)[None], g.template_factor)
        search_at = self.jitter.search(draws, torch.from_numpy(boxes)[None], g.search_factor, limit)
        mirrored = self._mirrored(draws, len(frames))
        places = torch.cat([template_at[0], search_at[0]]).tolist()
        sizes = [g.template_size] + [g.search_size] * (len(frames) - 1)
        look = _Look(draws, self.augmentation, len(frames))
        cuts = [
            _cut(picture, place, bool(flip), size, g.stride)
            for picture, place, flip, size in zip(pictures, places, mirrored, sizes, strict=True)
        ]
        if any(cut.mask.all() for cut in cuts):
            return None
        truth = np.stack(
            [
                _inside(boxes[i], cut.window, pictures[i].shape[1], bool(mirrored[i]))
                for i, cut in enumerate(cuts)
            ]
        )[1:]
        middle = (truth[:, :2] + truth[:, 2:]) / 2
        present = shown[1:] & ((middle > 0) & (middle < 1)).all(1)
        patches = [torch.from_numpy(look.apply(cut.patch, i)) for i, cut in enumerate(cuts)]
        masks = [torch.from_numpy(cut.mask) for cut in cuts]
        return (
            patches[0],
            masks[0],
            torch.stack(patches[1:]),
            torch.stack(masks[1:]),
            torch.from_numpy(truth.astype(np.float32)),
            torch.from_numpy(present),
        )

    def _boxes(self, chosen: ChosenClip) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Corners ``(T + 1, 4)`` of the frames, where it was last seen if it is hidden, and whether it is seen."""
        states = self.bank.states(chosen.track)
        boxes = self.bank.boxes(chosen.track)
        shown = np.asarray(states[chosen.frames] == VISIBLE)
        last = [
            frame if seen else int(np.flatnonzero(states[:frame] == VISIBLE)[-1])
            for frame, seen in zip(chosen.frames.tolist(), shown.tolist(), strict=True)
        ]
        return _corners(boxes[last]), shown

    def _read(self, spots: Sequence[tuple[int, int]]) -> list[UInt8Array]:
        """Frames by track and number, each decoded once."""
        decoded = {spot: self.bank.read(*spot) for spot in dict.fromkeys(spots)}
        return [decoded[spot] for spot in spots]

    def _mirrored(self, draws: Draws, count: int) -> npt.NDArray[np.bool_]:
        """Which of the clip's crops are mirrored, ``(count,)``."""
        whole = draws.chance(self.augmentation.mirror, 1)
        return np.asarray((whole ^ draws.chance(self.augmentation.mirror_crops, count)).numpy(), np.bool_)

    def _pass_over(self, error: UnreadableImageError) -> None:
        with self.lock:
            self.unreadable += 1
            count = self.unreadable
        if str(count).strip("0") == "1":
            self.notice(f"{error}; passed over, as {count} in all")


class _Look:
    """The published rule for the pixels of one clip: gray as a whole, brightness by crop."""

    def __init__(self, draws: Draws, recipe: AugmentationRecipe, crops: int) -> None:
        self.used = recipe.rule == "published"
        self.gray = self.used and bool(draws.chance(recipe.gray, 1))
        spread = recipe.brightness if self.used else 0.0
        self.gains = draws.uniform(1 - spread, 1 + spread, crops).tolist()

    def apply(self, patch: UInt8Array, crop: int) -> UInt8Array:
        if not self.used:
            return patch
        if self.gray:
            patch = np.asarray(cv2.merge([cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)] * 3), np.uint8)
        return np.asarray(cv2.convertScaleAbs(patch, alpha=self.gains[crop]), np.uint8)


def _rule(recipe: JitterRecipe) -> JitterRule:
    if recipe.rule == "drift":
        return Drift()
    return Published(recipe.center, recipe.scale, recipe.template_center, recipe.template_scale)


def _corners(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """x1 y1 x2 y2 of x, y, w, h; ``(n, 4)``."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _cut(picture: UInt8Array, place: list[float], mirrored: bool, size: int, stride: int) -> Cut:
    """One crop as the runtime cuts it; ``place``: center x, y and side in the frame, which is then mirrored."""
    x, y, side = place
    side = max(side, SMALLEST_SIDE)
    if mirrored:
        # A view: only what is cut out is copied.
        picture, x = picture[:, ::-1], picture.shape[1] - x
    shrink = max(1, int(side / (WIDEST * size)))
    if shrink > 1:
        # With its padding, a wide crop about a large target would take gigabytes.
        height, width = (max(1, round(extent / shrink)) for extent in picture.shape[:2])
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        x, y, side = x / shrink, y / shrink, side / shrink
    crop = crop_patch(picture, (x - side / 2, y - side / 2, side, side), 1.0, size, stride)
    window = (crop.window.x1, crop.window.y1, crop.window.side)
    return Cut(crop.patch, crop.mask, (window[0] * shrink, window[1] * shrink, window[2] * shrink))


def _inside(
    box: npt.NDArray[np.float32], window: tuple[float, float, float], width: int, mirrored: bool
) -> npt.NDArray[np.float64]:
    """Corners ``(4,)`` of a box of the frame, normalized to a window of the frame, or of its mirror image."""
    x1, y1, x2, y2 = box.tolist()
    if mirrored:
        x1, x2 = width - x2, width - x1
    left, top, side = window
    return (np.array([x1, y1, x2, y2]) - [left, top, left, top]) / side


def _degraded(camera: Degradation, pixels: Tensor, frames: slice) -> Tensor:
    """Pixels uint8 ``(n, f, s, s, 3)`` with the camera's faults; black stays black (it may be padding)."""
    black = (pixels == 0).all(-1, keepdim=True)
    canvas = camera.apply(pixels.permute(0, 4, 1, 2, 3).float(), frames)
    out = (canvas + 0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
    return torch.where(black, torch.zeros_like(out), out).contiguous()
