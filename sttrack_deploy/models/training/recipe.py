"""A training run's settings: one frozen dataclass, read from a TOML file; its table [data] says how clips are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import ModelConfig, preset
from sttrack_deploy.models.training.clips.real.published_tracks import Got10kSplit
from sttrack_deploy.models.training.losses import LossWeights
from sttrack_deploy.models.training.optimizer import Autocast, OptimizerRecipe
from sttrack_deploy.records import fill, parse_toml, read_text, show

__all__ = [
    "PUBLISHED_SETS",
    "SOURCES",
    "AugmentationRecipe",
    "Autocast",
    "DataRecipe",
    "JitterRecipe",
    "NegativesRecipe",
    "OptimizerRecipe",
    "Order",
    "Recipe",
    "SamplingRecipe",
    "SetsRecipe",
    "read_recipe",
]


Order = Literal["paced", "causal", "trident"]
JitterName = Literal["drift", "published"]
AugmentationName = Literal["camera", "published", "none"]

PUBLISHED_SETS = ("lasot", "got10k", "trackingnet", "coco")
SOURCES = ("images", "videos", *PUBLISHED_SETS)
"""What clips are made of; the keys of ``[data.mixture]``."""

HELD_OUT_FIRST = ("images", "videos", "got10k")  # these have validation parts of their own
TRACKINGNET_PARTS = 12
MOST_FRAMES, MOST_CLIPS, MOST_WORKERS = 1000, 10_000, 256
"""Of a clip, of a batch, of threads: no machine holds more, and what a typing error asks for is to be told."""


@dataclass(frozen=True, slots=True)
class SamplingRecipe:
    """Which frames of a sequence make a clip; see :mod:`.real.frame_choice`.

    Attributes:
        order: ``paced``, or the published ``causal`` or ``trident``.
        max_gap: in frames. ``paced``: from each frame of a clip to the next. ``causal``: from the template to
            the last search frame. ``trident``: from the first search frame to the last. Published: 200.
    """

    order: Order = "paced"
    max_gap: int = 30

    def __post_init__(self) -> None:
        _one_of("order", self.order, get_args(Order))
        _at_least("max_gap", self.max_gap, 1)


@dataclass(frozen=True, slots=True)
class JitterRecipe:
    """How far crops are cut off the target; see ``clips/augmentation.py``. The numbers are the published rule's."""

    rule: JitterName = "drift"
    center: float = 4.5
    scale: float = 0.5
    template_center: float = 0.0
    template_scale: float = 0.0

    def __post_init__(self) -> None:
        _one_of("rule", self.rule, get_args(JitterName))
        for name in ("center", "scale", "template_center", "template_scale"):
            _at_least(name, getattr(self, name), 0)


@dataclass(frozen=True, slots=True)
class AugmentationRecipe:
    """What is done to the pixels.

    Attributes:
        rule: ``camera`` (``clips/augmentation.py``), ``published`` (gray and brightness) or ``none``.
        gray: share of clips without color; published rule.
        brightness: each crop is multiplied by 1 plus or minus up to this; published rule.
        mirror: share of clips that are mirrored as a whole.
        mirror_crops: share of crops that are mirrored apart from their clip; 0.5 as published.
    """

    rule: AugmentationName = "camera"
    gray: float = 0.05
    brightness: float = 0.2
    mirror: float = 0.5
    mirror_crops: float = 0.0

    def __post_init__(self) -> None:
        _one_of("rule", self.rule, get_args(AugmentationName))
        for name in ("gray", "brightness", "mirror", "mirror_crops"):
            _share(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class NegativesRecipe:
    """Shares of clips that teach what it looks like when the target is not there.

    Attributes:
        absent: with frames in which the target is flagged as hidden or out of view.
        stranger: whose template is another sequence's target.
    """

    absent: float = 0.0
    stranger: float = 0.0

    def __post_init__(self) -> None:
        _share("absent", self.absent)
        _share("stranger", self.stranger)


@dataclass(frozen=True, slots=True)
class SetsRecipe:
    """Which parts of the published sets are used.

    Attributes:
        got10k_split: see :func:`.published_splits.got10k_numbers`.
        trackingnet_parts: ``n`` of ``TRAIN_<n>``; STARK takes all, pytracking's trackers 0 to 3.
        coco_min_side: boxes with a shorter side are left out, in pixels.
    """

    got10k_split: Got10kSplit = "vottrain"
    trackingnet_parts: tuple[int, ...] = tuple(range(TRACKINGNET_PARTS))
    coco_min_side: float = 10.0

    def __post_init__(self) -> None:
        _one_of("got10k_split", self.got10k_split, get_args(Got10kSplit))
        parts = self.trackingnet_parts
        if (
            not parts
            or len(set(parts)) != len(parts)
            or not all(part in range(TRACKINGNET_PARTS) for part in parts)
        ):
            raise UserError(
                f"trackingnet_parts are different numbers from 0 to {TRACKINGNET_PARTS - 1}, not {list(parts)}"
            )
        _at_least("coco_min_side", self.coco_min_side, 0)


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """How clips are made. The tables in it hold for all sources but ``images``, which have their own rules.

    Attributes:
        frames: search frames in a clip.
        clips: clips in a batch.
        mixture: share of the clips by source; what is not named has none.
        held_out: the same for the validation clips; empty: see :meth:`validation`.
        workers: threads that read and cut images.
        skip_unreadable: pass over images that cannot be read, with a warning, instead of stopping.
        partial: leave missing sequences aside, with a warning, instead of stopping.
    """

    frames: int = 3
    clips: int = 12
    mixture: Mapping[str, float] = field(default_factory=lambda: {"images": 0.8, "videos": 0.2})
    held_out: Mapping[str, float] = field(default_factory=dict)
    sampling: SamplingRecipe = field(default_factory=SamplingRecipe)
    jitter: JitterRecipe = field(default_factory=JitterRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    negatives: NegativesRecipe = field(default_factory=NegativesRecipe)
    sets: SetsRecipe = field(default_factory=SetsRecipe)
    workers: int = 2
    skip_unreadable: bool = False
    partial: bool = False

    def __post_init__(self) -> None:
        for name, most in (("frames", MOST_FRAMES), ("clips", MOST_CLIPS), ("workers", MOST_WORKERS)):
            _at_least(name, getattr(self, name), 1)
            if getattr(self, name) > most:
                raise UserError(f"{name} must be {most} or less, not {getattr(self, name)}")
        for name in ("mixture", "held_out"):
            _check_shares(name, getattr(self, name))
        if not any(self.mixture.values()):
            raise UserError("mixture gives no source a share")

    def share(self, source: str) -> float:
        """A source's part of the mixture, as written: shares need not add up to 1."""
        return self.mixture.get(source, 0.0)

    def validation(self) -> Mapping[str, float]:
        """What validation clips are made of: ``held_out``, or what the mixture has of images, videos and
        GOT-10k, or else all of it."""
        if any(self.held_out.values()):
            return self.held_out
        chosen = {name: self.mixture[name] for name in HELD_OUT_FIRST if self.share(name) > 0}
        return chosen or self.mixture


def _check_shares(name: str, shares: Mapping[str, float]) -> None:
    if unknown := sorted(set(shares) - set(SOURCES)):
        raise UserError(f"{name} has unknown sources {unknown}; known are {', '.join(SOURCES)}")
    for source, share in shares.items():
        _at_least(f"{name}.{source}", share, 0)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is one of {', '.join(allowed)}, not {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{name} must be {least} or more, not {value}")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} is a share from 0 to 1, not {value}")


DEFAULT_PRESET = "sttrack-plain"
"""The small network with a corner head; ``sttrack-nano`` is trained in closed loop (``closed_loop/``)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome of a run, with the data.

    Attributes:
        seed: of the fresh weights, the clips and the dropout.
        autocast: type of the forward pass's matrix products and convolutions; the weights and their
            optimization are float32 always. With ``fp16`` the loss is scaled.
    """

    model: ModelConfig
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    losses: LossWeights = field(default_factory=LossWeights)
    seed: int = 1
    autocast: Autocast = "bf16"

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, fit for JSON and for comparing recipes."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Recipe:
        """The reverse of :meth:`to_dict`; a setting that is not there has its default.

        Raises:
            UserError: a key is unknown, or a value is not possible.
        """
        tables = {
            name: fill(kind, data[name], f"{where} [{name}]")
            for name, kind in _TABLES.items()
            if name in data
        }
        return fill(cls, {**data, **tables}, where)

    def length(self, shares: int) -> int:
        """Steps of the whole schedule, with ``shares`` batches side by side in each (see ``clips/batch.py``)."""
        return self.optimizer.length(self.data.clips * shares * self.optimizer.accumulate)


_TABLES: dict[str, type[Any]] = {
    "model": ModelConfig,
    "data": DataRecipe,
    "optimizer": OptimizerRecipe,
    "losses": LossWeights,
}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe: tables ``[model]``, ``[data]``, ``[optimizer]``, ``[losses]``, ``seed`` and ``autocast``.

    ``[model]`` names a ``preset`` and overrides any field of it.

    Raises:
        UserError: not readable, not TOML, a key is unknown, or a value is not possible.
    """
    data = parse_toml(read_text(path, "the recipe"), str(path))
    known = {f.name for f in dataclasses.fields(Recipe)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise UserError(f"{path} has unknown keys {show(unknown)}; known keys are {sorted(known)}")
    for name in _TABLES:
        if not isinstance(data.get(name, {}), dict):
            raise UserError(f"{path}: {name} is a table [{name}], not {show(data[name])}")
    model = dict(data.get("model", {}))
    data["model"] = {**preset(str(model.pop("preset", DEFAULT_PRESET))).to_dict(), **model}
    if "samples" in data.get("optimizer", {}):
        data["optimizer"] = {"steps": 0, **data["optimizer"]}
    recipe = Recipe.from_dict(data, str(path))
    return recipe


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
