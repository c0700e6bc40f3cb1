"""What ``sttrack-train`` learns from: the folders it was given, as clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sttrack_deploy.errors import UsageError

if TYPE_CHECKING:
    from sttrack_deploy.models.training.clips import ClipBatch, ClipSource
    from sttrack_deploy.models.training.recipe import Recipe

__all__ = ["load_material"]


def load_material(
    recipe: Recipe,
    images: Path | None,
    videos: tuple[Path, ...],
    out: Path,
    device: str,
    limit: int | None,
    validation_clips: int,
) -> tuple[ClipSource, ClipBatch]:
    """The mixture to train on and fixed held-out clips.

    Raises:
        UserError: a folder is missing or holds nothing to learn from.
        UsageError: there is nothing that the recipe has a share for.
    """
    import torch

    from sttrack_deploy.models.training.clips import ClipGeometry, MixedSource
    from sttrack_deploy.models.training.image_bank import Split, load_image_bank
    from sttrack_deploy.models.training.synthetic import SyntheticSource
    from sttrack_deploy.models.training.video_clips import load_video_source

    m = recipe.model
    geometry = ClipGeometry(m.template_size, m.template_factor, m.search_size, m.search_factor, m.stride)
    wants_images = images is not None and recipe.data.synthetic > 0
    wants_videos = bool(videos) and recipe.data.video > 0
    if not wants_images and not wants_videos:
        raise UsageError(
            "nothing to train on: give --images DIR, --videos DIR or both, with a share in [data]"
        )

    out.mkdir(parents=True, exist_ok=True)

    def mixture(split: Split) -> MixedSource:
        sources: list[ClipSource] = []
        ratios: list[float] = []
        if images is not None and wants_images:
            cache = out / f"bank-{split}.npz"
            bank = load_image_bank(images, split, device=device, cache=cache, limit=limit)
            sources.append(SyntheticSource(bank, geometry))
            ratios.append(recipe.data.synthetic)
        if wants_videos:
            sources.append(load_video_source(videos, split, geometry=geometry))
            ratios.append(recipe.data.video)
        return MixedSource(sources, ratios)

    generator = torch.Generator().manual_seed(recipe.seed + 1)
    held_out = mixture("val").sample(validation_clips, recipe.data.frames, generator)
    return mixture("train"), held_out.to("cpu")
