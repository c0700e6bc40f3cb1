"""Objects cut out of photographs: small RGBA textures with the outline of what they show.

A sprite's own coordinates are ``-1 .. 1`` over its texture, x to the right and y down. A margin round the
object lets its soft edge end inside the texture. Where no mask is published, GrabCut segments inside a box, and
the result is kept only where it looks like an object.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "KIND_BOX",
    "KIND_CUT",
    "KIND_MASK",
    "KIND_REGION",
    "Sprite",
    "cut_box",
    "cut_masks",
    "random_regions",
    "segment_box",
    "segment_middle",
]


UInt8Array = npt.NDArray[np.uint8]

WORKING_SIZE = 96  # side that a box and its surroundings are shrunk to: 14 ms each, and sprites are 64 px
CONTEXT = 0.3  # of the box's sides, on every side


def segment_box(image: UInt8Array, box: tuple[float, float, float, float]) -> UInt8Array | None:
    """The object in a box.

    Args:
        image: RGB uint8 ``(height, width, 3)``.
        box: x, y, w, h of an object, pixels.

    Returns:
        uint8 ``(height, width)``, 255 on the object, or None where it could not be told from its surroundings
        (about six boxes of ten).
    """
    return _segment(image, box, fill=(0.3, 0.88), least_side=0.75)


def segment_middle(image: UInt8Array) -> UInt8Array | None:
    """The object in the middle of a photograph that shows one; see :func:`segment_box`."""
    height, width = image.shape[:2]
    box = (0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height)
    return _segment(image, box, fill=(0.12, 0.7), least_side=0.35)


def _segment(
    image: UInt8Array, box: tuple[float, float, float, float], fill: tuple[float, float], least_side: float
) -> UInt8Array | None:
    """``fill``: least and greatest share of the box; ``least_side``: of the box's sides."""
    height, width = image.shape[:2]
    x, y, w, h = box
    left, top = max(0, int(x - CONTEXT * w)), max(0, int(y - CONTEXT * h))
    right, bottom = min(width, int(x + w + CONTEXT * w) + 1), min(height, int(y + h + CONTEXT * h) + 1)
    scale = min(1.0, WORKING_SIZE / max(right - left, bottom - top))
    if min(w, h) < 20 or max(w, h) > 6 * min(w, h):
        return None
    patch = cv2.resize(image[top:bottom, left:right], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x1, y1 = max(0, round((x - left) * scale)), max(0, round((y - top) * scale))
    x2, y2 = round((x + w - left) * scale), round((y + h - top) * scale)
    labels = np.full(patch.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y1:y2, x1:x2] = cv2.GC_PR_FGD
    if (labels == cv2.GC_BGD).mean() < 0.15:
        return None  # no surroundings to learn from
    cv2.setRNGSeed(0)  # GrabCut's clustering starts at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(patch, labels, (0, 0, 1, 1), *models, 3, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None  # a flat patch
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    found = np.asarray(cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=4)
    if count < 2:
        return None
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    share = int(stats[best, cv2.CC_STAT_AREA]) / max(1, (x2 - x1) * (y2 - y1))
    wide = int(stats[best, cv2.CC_STAT_WIDTH]) > least_side * (x2 - x1)
    tall = int(stats[best, cv2.CC_STAT_HEIGHT]) > least_side * (y2 - y1)
    if not (fill[0] < share < fill[1] and wide and tall):
        return None
    part = (parts == best).astype(np.uint8)
    outline, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(part, outline, -1, (255,), -1)  # with its holes filled
    mask = np.zeros((height, width), np.uint8)
    size = (right - left, bottom - top)
    mask[top:bottom, left:right] = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR) > 127
    return np.asarray(mask * 255, np.uint8)


FloatArray = npt.NDArray[np.float32]
BoxArray = tuple[float, float, float, float]

TEXTURE = 64  # side of a sprite's texture: a target is about 48 px wide in a crop, so this is no bottleneck
OUTLINE = 64  # points kept of the outline
INTERIOR = 48  # points kept of the inside
MARGIN = 0.12  # of the box's side, on every side
KIND_MASK, KIND_BOX, KIND_REGION, KIND_CUT = (
    0,
    1,
    2,
    3,
)  # where the outline comes from (cut: found by GrabCut)


@dataclass(frozen=True, slots=True)
class Sprite:
    """One cut-out.

    Attributes:
        texture: uint8 ``(4, TEXTURE, TEXTURE)`` RGBA; colors go on outside the alpha (the photograph itself).
        outline: float32 ``(OUTLINE, 2)``, points of the edge (alpha 0.5), own coordinates.
        interior: float32 ``(INTERIOR, 2)``, points spread over the inside, own coordinates.
        frame: float32 ``(4,)`` center x, center y, half width, half height of the *texture* in the photograph,
            pixels; the map from own coordinates to the photograph.
        kind: ``KIND_MASK``, ``KIND_BOX``, ``KIND_REGION`` or ``KIND_CUT``.
    """

    texture: UInt8Array
    outline: FloatArray
    interior: FloatArray
    frame: FloatArray
    kind: int


def cut_masks(
    image: UInt8Array, mask: UInt8Array, rng: np.random.Generator, limit: int = 4, kind: int = KIND_MASK
) -> list[Sprite]:
    """The largest connected parts of ``mask`` (255 = object) as sprites.

    Parts that are tiny, thread-like, or run along the photograph's edge (cut off there, so that their outline
    is not the object's) are left out.
    """
    height, width = mask.shape
    binary = (mask > 127).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4)
    sprites: list[Sprite] = []
    for label in 1 + np.argsort(-stats[1:count, cv2.CC_STAT_AREA])[:limit]:
        x, y, w, h, area = (int(v) for v in stats[label])
        part = (labels == label).astype(np.uint8)
        rim = int(part[0].sum() + part[-1].sum() + part[:, 0].sum() + part[:, -1].sum())
        small = min(w, h) < 10 or area < 150 or area < 0.25 * w * h
        if small or w * h > 0.7 * width * height or rim > 0.2 * (w + h):
            continue
        sprite = _make(image, (x, y, w, h), part * 255, kind, rng)
        if sprite is not None:
            sprites.append(sprite)
    return sprites


def cut_box(image: UInt8Array, box: BoxArray, kind: int, rng: np.random.Generator) -> Sprite | None:
    """A sprite from a box alone: its outline is a random smooth shape that touches all four sides."""
    height, width = image.shape[:2]
    x, y, w, h = box
    x1, y1 = max(0.0, x), max(0.0, y)
    w, h = min(x + w, width) - x1, min(y + h, height) - y1
    if min(w, h) < 8 or max(w, h) > 6 * min(w, h) or w * h > 0.7 * width * height:
        return None
    return _make(image, (x1, y1, w, h), None, kind, rng)


def random_regions(image: UInt8Array, count: int, rng: np.random.Generator) -> list[Sprite]:
    """Regions of a photograph that have enough texture to be told from their surroundings."""
    height, width = image.shape[:2]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # The lesser eigenvalue of the gradients: a single edge, along which the place is anyone's guess, scores low.
    corners = np.sqrt(np.maximum(cv2.cornerMinEigenVal(cv2.GaussianBlur(gray, (0, 0), 1.0), 5), 0))
    candidates: list[tuple[float, BoxArray]] = []
    for _ in range(4 * count):
        size = float(np.exp(rng.uniform(np.log(0.08), np.log(0.32)))) * (width * height) ** 0.5
        aspect = float(np.exp(rng.normal(0, 0.35)))
        w, h = max(12.0, size * aspect**0.5), max(12.0, size / aspect**0.5)
        if w > 0.7 * width or h > 0.7 * height:
            continue
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        inside = slice(int(y), int(y + h)), slice(int(x), int(x + w))
        if gray[inside].std() > 14:
            candidates.append((float(corners[inside].mean()), (x, y, w, h)))
    candidates.sort(key=lambda c: -c[0])
    chosen = [cut_box(image, box, KIND_REGION, rng) for _, box in candidates[:count]]
    return [sprite for sprite in chosen if sprite is not None]


def _make(
    image: UInt8Array, box: BoxArray, mask: UInt8Array | None, kind: int, rng: np.random.Generator
) -> Sprite | None:
    """Resample image and mask to the texture, find outline and inside."""
    x, y, w, h = box
    frame = np.array(
        [x + w / 2, y + h / 2, w * (0.5 + MARGIN), h * (0.5 + MARGIN)],
        np.float32,
    )
    left, top = float(frame[0] - frame[2]), float(frame[1] - frame[3])
    step_x, step_y = float(2 * frame[2] / TEXTURE), float(2 * frame[3] / TEXTURE)
    # Texture pixel center (i + .5) * step + left in continuous image coordinates; OpenCV's integers are centers.
    warp = np.array([[step_x, 0, left + step_x / 2 - 0.5], [0, step_y, top + step_y / 2 - 0.5]], np.float64)
    shrink = max(step_x, step_y)
    source = cv2.GaussianBlur(image, (0, 0), 0.4 * shrink) if shrink > 1.5 else image
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    rgb = cv2.warpAffine(source, warp, (TEXTURE, TEXTURE), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    if mask is None:
        alpha = _random_shape(rng)
    else:
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.5, 0.4 * shrink))
        spread = cv2.warpAffine(soft, warp, (TEXTURE, TEXTURE), flags=flags, borderMode=cv2.BORDER_CONSTANT)
        alpha = np.asarray(
            1.5 / 255 * spread - 0.4, np.float32
        )  # a little less than the mask: its rim holds the old background
    alpha = _fade_border(np.clip(alpha, 0, 1).astype(np.float32))
    points = _points(alpha, rng)
    if points is None:
        return None
    texture = np.concatenate([rgb.transpose(2, 0, 1), np.rint(alpha * 255).astype(np.uint8)[None]])
    return Sprite(np.ascontiguousarray(texture, np.uint8), points[0], points[1], frame, kind)


def _random_shape(rng: np.random.Generator) -> FloatArray:
    """A soft-edged superellipse or blob that just touches the box inside the margin; float32, 0 to 1."""
    axis = ((np.arange(TEXTURE) + 0.5) / TEXTURE * 2 - 1) * (1 + 2 * MARGIN)  # -1 .. 1 over the box
    u, v = np.meshgrid(axis, axis)
    if rng.random() < 0.35:
        angle = np.arctan2(v, u)
        radius = np.ones_like(angle)
        for order in range(2, 6):
            radius += rng.normal(0, 0.22 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
        # Stretch the blob so that it touches all four sides of its box.
        turn = np.linspace(0, 2 * np.pi, 256, endpoint=False)
        edge = np.interp(turn, *_sorted_by_angle(angle, radius))
        ex, ey = edge * np.cos(turn), edge * np.sin(turn)
        cx, sx = (ex.max() + ex.min()) / 2, (ex.max() - ex.min()) / 2
        cy, sy = (ey.max() + ey.min()) / 2, (ey.max() - ey.min()) / 2
        px, py = u * sx + cx, v * sy + cy
        reach = np.interp(np.mod(np.arctan2(py, px), 2 * np.pi), turn, edge, period=2 * np.pi)
        distance = np.hypot(px, py) / np.maximum(reach, 0.2)
    else:
        power = float(rng.choice([2.0, 2.5, 4.0, 8.0]))
        distance = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
    softness = rng.uniform(0.03, 0.1)
    return np.asarray(np.clip(0.5 + (1 - distance) / (2 * softness), 0, 1), np.float32)


def _sorted_by_angle(
    angle: npt.NDArray[np.float64], radius: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    flat = np.mod(angle.ravel(), 2 * np.pi)
    order = np.argsort(flat)
    return flat[order], radius.ravel()[order]


def _fade_border(alpha: FloatArray) -> FloatArray:
    """Alpha that reaches 0 on the texture's outermost pixels, so that sampling beyond it finds nothing."""
    alpha[[0, -1], :] = 0
    alpha[:, [0, -1]] = 0
    return alpha


def _points(alpha: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray] | None:
    """Outline and inside of ``alpha > 0.5`` in own coordinates; None where there is too little of it."""
    zoom = 4
    fine = cv2.resize(alpha, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    solid = (fine > 0.5).astype(np.uint8)
    rows, columns = np.nonzero(solid)
    if len(rows) < 40 * zoom * zoom:
        return None
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edge = np.concatenate([c[:, 0] for c in contours]).astype(np.float32)
    middle = edge.mean(0)
    # Contour points are pixel centers: push them to the pixels' outer corners.
    outward = np.sign(edge - middle)
    own = (edge + 0.5 + 0.5 * outward) / (TEXTURE * zoom) * 2 - 1
    # Half of the points are the extremes in 32 directions (they make the tight box after any affine map), the
    # others run along the edge (for bent sprites, whose extremes move).
    turn = np.linspace(0, 2 * np.pi, OUTLINE // 2, endpoint=False)
    directions = np.stack([np.cos(turn), np.sin(turn)])
    extremes = own[np.argmax(own @ directions, axis=0)]
    along = own[np.linspace(0, len(own) - 1, OUTLINE - OUTLINE // 2).astype(np.int64)]
    pick = rng.choice(len(rows), INTERIOR)
    inside = (np.stack([columns[pick], rows[pick]], 1) + 0.5) / (TEXTURE * zoom) * 2 - 1
    return np.concatenate([extremes, along]).astype(np.float32), inside.astype(np.float32)
