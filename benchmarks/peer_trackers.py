"""What a user would pick today on a CPU: NanoTrack v2, NanoTrack v3 and FEAR-XS in ONNX Runtime; OpenCV's CSRT and KCF.

The networks' files are not part of this project (NanoTrack: Apache-2.0, HonglinChu/SiamTrackers; FEAR: MIT,
PinataFarms/FEARTracker). The loop around them is written from the published facts: a search crop around the last
box, a foreground score and four distances for each cell, a penalty for a change of size and aspect, a Hann window
that prefers the middle, and a smoothed size.

CSRT and KCF need ``opencv-contrib-python<5`` in the place of ``opencv-python``, in an environment of its own.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import sha256_of
from sttrack_deploy.geometry import Box, clip_box
from sttrack_deploy.runtime.tracker import TrackResult

__all__ = ["PEERS", "OpenCVTracker", "Peer", "PeerMaker", "PeerTracker", "available", "peer_files"]

Frame = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

STRIDE = 16
"""Pixels of the search crop between neighboring cells, of all these networks."""
LOST_BELOW = 0.25
"""None of them says that it is lost; a score below this counts as that here."""


@dataclass(frozen=True)
class Peer:
    """One network and the constants of its loop.

    Attributes:
        files: NanoTrack: backbone and head; FEAR: the graph for the template and the one for the search.
        template_size, search_size: sides of the crops, pixels.
        window: weight of the Hann window in a cell's rank, 0 to 1.
        penalty: how fast the rank falls with a change of size and aspect.
        rate: share of a change of size that is taken over at full score.
        rgb: order of the channels; the other is BGR.
        stretched: crops are the box's own shape, enlarged, and not squares (FEAR).
    """

    name: str
    files: tuple[str, str]
    template_size: int
    search_size: int
    window: float
    penalty: float
    rate: float
    rgb: bool
    stretched: bool = False


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "NanoTrack v2",
            ("nanotrack/nanotrackv2_backbone.onnx", "nanotrack/nanotrackv2_head.onnx"),
            *(127, 255),
            *(0.455, 0.055, 0.37),
            rgb=True,
        ),
        Peer(
            "NanoTrack v3",
            ("nanotrack/nanotrackv3_backbone.onnx", "nanotrack/nanotrackv3_head.onnx"),
            *(127, 255),
            *(0.455, 0.138, 0.348),
            rgb=False,
        ),
        Peer(
            "FEAR-XS",
            ("fear/fear_init.onnx", "fear/fear_track.onnx"),
            *(128, 256),
            *(0.38, 0.062, 0.765),
            rgb=True,
            stretched=True,
        ),
    )
}
"""By name."""

TEMPLATE_MARGIN, SEARCH_MARGIN = 0.2, 2.0
"""What FEAR's crops add on each side, over the box's width and height."""


def peer_files(peer: Peer, folder: Path) -> tuple[Path, Path]:
    """The network's two files.

    Raises:
        UserError: one is missing.
    """
    first, second = (folder / file for file in peer.files)
    for path in (first, second):
        if not path.is_file():
            raise UserError(
                f"{peer.name} needs {path}, which is missing; --peers DIR must hold {', '.join(peer.files)}"
            )
    return first, second


class PeerTracker:
    """One of :data:`PEERS` with this project's interface for a single target."""

    def __init__(self, peer: Peer, folder: Path, threads: int | None = None) -> None:
        """
        Raises:
            UserError: a file is missing.
        """
        self.peer = peer
        first, second = peer_files(peer, folder)
        self._network: _Fear | _Nano = (
            _Fear(first, second, threads)
            if peer.stretched
            else _Nano(first, second, peer.template_size, threads)
        )
        self._features: FloatArray | None = None
        self._box: Box = (0.0, 0.0, 0.0, 0.0)
        self._fill: tuple[float, ...] = (0.0, 0.0, 0.0)

    def init(self, frame: Frame, box: Box) -> None:
        """Start on a BGR frame's box x, y, w, h."""
        # The mean color of the first frame lies outside every frame.
        self._fill = tuple(float(v) for v in cv2.mean(frame)[:3])
        self._box = (*(float(v) for v in box),)  # type: ignore[assignment]
        crop, _ = self._crop(frame, template=True)
        self._features = self._network.template(crop)

    def update(self, frame: Frame) -> TrackResult:
        """Find the target in the next frame."""
        assert self._features is not None
        peer = self.peer
        crop, (x1, y1, scale_x, scale_y) = self._crop(frame, template=False)
        score, distances = self._network.search(crop, self._features)
        cells = score.shape[0]
        grid = (np.arange(cells, dtype=np.float64) - cells // 2) * STRIDE + 0.5 * peer.search_size
        left, top, right, bottom = distances.astype(np.float64)
        width, height = left + right, top + bottom
        _, _, w, h = self._box
        penalty = _penalty(width, height, w * scale_x, h * scale_y, peer.penalty)
        hann = np.outer(np.hanning(cells), np.hanning(cells))
        rank = penalty * score * (1.0 - peer.window) + hann * peer.window
        row, column = np.unravel_index(int(rank.argmax()), rank.shape)
        best = row, column
        # The middle of the found box in the frame, and its size part of the way from the last one.
        cx = x1 + (grid[column] + 0.5 * (right[best] - left[best])) / scale_x
        cy = y1 + (grid[row] + 0.5 * (bottom[best] - top[best])) / scale_y
        rate = float(peer.rate * penalty[best] * score[best])
        w += rate * (float(width[best]) / scale_x - w)
        h += rate * (float(height[best]) / scale_y - h)
        box = float(cx - 0.5 * w), float(cy - 0.5 * h), w, h
        self._box = _inside(box, *frame.shape[:2])
        confidence = float(np.clip(score[best], 0.0, 1.0))
        return TrackResult(clip_box(self._box, *frame.shape[:2]), confidence, confidence < LOST_BELOW)

    def _crop(self, frame: Frame, *, template: bool) -> tuple[FloatArray, tuple[float, float, float, float]]:
        """The network's input around the last box, and the crop's corner and pixels for each pixel of the frame."""
        peer, (x, y, w, h) = self.peer, self._box
        size = peer.template_size if template else peer.search_size
        if peer.stretched:
            margin = 1.0 + 2.0 * (TEMPLATE_MARGIN if template else SEARCH_MARGIN)
            width, height = margin * w, margin * h
        else:
            context = 0.5 * (w + h)
            side = math.sqrt((w + context) * (h + context))
            width = height = side if template else side * peer.search_size / peer.template_size
        columns, rows = max(1, round(width)), max(1, round(height))
        x1, y1 = round(x + 0.5 * w - 0.5 * columns), round(y + 0.5 * h - 0.5 * rows)
        patch = cv2.resize(_window(frame, x1, y1, columns, rows, self._fill), (size, size))
        pixels = cv2.cvtColor(patch, cv2.COLOR_BGR2RGB) if peer.rgb else patch
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
        return planes, (float(x1), float(y1), size / columns, size / rows)


class OpenCVTracker:
    """One of OpenCV's trackers with this project's interface.

    Where it reports a failure, the last box it found stands, with confidence 0.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._inner: Any = None
        self._box: Box = (0.0, 0.0, 0.0, 0.0)

    def init(self, frame: Frame, box: Box) -> None:
        """Start on a BGR frame's box x, y, w, h, in whole pixels, which is all that it takes."""
        self._inner = getattr(cv2, f"Tracker{self._name}").create()  # these objects cannot be started twice
        self._box = box
        x, y, w, h = (round(value) for value in box)
        self._inner.init(frame, (x, y, max(w, 1), max(h, 1)))

    def update(self, frame: Frame) -> TrackResult:
        """Find the target in the next frame."""
        found, box = self._inner.update(frame)
        if found and box[2] > 0 and box[3] > 0:
            self._box = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        return TrackResult(self._box, float(bool(found)), not found)


@dataclass(frozen=True)
class PeerMaker:
    """Makes a peer, in a worker process too.

    Attributes:
        folder: of the networks' files; not looked at for OpenCV's trackers.
    """

    name: str
    folder: Path | None
    threads: int | None = None

    def __call__(self) -> PeerTracker | OpenCVTracker:
        """
        Raises:
            UserError: a file is missing.
        """
        if self.threads is not None:
            cv2.setNumThreads(self.threads)
        if self.name not in PEERS:
            return OpenCVTracker(self.name)
        assert self.folder is not None
        return PeerTracker(PEERS[self.name], self.folder, self.threads)

    def identity(self) -> dict[str, Any]:
        """What decides the boxes."""
        if self.name not in PEERS:
            return {"tracker": self.name, "opencv": cv2.__version__}
        assert self.folder is not None
        peer = PEERS[self.name]
        files = [sha256_of(path) for path in peer_files(peer, self.folder)]
        return {"tracker": self.name, "files": files, "loop": dataclasses.asdict(peer)}


def available(folder: Path | None, trackers: str | None, threads: int | None) -> list[PeerMaker]:
    """Makers of the trackers that were asked for.

    Args:
        folder: of the networks' files; ``None``: OpenCV's trackers only.
        trackers: names separated by commas; ``None``: all that there are.

    Raises:
        UserError: there is none, no such one, or a file is missing.
    """
    names = [] if folder is None else list(PEERS)
    names += [name for name in ("CSRT", "KCF") if hasattr(cv2, f"Tracker{name}")]
    if trackers is not None:
        chosen = [name.strip() for name in trackers.split(",")]
        if unknown := [name for name in chosen if name not in names]:
            raise UserError(f"there is no tracker {unknown[0]!r}; there are {', '.join(names) or 'none'}")
        names = chosen
    if not names:
        raise UserError("there is no tracker: name the folder of the networks with --peers DIR")
    if folder is not None:
        for name in names:
            if name in PEERS:
                peer_files(PEERS[name], folder)
    return [PeerMaker(name, folder, threads) for name in names]


def _penalty(
    width: npt.NDArray[np.float64],
    height: npt.NDArray[np.float64],
    old_width: float,
    old_height: float,
    k: float,
) -> npt.NDArray[np.float64]:
    """``exp(-(max(a, 1/a) max(q, 1/q) - 1) k)``, ``a`` the ratio of the context's sides, ``q`` that of the aspects."""
    width, height = np.maximum(width, 1e-3), np.maximum(height, 1e-3)
    a = _context_side(width, height) / _context_side(np.float64(old_width), np.float64(old_height))
    q = (width / height) / (old_width / old_height)
    return np.asarray(np.exp(-(np.maximum(a, 1 / a) * np.maximum(q, 1 / q) - 1.0) * k), np.float64)


def _context_side(width: Any, height: Any) -> Any:
    context = 0.5 * (width + height)
    return np.sqrt((width + context) * (height + context))


def _inside(box: Box, height: int, width: int) -> Box:
    """Center inside the frame, sides from ten pixels to the frame's."""
    x, y, w, h = box
    cx, cy = min(max(x + 0.5 * w, 0.0), float(width)), min(max(y + 0.5 * h, 0.0), float(height))
    w, h = min(max(w, 10.0), float(max(width, 10))), min(max(h, 10.0), float(max(height, 10)))
    return cx - 0.5 * w, cy - 0.5 * h, w, h


def _window(frame: Frame, x1: int, y1: int, columns: int, rows: int, fill: tuple[float, ...]) -> Frame:
    """Part of a frame, ``fill`` where it reaches over the border."""
    height, width = frame.shape[:2]
    left, top = max(0, -x1), max(0, -y1)
    right, bottom = max(0, x1 + columns - width), max(0, y1 + rows - height)
    inside = frame[max(0, y1) : max(0, y1 + rows - bottom), max(0, x1) : max(0, x1 + columns - right)]
    if inside.size == 0:
        return np.full((rows, columns, 3), np.round(fill), np.uint8)
    if not (left or top or right or bottom):
        return inside
    padded = cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(padded, np.uint8)


class _Nano:
    """A backbone for both crops, and a head."""

    def __init__(self, backbone: Path, head: Path, template_size: int, threads: int | None) -> None:
        self._search = _session(backbone, threads)
        self._template = _session(_with_side(backbone, template_size), threads)
        self._head = _session(head, threads)

    def template(self, crop: FloatArray) -> FloatArray:
        features: FloatArray = self._template.run(None, {"input": crop})[0]
        return features

    def search(self, crop: FloatArray, template: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Foreground ``(n, n)`` 0..1, and distances left, top, right, bottom ``(4, n, n)`` in crop pixels."""
        features = self._search.run(None, {"input": crop})[0]
        logits, distances = self._head.run(None, {"input1": template, "input2": features})
        foreground = 1.0 / (1.0 + np.exp(logits[0, 0] - logits[0, 1]))
        return foreground, distances[0]


class _Fear:
    """A graph for the template, and one for the search."""

    def __init__(self, template: Path, search: Path, threads: int | None) -> None:
        self._template, self._search = _session(template, threads), _session(search, threads)

    def template(self, crop: FloatArray) -> FloatArray:
        features: FloatArray = self._template.run(None, {"image": crop})[0]
        return features

    def search(self, crop: FloatArray, template: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As :meth:`_Nano.search`."""
        distances, logits = self._search.run(["bbox", "cls"], {"image": crop, "template_features": template})
        return 1.0 / (1.0 + np.exp(-logits[0, 0])), distances[0]


def _session(model: Path | bytes, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _with_side(path: Path, side: int) -> bytes:
    """The same graph for a crop of another size."""
    import onnx

    model = onnx.load(str(path))
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = side
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())
