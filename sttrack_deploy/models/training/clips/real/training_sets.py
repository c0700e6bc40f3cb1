"""The published sets that a recipe names, split into what is trained on and what is held out."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sttrack_deploy.models.training.clips.real.coco import coco_tracks
from sttrack_deploy.models.training.clips.real.published_splits import Got10kSplit
from sttrack_deploy.models.training.clips.real.published_tracks import (
    Notice,
    got10k_tracks,
    lasot_tracks,
    trackingnet_tracks,
)
from sttrack_deploy.models.training.clips.real.track_bank import IndexedTracks
from sttrack_deploy.models.training.clips.recipe import DataRecipe
from sttrack_deploy.models.training.clips.synthetic.image_bank import Split

__all__ = ["PUBLISHED_SETS", "TrainingSets"]

PUBLISHED_SETS = ("lasot", "got10k", "trackingnet", "coco")

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
