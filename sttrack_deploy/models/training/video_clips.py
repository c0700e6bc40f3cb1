"""Clips from annotated videos: ``<name>.mp4`` with ``<name>.txt``, or several ``<name>__trackN.txt``.

A line of the text file is ``x,y,w,h`` in pixels for one frame; ``nan`` there means absent *or lost*, so such
frames are never shown (they are no proof of absence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sttrack_deploy.cropping import crop_patch
from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips import ClipBatch, ClipGeometry
from sttrack_deploy.models.training.draws import Draws
from sttrack_deploy.models.training.image_bank import Split
from sttrack_deploy.models.training.jitter import search_guess, template_guess
from sttrack_deploy.models.training.photometry import Degradation

__all__ = ["HELD_OUT", "Track", "VideoSource", "load_tracks", "load_video_source"]

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

HELD_OUT = (
    "mot_pets_s3mf1_track7",
    "mot_tud_campus_track7",
    "segtrackv2_bmx_bike",
    "intel_car_detection__track2",
)
UNRELIABLE = (
    "mot_tud_campus_track2",  # its boxes go on while the person is hidden
    "intel_one_by_one_person__track3",  # in part on a chair that the person moved
)
JPEG_QUALITY = 95
NOISE_TILE = 640


@dataclass(frozen=True, slots=True)
class Track:
    """The annotated frames of one target.

    Attributes:
        name: the text file's stem.
        frames: JPEG data of the frames, BGR; shared between the tracks of one video.
        number: which of the video's frames they are.
        boxes: float64 ``(F, 4)`` x, y, w, h in pixels, all finite.
    """

    name: str
    frames: tuple[UInt8Array, ...]
    number: tuple[int, ...]
    boxes: FloatArray


def load_tracks(
    folders: Sequence[Path],
    split: Split = "train",
    *,
    held_out: Sequence[str] = HELD_OUT,
    excluded: Sequence[str] = UNRELIABLE,
) -> list[Track]:
    """Read the annotated videos of some folders into memory, as JPEG (about 60 KB a frame).

    Args:
        folders: each holds ``.mp4`` files with their ``.txt`` files; videos without one are passed over.
        split: ``'val'`` reads the tracks of ``held_out``, ``'train'`` all others.
        held_out: names of tracks.
        excluded: names of tracks that are in neither split.

    Raises:
        UserError: a folder or all tracks are missing, or a file cannot be read.
    """
    tracks: list[Track] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"the video folder {folder} does not exist")
        for video in sorted(folder.glob("*.mp4")):
            texts = [p for p in sorted(folder.glob(f"{video.stem}*.txt")) if _belongs(p.stem, video.stem)]
            texts = [p for p in texts if (p.stem in held_out) == (split == "val") and p.stem not in excluded]
            tracks += _read_video(video, texts) if texts else []
    if not tracks:
        raise UserError(
            f"no annotated video for the split '{split}' in {', '.join(map(str, folders))}: "
            "each <name>.mp4 needs a <name>.txt with x,y,w,h a line"
        )
    return tracks


def _belongs(text: str, video: str) -> bool:
    return text == video or text.startswith(f"{video}__track")


def _read_video(video: Path, texts: list[Path]) -> list[Track]:
    """The tracks of one video; only frames that some track has a box in are kept."""
    boxes = {path: _read_boxes(path) for path in texts}
    length = max(len(b) for b in boxes.values())
    capture = cv2.VideoCapture(str(video))
    size = (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    valid = {path: _usable(b, size) for path, b in boxes.items()}
    stored: dict[int, UInt8Array] = {}
    index = 0
    while index < length:
        read, frame = capture.read()
        if not read:
            break
        if any(index < len(v) and bool(v[index]) for v in valid.values()):
            _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            stored[index] = np.asarray(data, np.uint8)
        index += 1
    capture.release()
    if index == 0:
        raise UserError(f"the video {video} cannot be read")
    if index < length:
        raise UserError(
            f"{video} has {index} frames but {texts[0]} has {length} lines; they must be one a frame"
        )
    tracks = []
    for path in texts:
        number = [int(i) for i in np.flatnonzero(valid[path])]
        if len(number) >= 2:
            frames = tuple(stored[i] for i in number)
            tracks.append(Track(path.stem, frames, tuple(number), boxes[path][number]))
    return tracks


def _usable(boxes: FloatArray, size: tuple[float, float]) -> BoolArray:
    """Which of the boxes ``(lines, 4)`` show the target: bool ``(lines,)``.

    A target that is just coming into the frame leaves a sliver at its edge, which shows nothing to learn from.
    """
    width, height = size
    known = np.asarray(np.isfinite(boxes).all(1), np.bool_)
    filled = np.where(known[:, None], boxes, 0.0)
    x, y, w, h = filled.T
    touches = (x < 3) | (y < 3) | (x + w > width - 3) | (y + h > height - 3)
    area = w * h
    usual = float(np.median(area[known])) if known.any() else 0.0
    return np.asarray(known & (w > 2) & (h > 2) & ~(touches & (area < 0.6 * usual)), np.bool_)


def _read_boxes(path: Path) -> FloatArray:
    """float64 ``(lines, 4)``."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        boxes = np.array([[float(v) for v in line.replace(",", " ").split()] for line in lines], np.float64)
    except ValueError:
        boxes = np.empty((0, 0))
    if boxes.ndim != 2 or boxes.shape[1:] != (4,):
        raise UserError(f"{path} must hold four numbers x,y,w,h (or nan) a line")
    return boxes


def load_video_source(
    folders: Sequence[Path], split: Split = "train", *, geometry: ClipGeometry | None = None
) -> VideoSource:
    """:class:`VideoSource` over :func:`load_tracks`."""
    return VideoSource(load_tracks(folders, split), geometry)


class VideoSource:
    """A :class:`~sttrack_deploy.models.training.clips.ClipSource` over annotated videos (always on the CPU).

    Clips run forwards or backwards, at gaps from 1 to ``max_gap`` annotated frames, mirrored or not, with light
    and camera changed as in the synthetic clips.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        geometry: ClipGeometry | None = None,
        *,
        max_gap: int = 30,
        degrade: bool = True,
    ) -> None:
        self.tracks = tuple(tracks)
        self.geometry = geometry or ClipGeometry()
        self.max_gap = max_gap
        self.degrade = degrade
        # Long tracks count for more, but not in proportion: their frames resemble one another.
        self.weights = torch.tensor([math.sqrt(len(t.frames)) for t in self.tracks])
        tile = max(NOISE_TILE, self.geometry.search_size + 64)
        self.noise = torch.randn(3, tile, tile, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        """See :meth:`~sttrack_deploy.models.training.clips.ClipSource.sample`."""
        draws = Draws(generator, torch.device("cpu"))
        g = self.geometry
        chosen = torch.multinomial(self.weights, batch, replacement=True, generator=generator).tolist()
        tracks = [self.tracks[i] for i in chosen]
        order = [self._moments(draws, len(t.frames), frames) for t in tracks]
        box = torch.tensor(
            np.stack([t.boxes[o] for t, o in zip(tracks, order, strict=True)]), dtype=torch.float32
        )
        mirrored = draws.chance(0.5, batch)
        pictures = [
            [_decode(t.frames[i], bool(m)) for i in o]
            for t, o, m in zip(tracks, order, mirrored, strict=True)
        ]
        limit = torch.tensor([[p[0].shape[1], p[0].shape[0]] for p in pictures], dtype=torch.float32)
        left = torch.where(mirrored[:, None], limit[:, :1] - box[..., 0] - box[..., 2], box[..., 0])
        low = torch.stack([left, box[..., 1]], -1)
        xyxy = torch.cat([low, low + box[..., 2:]], -1)
        template, template_mask, _ = self._cut(
            [p[:1] for p in pictures], template_guess(draws, xyxy, g.template_factor), g.template_size
        )
        search, search_mask, window = self._cut(
            [p[1:] for p in pictures], search_guess(draws, xyxy, g.search_factor, limit), g.search_size
        )
        truth = (xyxy[:, 1:] - window[..., [0, 1, 0, 1]]) / window[..., 2:]
        middle = (truth[..., :2] + truth[..., 2:]) / 2
        present = ((middle > 0) & (middle < 1)).all(-1)
        if self.degrade:
            time = torch.linspace(0, 1, frames + 1).expand(batch, -1) * draws.log_uniform(0.02, 0.5, batch, 1)
            camera = Degradation(draws, batch, frames + 1, time, self.noise)
            template = _degraded(camera, template, slice(0, 1))
            search = _degraded(camera, search, slice(1, frames + 1))
        return ClipBatch(template[:, 0], template_mask[:, 0], search, search_mask, truth, present)

    def _moments(self, draws: Draws, length: int, frames: int) -> list[int]:
        """Positions in the track of the template's and the searched frames, running one way."""
        widest = max(1.0, min(float(self.max_gap), (length - 1) / frames))
        reach = draws.number(0, math.log(widest))
        gaps = [max(1, round(math.exp(reach) * draws.number(0.4, 1.6))) for _ in range(frames)]
        steps = np.minimum(np.cumsum([0, *gaps]), length - 1)
        start = int(draws.number(0, length - int(steps[-1]) - 1e-6))
        moments = start + steps
        if draws.number(0, 1) < 0.5:
            moments = 2 * start + int(steps[-1]) - moments
        return [int(m) for m in moments]

    def _cut(
        self, pictures: list[list[UInt8Array]], crop: Tensor, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Crops as the runtime cuts them.

        Args:
            pictures: for each clip its frames, BGR.
            crop: ``(n, f, 3)`` centre x, y and side, pixels.
            size: side of the result.

        Returns:
            uint8 ``(n, f, size, size, 3)``, bool ``(n, f, cells, cells)``, and the windows that were cut,
            float32 ``(n, f, 3)`` left, top, side.
        """
        n, f = crop.shape[:2]
        cells = size // self.geometry.stride
        patches = np.empty((n, f, size, size, 3), np.uint8)
        masks = np.empty((n, f, cells, cells), np.bool_)
        windows = np.empty((n, f, 3), np.float32)
        for i in range(n):
            for j in range(f):
                x, y, side = crop[i, j].tolist()
                side = max(side, 4.0)
                cut = crop_patch(
                    pictures[i][j], (x - side / 2, y - side / 2, side, side), 1.0, size, self.geometry.stride
                )
                patches[i, j], masks[i, j] = cut.patch, cut.mask
                windows[i, j] = cut.window.x1, cut.window.y1, cut.window.side
        return torch.from_numpy(patches), torch.from_numpy(masks), torch.from_numpy(windows)


def _decode(data: UInt8Array, mirrored: bool) -> UInt8Array:
    picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture


def _degraded(camera: Degradation, pixels: Tensor, frames: slice) -> Tensor:
    """Pixels uint8 ``(n, f, s, s, 3)`` with the camera's faults; black stays black (it may be padding)."""
    black = (pixels == 0).all(-1, keepdim=True)
    canvas = camera.apply(pixels.permute(0, 4, 1, 2, 3).float(), frames)
    out = (canvas + 0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
    return torch.where(black, torch.zeros_like(out), out).contiguous()
