"""The published sets that a recipe names, split into what is trained on and what is held out.

COCO's annotated objects count as tracks of one frame: clips that stand still.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.published_tracks import (
    NAMED,
    Got10kSplit,
    Notice,
    got10k_tracks,
    lasot_tracks,
    trackingnet_tracks,
)
from sttrack_deploy.models.training.clips.real.track_bank import (
    VISIBLE,
    FrameFiles,
    IndexedTracks,
    TrackIndex,
    cached_index,
    fingerprint,
)
from sttrack_deploy.models.training.clips.synthetic.image_bank import Split
from sttrack_deploy.models.training.recipe import DataRecipe

__all__ = ["TrainingSets", "coco_tracks"]


def coco_tracks(
    root: Path,
    *,
    min_side: float = 10,
    year: str = "train2017",
    cache: Path | None = None,
    partial: bool = False,
    notice: Notice = print,
) -> IndexedTracks:
    """The objects of COCO's training images: no crowds, and no boxes with a side below ``min_side`` pixels.

    Args:
        root: holds ``annotations/instances_<year>.json`` and ``images/<year>/``, or ``<year>/``.
        cache: the index's file.
        partial: leave out images that are missing, which ``notice`` then says.

    Raises:
        UserError: something is missing or malformed.
    """
    annotations = root / "annotations" / f"instances_{year}.json"
    images = next((p for p in (root / "images" / year, root / year) if p.is_dir()), None)
    if not annotations.is_file():
        raise UserError(f"COCO at {root} lacks {annotations.relative_to(root)}")
    if images is None:
        raise UserError(f"COCO at {root} lacks images/{year}/ (or {year}/)")
    folder = images
    key = f"COCO {annotations} {folder} {fingerprint([annotations])}"
    index = cached_index(cache, key, lambda: _build(annotations, folder))
    if index.lacking:
        named = ", ".join(list(index.lacking)[:NAMED]) + (", …" if len(index.lacking) > NAMED else "")
        text = f"COCO at {root} lacks {len(index.lacking)} images of {folder.relative_to(root)}/: {named}"
        if not partial:
            raise UserError(
                f"{text}; extract them, or do without them with partial = true in the recipe's [data]"
            )
        notice(f"{text}; they are left out")
    chosen = np.flatnonzero((index.boxes[:, 2:] >= min_side).all(1))
    if not len(chosen):
        raise UserError(f"COCO at {root} has no object with a box of {min_side} pixels or more")
    return IndexedTracks("COCO", index, FrameFiles(folder), chosen)


def _build(annotations: Path, images: Path) -> TrackIndex:
    try:
        with annotations.open(encoding="utf-8") as file:
            data = json.load(file, object_hook=_slim)
        names = {image["id"]: str(image["file_name"]) for image in data["images"]}
        objects = [o for o in data["annotations"] if not o.get("iscrowd") and min(o["bbox"][2:]) > 0]
        labels = [names[o["image_id"]] for o in objects]
        boxes = np.array([o["bbox"] for o in objects], np.float32).reshape(-1, 4)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{annotations} is not a file of COCO's annotations: {error!r}") from error
    there = {entry.name for entry in images.iterdir()}
    missing = sorted(set(labels) - there)
    kept = [i for i, label in enumerate(labels) if label in there]
    stored = np.array([labels[i].encode() for i in kept], np.bytes_)
    return TrackIndex(
        stored,
        stored,
        np.arange(len(kept) + 1),
        boxes[kept],
        np.full(len(kept), VISIBLE, np.uint8),
        {name: (f"no {name}", str(images / name)) for name in missing},
    )


def _slim(item: dict[str, Any]) -> dict[str, Any]:
    # The outlines are most of the file, and would take gigabytes.
    item.pop("segmentation", None)
    return item


HELD_OUT_OF = 50  # one sequence, or image, in so many, where no list is published

VALIDATION_OF: dict[Got10kSplit, Got10kSplit] = {"vottrain": "votval", "train": "val"}


@dataclass(frozen=True, slots=True)
class TrainingSets:
    """Published sets by name, opened when asked for.

    Attributes:
        recipe: says which parts of them are used, and what is held out.
        cache: folder of the indexes; ``None``: they are made anew each time.
        notice: told of what is left out.
    """

    recipe: DataRecipe
    cache: Path | None = None
    notice: Notice = print
    opened: dict[tuple[str, Split], IndexedTracks] = field(default_factory=dict)

    def open(self, name: str, root: Path, split: Split) -> IndexedTracks:
        """One split of a set.

        GOT-10k has published lists for validation. From the others, and from its other splits, one in fifty
        sequences or images (by a hash of their names) is held out if the recipe holds the set out.

        Args:
            name: one of ``PUBLISHED_SETS``.
            root: its folder.

        Raises:
            UserError: something is missing or malformed.
        """
        if (name, split) not in self.opened:
            self.opened[name, split] = self._open(name, root, split)
        return self.opened[name, split]

    def _open(self, name: str, root: Path, split: Split) -> IndexedTracks:
        sets = self.recipe.sets
        file = None if self.cache is None else self.cache / f"{name}-{_mark(root)}.tracks"
        published = VALIDATION_OF.get(sets.got10k_split) if name == "got10k" else None
        if name == "got10k":
            chosen = published if published and split == "val" else sets.got10k_split
            tracks = self._call(got10k_tracks, root, chosen, cache=file)
        elif name == "lasot":
            tracks = self._call(lasot_tracks, root, cache=file)
        elif name == "trackingnet":
            tracks = self._call(trackingnet_tracks, root, sets.trackingnet_parts, cache=file)
        else:
            tracks = self._call(coco_tracks, root, min_side=sets.coco_min_side, cache=file)
        if published or (split == "train" and not self.recipe.validation().get(name)):
            return tracks
        labels = [tracks.label(i) for i in range(len(tracks))]
        shuffled = sorted(set(labels), key=lambda label: (zlib.crc32(label.encode()), label))
        held_out = set(shuffled[: max(1, len(shuffled) // HELD_OUT_OF)])
        return tracks.those([i for i, label in enumerate(labels) if (label in held_out) == (split == "val")])

    def _call(self, reader: Callable[..., IndexedTracks], *args: object, **options: object) -> IndexedTracks:
        return reader(*args, **options, partial=self.recipe.partial, notice=self.notice)


def _mark(root: Path) -> str:
    """Tells folders apart in the names of cache files."""
    return f"{zlib.crc32(str(root.resolve()).encode()):08x}"
