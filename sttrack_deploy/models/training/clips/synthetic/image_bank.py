"""Photographs as one uint8 tensor, with the objects cut out of them, and which of both a clip takes.

The folder holds ``index.csv`` with the columns ``path,set,width,height,boxes,mask``: boxes are
``x y w h;x y w h`` in pixels, mask names an 8-bit PNG (255 = object) or is empty.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.training.clips.batch import Draws
from sttrack_deploy.models.training.clips.synthetic.sprites import (
    KIND_BOX,
    KIND_CUT,
    KIND_MASK,
    KIND_REGION,
    BoxArray,
    Sprite,
    cut_box,
    cut_masks,
    random_regions,
    segment_box,
    segment_middle,
)
from sttrack_deploy.records import parse_number, read_text

__all__ = [
    "ImageBank",
    "Split",
    "SpriteSampler",
    "load_image_bank",
    "parse_boxes",
    "read_image",
    "read_index",
]


Split = Literal["train", "val"]
UInt8Array = npt.NDArray[np.uint8]

COLUMNS = ("path", "set", "width", "height", "boxes", "mask")
VALIDATION_PERCENT = 5
CACHE_VERSION = 5


@dataclass(frozen=True, slots=True)
class ImageBank:
    """``N`` photographs and ``M`` cut-outs, all tensors on one device.

    Attributes:
        images: uint8 ``(N, 3, S, S)`` RGB. Each photograph lies in the top left corner at its own size; the rest
            of the square is its mirror image, so that a camera that looks past its edge sees something.
        sizes: float32 ``(N, 2)`` width, height of the photographs in pixels.
        image_set: int64 ``(N,)``, index into ``set_names``.
        boxes: float32 ``(K, 5)`` index of the image, x, y, w, h in pixels: the published boxes.
        texture: uint8 ``(M, 4, 64, 64)`` RGBA; see :class:`.sprites.Sprite`.
        outline: float32 ``(M, 64, 2)``.
        interior: float32 ``(M, 48, 2)``.
        frame: float32 ``(M, 4)`` center x, center y, half width, half height of the texture in its photograph.
        kind: int64 ``(M,)``, ``KIND_MASK``, ``KIND_BOX``, ``KIND_REGION`` or ``KIND_CUT``.
        owner: int64 ``(M,)``, the photograph a sprite comes from.
    """

    images: Tensor
    sizes: Tensor
    image_set: Tensor
    boxes: Tensor
    texture: Tensor
    outline: Tensor
    interior: Tensor
    frame: Tensor
    kind: Tensor
    owner: Tensor
    set_names: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        return self.images.device


def load_image_bank(
    folder: Path,
    split: Split = "train",
    *,
    side: int = 288,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
    limit: int | None = None,
) -> ImageBank:
    """Read a folder of photographs.

    Args:
        folder: holds ``index.csv``.
        split: 5 % of the photographs, chosen by a hash of their path, are ``'val'``, the others ``'train'``.
        side: photographs larger than this are shrunk to it.
        device: where the tensors go.
        cache: ``.npz`` to read the decoded bank from, or to write it to when it is absent or another folder's.
        limit: read only that many photographs, spread over the index (for tests and trials).

    Raises:
        UserError: the folder, the index, a column or a file is missing, or nothing is left to read.
    """
    rows = read_index(folder, split, limit)
    key = f"{CACHE_VERSION} {side} {zlib.crc32(repr([tuple(r.values()) for r in rows]).encode())}"
    arrays = _read_cache(cache, key)
    if arrays is None:
        arrays = _decode(folder, rows, side)
        if cache is not None:
            _write_cache(cache, key, arrays)
    names = tuple(sorted({r["set"] for r in rows}))
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    return ImageBank(set_names=names, **tensors)


def read_index(folder: Path, split: Split = "train", limit: int | None = None) -> list[dict[str, str]]:
    """The lines of ``index.csv`` for a split; arguments and errors as of :func:`load_image_bank`."""
    rows = [
        r
        for r in _read_index(folder)
        if (zlib.crc32(r["path"].encode()) % 100 < VALIDATION_PERCENT) == (split == "val")
    ]
    if limit is not None and limit < len(rows):
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
    if not rows:
        raise UserError(f"{folder / 'index.csv'} has no photograph for the split '{split}'")
    return rows


def _read_index(folder: Path) -> list[dict[str, str]]:
    index = folder / "index.csv"
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} does not exist")
    if not index.is_file():
        raise UserError(f"{folder} has no index.csv (columns {','.join(COLUMNS)})")
    reader = csv.DictReader(io.StringIO(read_text(index, "the index of photographs"), newline=""))
    rows: list[dict[str, str]] = []
    try:
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{index} lacks the column '{missing[0]}'; it needs {','.join(COLUMNS)}")
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{index}, line {reader.line_num} has not the columns {','.join(reader.fieldnames or ())}"
                )
            rows.append(dict(row))
    except csv.Error as error:
        raise UserError(f"{index}, after line {reader.line_num}: {error}") from error
    return rows


def _decode(folder: Path, rows: list[dict[str, str]], side: int) -> dict[str, npt.NDArray[np.generic]]:
    """All arrays of the bank; deterministic for the rows."""
    names = sorted({r["set"] for r in rows})
    images = np.empty((len(rows), 3, side, side), np.uint8)
    sizes = np.empty((len(rows), 2), np.float32)
    sprites: list[Sprite] = []
    owner: list[int] = []
    boxes: list[tuple[float, ...]] = []
    # OpenCV works outside the interpreter's lock; the order of the results is that of the rows.
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda row: _read_row(folder, row, side), rows)
        for i, (image, annotated, cut) in enumerate(found):
            height, width = image.shape[:2]
            # BORDER_REFLECT repeats the edge pixel, as grid_sample's reflection at pixel borders does.
            full = cv2.copyMakeBorder(image, 0, side - height, 0, side - width, cv2.BORDER_REFLECT)
            images[i], sizes[i] = full.transpose(2, 0, 1), (width, height)
            boxes += [(float(i), *box) for box in annotated]
            sprites += cut
            owner += [i] * len(cut)
    if not sprites:
        raise UserError(
            f"none of the {len(rows)} photographs of {folder} holds an object or a textured region"
        )
    return {
        "images": images,
        "sizes": sizes,
        "image_set": np.array([names.index(r["set"]) for r in rows], np.int64),
        "boxes": np.array(boxes, np.float32).reshape(-1, 5),
        "texture": np.stack([s.texture for s in sprites]),
        "outline": np.stack([s.outline for s in sprites]),
        "interior": np.stack([s.interior for s in sprites]),
        "frame": np.stack([s.frame for s in sprites]),
        "kind": np.array([s.kind for s in sprites], np.int64),
        "owner": np.array(owner, np.int64),
    }


def _read_row(
    folder: Path, row: dict[str, str], side: int
) -> tuple[UInt8Array, list[BoxArray], list[Sprite]]:
    """One photograph, its published boxes, and its sprites; the same whatever else is read."""
    image, scale = _read_image(folder / row["path"], side)
    height, width = image.shape[:2]
    # What lies outside the picture is no object of it.
    boxes = [
        (x, y, w, h)
        for x, y, w, h in parse_boxes(folder, row, scale)
        if x < width and y < height and x + w > 0 and y + h > 0
    ]
    return (
        image,
        boxes,
        _cut(folder, row, image, boxes, np.random.default_rng(zlib.crc32(row["path"].encode()))),
    )


def _cut(
    folder: Path, row: dict[str, str], image: UInt8Array, boxes: list[BoxArray], rng: np.random.Generator
) -> list[Sprite]:
    """From the mask, else from the boxes, else what stands in the middle; and a few regions."""
    sprites: list[Sprite] = []
    masks: list[UInt8Array | None] = []
    if row["mask"]:
        path = folder / row["mask"]
        mask = _decoded(path, cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise UserError(f"the mask {path}, named in index.csv, cannot be read")
        height, width = image.shape[:2]
        resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        sprites += cut_masks(image, np.asarray(resized, np.uint8), rng)
    elif boxes:
        sprites += [s for s in (cut_box(image, box, KIND_BOX, rng) for box in boxes[:8]) if s is not None]
        masks = [segment_box(image, box) for box in boxes[:3]]
    else:
        masks = [segment_middle(image)]
    for found in masks:
        if found is not None:
            sprites += cut_masks(image, found, rng, limit=1, kind=KIND_CUT)
    return sprites + random_regions(image, 1 if boxes else 2, rng)


def _read_image(path: Path, side: int) -> tuple[UInt8Array, float]:
    """RGB image no larger than ``side`` and the factor it was shrunk by."""
    image = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.uint8), scale


def read_image(path: Path) -> UInt8Array:
    """A photograph of the index, BGR.

    Raises:
        UserError: it is missing or damaged.
    """
    image = _decoded(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"the image {path}, named in index.csv, cannot be read")
    return image


def _decoded(path: Path, how: int) -> UInt8Array | None:
    """An image; ``None`` where it is missing, damaged, or larger than OpenCV takes."""
    try:
        image = cv2.imread(str(path), how)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)


def parse_boxes(folder: Path, row: dict[str, str], scale: float) -> list[BoxArray]:
    """The boxes x, y, w, h of a line, times ``scale``.

    Raises:
        UserError: one is not four numbers.
    """
    boxes: list[BoxArray] = []
    for text in filter(None, (part.strip() for part in row["boxes"].split(";"))):
        try:
            x, y, w, h = (parse_number(v) * scale for v in text.split())
            if not all(map(math.isfinite, (x, y, w, h))):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{folder / 'index.csv'}: the box '{text}' of {row['path']} is not four numbers 'x y w h'"
            ) from None
        boxes.append((x, y, w, h))
    return boxes


def _read_cache(cache: Path | None, key: str) -> dict[str, npt.NDArray[np.generic]] | None:
    if cache is None or not cache.is_file():
        return None
    try:
        with np.load(cache) as stored:
            if "key" not in stored or str(stored["key"]) != key:
                return None
            return {name: stored[name] for name in stored.files if name != "key"}
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        TypeError,
        AttributeError,
    ):
        return None  # whatever is wrong with it, decoding again fixes it


def _write_cache(cache: Path, key: str, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    # Several processes may write it at once, and a reader must never meet half a file.
    # To an open file: given a name, NumPy appends .npz to it where it has another ending.
    with atomic_path(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), **arrays)  # type: ignore[arg-type]


class SpriteSampler:
    """Chooses photographs and sprites: tables made once for a bank."""

    def __init__(self, bank: ImageBank) -> None:
        photo = bank.sizes[bank.owner]
        low, high = bank.outline.amin(1), bank.outline.amax(1)
        box = (high - low) * bank.frame[:, 2:]  # size of the object in its photograph
        relative = (box.prod(-1) / photo.prod(-1)).sqrt()
        # In place a target keeps its size relative to the photograph: a large one would fill the source frame.
        fits = ((relative > 0.07) & (relative < 0.2)).float() + 0.12 * ((relative >= 0.2) & (relative < 0.4))
        self.bank = bank
        self.in_place = _weights(bank.kind, fits, {KIND_MASK: 0.15, KIND_BOX: 0.5, KIND_REGION: 0.35})
        # Small ones are blurred when pasted: fewer of them.
        sharp = (box.prod(-1).sqrt() / 40).clamp(0.15, 1)
        self.pasted = _weights(
            bank.kind, sharp, {KIND_MASK: 0.2, KIND_CUT: 0.48, KIND_BOX: 0.14, KIND_REGION: 0.18}
        )
        # Sprites sorted by kind and set of photographs: a look-alike comes from the same run.
        group = bank.kind * len(bank.set_names) + bank.image_set[bank.owner]
        self.order = torch.argsort(group, stable=True)
        counts = torch.bincount(group)
        self.first = (counts.cumsum(0) - counts)[group]
        self.count = counts[group]

    def draw(self, draws: Draws, weights: Tensor, count: int) -> Tensor:
        """int64 ``(count,)`` sprites by one of the tables of cumulated chances."""
        position = torch.rand(count, generator=draws.generator, dtype=torch.float64)
        return torch.searchsorted(weights, position).clamp(max=len(weights) - 1).to(self.bank.device)

    def similar(self, draws: Draws, sprite: Tensor) -> Tensor:
        """For each sprite another of the same kind and set (sometimes itself); int64 ``(n,)``."""
        step = (draws.uniform(0, 1, len(sprite)) * self.count[sprite]).long()
        return self.order[self.first[sprite] + torch.minimum(step, self.count[sprite] - 1)]


def _weights(kind: Tensor, fits: Tensor, shares: dict[int, float]) -> Tensor:
    """Cumulated chances on the CPU: ``shares`` over the kinds that are there, ``fits`` within a kind."""
    weights = torch.zeros(len(kind), dtype=torch.float64)
    for value, share in shares.items():
        member = (fits * (kind == value)).cpu().double()
        weights += share * member / member.sum().clamp(min=1e-9)
    if weights.sum() == 0:
        weights += 1
    return (weights / weights.sum()).cumsum(0)
