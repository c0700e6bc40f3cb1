"""COCO's annotated objects as tracks of one frame: clips that stand still."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.published_tracks import NAMED, Notice
from sttrack_deploy.models.training.clips.real.track_bank import VISIBLE, FrameFiles, IndexedTracks
from sttrack_deploy.models.training.clips.real.track_index import TrackIndex, cached_index, fingerprint

__all__ = ["coco_tracks"]


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
    except (OSError, ValueError, KeyError, TypeError) as error:
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
