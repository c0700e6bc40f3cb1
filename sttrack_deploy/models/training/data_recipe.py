"""How a training run's clips are made: the ``[data]`` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DataRecipe"]


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """How clips are made.

    Attributes:
        frames: search frames in a clip.
        clips: clips in a batch.
        synthetic, video: shares of clips made from photographs and cut from annotated videos.
    """

    frames: int = 3
    clips: int = 12
    synthetic: float = 0.8
    video: float = 0.2
