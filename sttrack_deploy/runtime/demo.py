"""The demo clip: a reef scene drawn from nothing, whose truth is known exactly.

A striped fish swims through a moving camera's view and changes its size; a look-alike passes close by;
a mast in the foreground hides the fish for a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.geometry import Box
from sttrack_deploy.video.frames import Frame

__all__ = ["DemoClip"]

Image = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Color = tuple[int, int, int]  # BGR

WIDTH, HEIGHT, FPS, FRAMES = 640, 360, 30.0, 180
MARGIN = 170  # pixels of background beyond the view, for the camera to move in
SPRITE_WIDTH, SPRITE_HEIGHT = 220, 150  # canvas that a fish is drawn on
FISH_LENGTH = 92.0  # pixels in the view at scale 1
SUPERSAMPLE = 4
MAST_WIDTH, MAST_HEIGHT = 116, 520
SEEN = 0.5  # opacity from which a pixel belongs to the fish


@dataclass(frozen=True, slots=True)
class _Sprite:
    """A picture with opacity.

    Attributes:
        color: BGR times alpha, float32 ``(h, w, 3)`` in 0..255; premultiplied, so that what lies outside
            does not bleed into the edge.
        alpha: float32 ``(h, w)`` in 0..1.
    """

    color: FloatArray
    alpha: FloatArray


class DemoClip:
    """The clip.

    Attributes:
        fps: frames a second.
        truth: for each frame the box (x, y, w, h in pixels) around all of the fish's pixels, those behind
            the mast included, NaN where not one of them can be seen. Frame 0 shows the fish whole.
    """

    fps = FPS

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self._background = _reef(random)
        self._mast = _mast(random)
        self._target = _fish(random, body=(40, 120, 245), fin=(30, 70, 215), bands=(-0.30, 0.08, 0.42))
        self._other = _fish(random, body=(50, 165, 245), fin=(45, 105, 225), bands=(-0.12, 0.30))

    @cached_property
    def truth(self) -> list[Box]:
        """See the class."""
        return [self._truth(index) for index in range(FRAMES)]

    def frames(self, indices: Iterable[int] = range(FRAMES)) -> Iterator[Frame]:
        """Render frames in turn."""
        for index in indices:
            yield Frame(index, index / FPS, self.frame(index))

    def frame(self, index: int, *, target: bool = True) -> Image:
        """Render one frame, BGR uint8 ``(360, 640, 3)``, with the fish or without it."""
        view = cv2.warpAffine(
            self._background, _camera(index), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        canvas = np.asarray(view, np.float32)
        _paint(canvas, self._other, _other_pose(index))
        if target:
            _paint(canvas, self._target, _target_pose(index))
        _paint(canvas, self._mast, _mast_pose(index))
        return np.asarray(np.clip(canvas + 0.5, 0, 255), np.uint8)

    def _truth(self, index: int) -> Box:
        fish = _placed(self._target.alpha, _target_pose(index)) >= SEEN
        hidden = _placed(self._mast.alpha, _mast_pose(index)) >= SEEN
        if not (fish & ~hidden).any():
            return (np.nan, np.nan, np.nan, np.nan)
        columns, rows = np.flatnonzero(fish.any(axis=0)), np.flatnonzero(fish.any(axis=1))
        return (
            float(columns[0]),
            float(rows[0]),
            float(columns[-1] - columns[0] + 1),
            float(rows[-1] - rows[0] + 1),
        )


# --- motion ------------------------------------------------------------------------------------------

_KEYS = np.array([0.0, 30.0, 60.0, 90.0, 115.0, 135.0, 155.0, 179.0])
_TARGET_X = np.array([150.0, 235.0, 330.0, 350.0, 366.0, 380.0, 410.0, 490.0])
_TARGET_Y = np.array([215.0, 160.0, 150.0, 190.0, 215.0, 205.0, 150.0, 165.0])
_TARGET_SCALE = np.array([1.0, 1.3, 1.5, 1.15, 0.85, 0.80, 0.70, 1.05])
_CAMERA_X = np.array([0.0, 55.0, 100.0, 60.0, -25.0, -80.0, -40.0, 30.0])
_CAMERA_Y = np.array([0.0, -30.0, 15.0, 45.0, 20.0, -25.0, -40.0, 0.0])


def _along(values: npt.NDArray[np.float64], index: float) -> float:
    """A smooth curve through the key frames: linear interpolation, averaged over 15 frames."""
    return float(np.interp(index + np.linspace(-7.0, 7.0, 15), _KEYS, values).mean())


def _camera(index: int) -> FloatArray:
    """Maps a pixel of the view to the background, float32 ``(2, 3)``."""
    angle, zoom = np.radians(1.5 * np.sin(index / 23)), 1.0 + 0.03 * np.sin(index / 31)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    x = MARGIN + WIDTH / 2 + _along(_CAMERA_X, index)
    y = MARGIN + HEIGHT / 2 + _along(_CAMERA_Y, index)
    return np.array(
        [
            [cos, -sin, x - cos * WIDTH / 2 + sin * HEIGHT / 2],
            [sin, cos, y - sin * WIDTH / 2 - cos * HEIGHT / 2],
        ],
        np.float32,
    )


def _target_pose(index: int) -> FloatArray:
    wobble = 4.0 * np.sin(index / 4.5)
    climb = _along(_TARGET_Y, index + 1) - _along(_TARGET_Y, index - 1)
    return _pose(
        SPRITE_WIDTH,
        SPRITE_HEIGHT,
        _along(_TARGET_X, index),
        _along(_TARGET_Y, index) + 2.0 * np.sin(index / 6),
        _along(_TARGET_SCALE, index) * FISH_LENGTH / (0.84 * SPRITE_WIDTH),
        2.5 * climb + wobble,
    )


def _other_pose(index: int) -> FloatArray:
    """The look-alike overtakes the target from the left, below it, around frame 75."""
    x = _along(_TARGET_X, 75) + 5.2 * (index - 75)
    y = _along(_TARGET_Y, 75) + 82 + 10.0 * np.sin(index / 11)
    return _pose(
        SPRITE_WIDTH,
        SPRITE_HEIGHT,
        x,
        y,
        1.15 * FISH_LENGTH / (0.84 * SPRITE_WIDTH),
        5.0 * np.sin(index / 5 + 1),
    )


def _mast_pose(index: int) -> FloatArray:
    """The mast stands in the foreground: it crosses the view faster than the background does."""
    x = _along(_TARGET_X, 121) - 7.5 * (index - 121)
    return _pose(MAST_WIDTH, MAST_HEIGHT, x, HEIGHT / 2, 1.0, 4.0)


def _pose(width: int, height: int, x: float, y: float, scale: float, degrees: float) -> FloatArray:
    """Maps a sprite of that size so that its center is at (x, y), float32 ``(2, 3)``."""
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    cx, cy = width / 2, height / 2
    return np.array([[cos, -sin, x - cos * cx + sin * cy], [sin, cos, y - sin * cx - cos * cy]], np.float32)


def _placed(layer: FloatArray, pose: FloatArray) -> FloatArray:
    return np.asarray(cv2.warpAffine(layer, pose, (WIDTH, HEIGHT)), np.float32)


def _paint(canvas: FloatArray, sprite: _Sprite, pose: FloatArray) -> None:
    alpha = _placed(sprite.alpha, pose)[..., None]
    canvas *= 1.0 - alpha
    canvas += _placed(sprite.color, pose)


# --- pictures ----------------------------------------------------------------------------------------


def _noise(random: np.random.Generator, height: int, width: int, cells: int, octaves: int) -> FloatArray:
    """Cloud noise in 0..1, float32 ``(height, width)``; the coarsest octave has ``cells`` across."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = cells << octave
        down = max(2, round(across * height / width))
        grid = random.random((down, across), np.float32)
        total += np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)) / 2**octave
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / (high - low), np.float32)


def _ramp(values: FloatArray, colors: list[Color]) -> FloatArray:
    """Color a picture of 0..1 by a list of evenly spaced colors; float32 ``(h, w, 3)``."""
    positions = np.linspace(0, 1, len(colors))
    channels = [np.interp(values, positions, [color[c] for color in colors]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _reef(random: np.random.Generator) -> Image:
    """Water above, rocks and coral below; uint8."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    water = _ramp(
        np.clip(depth + 0.35 * (_noise(random, height, width, 5, 5) - 0.5), 0, 1),
        [(190, 170, 70), (150, 120, 40), (100, 75, 25)],
    )
    rock = _ramp(
        _noise(random, height, width, 12, 6),
        [(45, 50, 40), (85, 85, 75), (110, 120, 120), (120, 150, 165), (160, 185, 190)],
    )
    skyline = 0.52 + 0.30 * (_noise(random, height, width, 4, 5) - 0.5)
    solid = np.clip((depth - skyline) * 30, 0, 1)[..., None]
    scene = np.ascontiguousarray(water * (1 - solid) + rock * solid, np.float32)
    palette: list[Color] = [(120, 70, 190), (150, 90, 120), (70, 130, 170), (110, 150, 80), (90, 90, 150)]
    for _ in range(70):
        x, y = int(random.integers(0, width)), int(height * random.uniform(0.55, 1.0))
        _coral(scene, random, (x, y), palette[int(random.integers(len(palette)))])
    return np.asarray(np.clip(cv2.GaussianBlur(scene, (0, 0), 0.8), 0, 255), np.uint8)


def _coral(scene: FloatArray, random: np.random.Generator, center: tuple[int, int], color: Color) -> None:
    """A tuft of discs that get lighter upwards."""
    size = random.uniform(10, 26)
    for step in range(14):
        lift = step / 14
        x = round(center[0] + size * random.normal(0, 0.6))
        y = round(center[1] - size * (1.6 * lift + random.normal(0, 0.15)))
        shade = 0.65 + 0.55 * lift
        ink = tuple(min(255.0, channel * shade) for channel in color)
        cv2.circle(scene, (x, y), max(2, round(size * (0.42 - 0.25 * lift))), ink, -1, cv2.LINE_AA)


def _mast(random: np.random.Generator) -> _Sprite:
    """A wooden mast with growth on it, taller than the view."""
    across = np.linspace(-1, 1, MAST_WIDTH, dtype=np.float32)[None, :]
    grain = _noise(random, MAST_WIDTH, MAST_HEIGHT, 4, 5).T * 0.3 + 0.7 * np.repeat(
        _noise(random, 1, MAST_WIDTH, 20, 3), MAST_HEIGHT, axis=0
    )
    wood = _ramp(np.asarray(grain, np.float32), [(20, 32, 45), (45, 70, 95), (75, 110, 140)])
    growth = np.clip(8 * (_noise(random, MAST_HEIGHT, MAST_WIDTH, 3, 5) - 0.62), 0, 1)[..., None]
    moss = _ramp(_noise(random, MAST_HEIGHT, MAST_WIDTH, 12, 3), [(40, 80, 50), (70, 150, 110)])
    round_shade = (0.45 + 0.6 * np.sqrt(1 - 0.95 * (across + 0.25) ** 2 / 1.6))[..., None]
    color = (wood * (1 - growth) + moss * growth) * round_shade
    alpha = np.zeros((MAST_HEIGHT, MAST_WIDTH), np.float32)
    alpha[:, 3:-3] = 1.0
    alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.7), np.float32)
    return _Sprite(np.asarray(color * alpha[..., None], np.float32), alpha)


def _fish(random: np.random.Generator, body: Color, fin: Color, bands: tuple[float, ...]) -> _Sprite:
    """A fish that looks to the right, drawn large and scaled down.

    Args:
        bands: centers of its white bands along the body, -1 (tail) to 1 (mouth).
    """
    height, width = SPRITE_HEIGHT * SUPERSAMPLE, SPRITE_WIDTH * SUPERSAMPLE
    cx, cy, rx, ry = 0.54 * width, 0.5 * height, 0.36 * width, 0.30 * height
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (x - cx) / rx, (y - cy) / ry
    # Fuller towards the head, slender at the tail.
    outline = u**2 + (v / (0.80 + 0.22 * np.clip(u, -1, 1))) ** 2
    color, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)

    def polygon(points: list[tuple[float, float]], ink: Color) -> None:
        corners = np.array([(cx + a * rx, cy + b * ry) for a, b in points], np.int32)
        curve = _rounded(corners)
        cv2.fillPoly(color, [curve], ink)
        cv2.fillPoly(alpha, [curve], 1.0)

    polygon([(-0.80, -0.15), (-1.38, -0.95), (-1.20, 0.0), (-1.38, 0.95), (-0.80, 0.15)], fin)
    polygon([(-0.62, -0.55), (-0.30, -1.42), (0.30, -1.25), (0.55, -0.70)], fin)
    polygon([(-0.45, 0.60), (-0.30, 1.30), (0.10, 1.15), (0.25, 0.75)], fin)
    rays = 0.5 + 0.5 * np.sin(38 * np.arctan2(v, u + 0.2))
    color *= (0.72 + 0.38 * rays)[..., None]
    inside = outline <= 1
    # Lit from above, with a net of scales.
    scales = 0.5 + 0.5 * np.sin(30 * u + 6 * v) * np.sin(24 * v)
    light = 1.02 - 0.42 * v + 0.20 * (scales - 0.5) + 0.20 * (_noise(random, height, width, 6, 4) - 0.5)
    skin = np.empty_like(color)
    skin[:] = body
    for center in bands:
        bent = u - center - 0.10 * v**2
        skin[np.abs(bent) < 0.135] = (35, 30, 30)
        skin[np.abs(bent) < 0.10] = (240, 240, 240)
    color[inside] = (skin * light[..., None])[inside]
    alpha[inside] = 1.0
    eye = (round(cx + 0.68 * rx), round(cy - 0.20 * ry))
    for radius, ink in ((0.17, (235, 245, 245)), (0.11, (20, 15, 15))):
        cv2.circle(color, eye, round(radius * ry), ink, -1)
    highlight = (round(eye[0] + 0.03 * ry), round(eye[1] - 0.04 * ry))
    cv2.circle(color, highlight, round(0.035 * ry), (255, 255, 255), -1)
    mouth = (round(cx + 0.92 * rx), round(cy + 0.16 * ry))
    cv2.ellipse(color, mouth, (round(0.10 * rx), round(0.10 * ry)), 0, 60, 200, (20, 40, 90), 6)
    small = (SPRITE_WIDTH, SPRITE_HEIGHT)
    return _Sprite(
        np.asarray(cv2.resize(color * alpha[..., None], small, interpolation=cv2.INTER_AREA), np.float32),
        np.asarray(cv2.resize(alpha, small, interpolation=cv2.INTER_AREA), np.float32),
    )


def _rounded(corners: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Cut a polygon's corners three times (Chaikin), which makes it look grown."""
    points = corners.astype(np.float64)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        points = points.reshape(-1, 2)
    return np.asarray(points.round(), np.int32)
