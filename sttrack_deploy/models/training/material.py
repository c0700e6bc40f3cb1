"""What ``sttrack-train`` learns from: the folders it was given, as clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.files import cache_home, expanded
from sttrack_deploy.sequences.datasets.locations import PARENT_VARIABLE, locate

if TYPE_CHECKING:
    from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipSource
    from sttrack_deploy.models.training.clips.synthetic.image_bank import Split
    from sttrack_deploy.models.training.recipe import Recipe

__all__ = ["LAYOUTS", "load_material"]

CACHE_VARIABLE = "STTRACK_CACHE"
"""Environment variable with the folder of the data sets' indexes."""

READERS = {"lasot": "lasot", "got10k": "got10k_val", "trackingnet": "trackingnet_train"}
"""The data set of ``sttrack-eval`` that lies in the same folder."""

LAYOUTS = {
    "lasot": "<class>/<class>-<N>/",
    "got10k": "train/list.txt and train/GOT-10k_Train_<N>/",
    "trackingnet": "TRAIN_0/ to TRAIN_11/",
    "coco": "annotations/instances_train2017.json and images/train2017/",
}
"""What the folder of each published set holds, by its name."""


def load_material(
    recipe: Recipe,
    images: Path | None,
    videos: tuple[Path, ...],
    out: Path,
    device: str,
    limit: int | None,
    validation_clips: int,
    data: Mapping[str, Path] | None = None,
    notice: Callable[[str], None] = print,
) -> tuple[ClipSource, ClipBatch]:
    """The mixture to train on and fixed held-out clips; the same in every process that asks.

    Args:
        images: photographs with ``index.csv``. Without them, or without ``videos``, the recipe's share for
            these goes to the other sources.
        out: the run's folder; the decoded photographs are kept there.
        limit: photographs to use at most.
        data: where published sets lie, by name; others are looked for as ``sttrack-eval`` does.
        notice: told of sequences and images that are left out.

    Raises:
        UserError: a folder is missing or holds nothing to learn from.
        UsageError: there is nothing that the recipe has a share for, or ``data`` names an unknown set.
    """
    import torch

    from sttrack_deploy.models.training.clips.batch import ClipGeometry, MixedSource
    from sttrack_deploy.models.training.clips.real.track_source import TrackSource
    from sttrack_deploy.models.training.clips.real.training_sets import TrainingSets
    from sttrack_deploy.models.training.clips.real.video_clips import MemoryTracks, load_tracks
    from sttrack_deploy.models.training.clips.synthetic.image_bank import load_image_bank
    from sttrack_deploy.models.training.clips.synthetic.source import SyntheticSource

    data = data or {}
    if unknown := sorted(set(data) - set(LAYOUTS)):
        raise UsageError(f"--data knows {', '.join(LAYOUTS)}, not {unknown[0]!r}")
    m = recipe.model
    geometry = ClipGeometry(m.template_size, m.template_factor, m.search_size, m.search_factor, m.stride)
    sets = TrainingSets(recipe.data, _cache_folder(), notice)

    def source(name: str, split: Split) -> ClipSource | None:
        if name == "images":
            if images is None:
                return None
            bank = load_image_bank(images, split, device=device, cache=out / f"bank-{split}.npz", limit=limit)
            return SyntheticSource(bank, geometry)
        if name == "videos":
            if not videos:
                return None
            return TrackSource(MemoryTracks(load_tracks(videos, split)), geometry, recipe.data, notice=notice)
        tracks = sets.open(name, _place(name, data.get(name)), split)
        return TrackSource(tracks, geometry, recipe.data, notice=notice)

    def mixture(shares: Mapping[str, float], split: Split) -> MixedSource:
        made = {name: source(name, split) for name, share in shares.items() if share > 0}
        kept = {name: one for name, one in made.items() if one is not None}
        if not kept:
            raise UsageError(
                "nothing to train on: give --images DIR, --videos DIR or both, or give other sources a share "
                "in [data.mixture]"
                if split == "train"
                else f"nothing to validate with: give --images DIR or --videos DIR, as {list(shares)} in "
                "[data.held_out] or [data.mixture] asks, or hold out something else"
            )
        return MixedSource(list(kept.values()), [shares[name] for name in kept])

    out.mkdir(parents=True, exist_ok=True)
    training = mixture(recipe.data.mixture, "train")
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    held_out = mixture(recipe.data.validation(), "val").sample(
        validation_clips, recipe.data.frames, generator
    )
    return training, held_out.to("cpu")


def _place(name: str, given: Path | None) -> Path:
    """The folder of a published set: given, or where ``sttrack-eval`` would look for it.

    Raises:
        UserError: nothing says where it is, or what does is not a folder.
    """
    variable = f"STTRACK_{name.upper()}"
    named = given or (expanded(os.environ[variable]) if os.environ.get(variable) else None)
    if named is not None:
        if not named.is_dir():
            raise UserError(f"{name}: {named} is not a folder; it must hold {LAYOUTS[name]}")
        # The folder of all sets will do as well.
        return named / name if (named / name).is_dir() else named
    parent = os.environ.get(PARENT_VARIABLE)
    if parent and (expanded(parent) / name).is_dir():
        return expanded(parent) / name
    try:
        if name in READERS:
            return locate(READERS[name], None)
    except UserError as error:
        problem = f" ({error})"
    else:
        problem = ""
    raise UserError(
        f"the recipe has a share for {name}, but where is it? Say --data {name}=DIR or set {variable}, DIR with "
        f"{LAYOUTS[name]}; or take {name} out of the recipe's [data.mixture] and [data.held_out]{problem}"
    )


def _cache_folder() -> Path:
    """``$STTRACK_CACHE``, else the user's cache folder; it need not exist."""
    if named := os.environ.get(CACHE_VARIABLE):
        return expanded(named)
    return cache_home() / "sttrack-deploy"
