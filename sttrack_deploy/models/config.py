"""What a network is made of: one frozen dataclass, and the two presets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sttrack_deploy.errors import UsageError, UserError

__all__ = ["CROP_LAWS", "PRESETS", "CropLaw", "MemorySemantics", "ModelConfig", "preset"]

MemorySemantics = Literal["test", "train"]
CropLaw = Literal["published", "snapped"]
CROP_LAWS: dict[CropLaw, tuple[float, float]] = {"published": (0.0, 0.0), "snapped": (1 / 64, 0.05)}
"""``search_grid`` and ``search_scale_step`` by the name of the law; how the second were chosen stands in
``models/sttrack-nano/EXPERIMENTS.md``."""
MAX_SNAP = 0.25
"""Greatest step of place or size of a snapped search crop: the target would leave its middle."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The numbers of one STTrack network.

    Attributes:
        name: preset name, or the name of the file it came from.
        backbone: ``resnet18|34|50|101`` (published, frozen batch norm) or ``plain`` (small, trainable).
        plain_channels: output channels of the four stride-2 stages; ``plain`` only.
        plain_blocks: residual blocks after each stage; ``plain`` only.
        hidden_dim: width of all tokens and queries.
        memory_capacity: spatial queries kept for the memory attention (a ring).
        memory_semantics: ``test`` attends to the previous frames' queries only (to itself on the
            first frame); ``train`` attends to the current one as well, as the published training does.
        corner_prior: learn where in the search region corners are likely; not in the published network.
        template_factor, search_factor: side of a crop over ``sqrt(w * h)`` of the box.
        search_grid, search_scale_step: how the tracker snaps its search crops (``bundle.CropSpec``); 0: published.
    """

    name: str
    backbone: str = "resnet50"
    plain_channels: tuple[int, ...] = ()
    plain_blocks: tuple[int, ...] = ()
    hidden_dim: int = 256
    heads: int = 8
    feedforward_dim: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    memory_layers: int = 2
    memory_heads: int = 8
    memory_feedforward_dim: int = 2048
    head_dim: int = 256
    corner_prior: bool = False
    dropout: float = 0.1
    template_size: int = 128
    template_factor: float = 2.0
    search_size: int = 320
    search_factor: float = 5.0
    stride: int = 16
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    memory_capacity: int = 64
    memory_semantics: MemorySemantics = "test"
    search_grid: float = 0.0
    search_scale_step: float = 0.0

    def __post_init__(self) -> None:
        for size in (self.template_size, self.search_size):
            if size <= 0 or size % self.stride:
                raise UsageError(f"crop sizes must be multiples of the stride {self.stride}, not {size}")
        for heads in (self.heads, self.memory_heads):
            if self.hidden_dim % heads or self.hidden_dim % 4:
                raise UsageError(f"hidden_dim {self.hidden_dim} must be divisible by 4 and by {heads} heads")
        for name, value in (
            ("search_grid", self.search_grid),
            ("search_scale_step", self.search_scale_step),
        ):
            if not 0 <= value <= MAX_SNAP:
                raise UsageError(f"{name} is from 0 to {MAX_SNAP} of the crop's side, not {value}")
        if self.search_scale_step > 0 and self.search_grid == 0:
            raise UsageError("search_scale_step needs a search_grid above 0")
        if self.memory_capacity < 1:
            raise UsageError(f"memory capacity must be at least 1, not {self.memory_capacity}")
        if self.memory_semantics not in ("test", "train"):
            raise UsageError(f"memory semantics are 'test' or 'train', not {self.memory_semantics!r}")

    @property
    def template_cells(self) -> int:
        """Cells along one side of the template's feature map."""
        return self.template_size // self.stride

    @property
    def search_cells(self) -> int:
        """Cells along one side of the search region's feature map."""
        return self.search_size // self.stride

    def with_memory(self, capacity: int | None, semantics: MemorySemantics | None) -> ModelConfig:
        """A copy with another memory; ``None`` keeps what is there."""
        return dataclasses.replace(
            self,
            memory_capacity=self.memory_capacity if capacity is None else capacity,
            memory_semantics=self.memory_semantics if semantics is None else semantics,
        )

    def with_crops(self, law: CropLaw | None) -> ModelConfig:
        """A copy with another law of search crops; ``None`` keeps what is there."""
        if law is None:
            return self
        grid, scale_step = CROP_LAWS[law]
        return dataclasses.replace(self, search_grid=grid, search_scale_step=scale_step)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, fit for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The reverse of :meth:`to_dict`.

        Raises:
            UserError: a field is unknown or the name is missing.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown or "name" not in data:
            what = f"unknown fields {unknown}" if unknown else "no field 'name'"
            raise UserError(f"a model configuration has {what}; known fields are {sorted(known)}")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)

    def to_json(self) -> str:
        """One line, keys sorted: equal configurations give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True)


PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(name="sttrack-r50"),
        ModelConfig(
            name="sttrack-nano",
            backbone="plain",
            plain_channels=(24, 32, 64, 128),
            plain_blocks=(0, 0, 1, 2),
            hidden_dim=96,
            heads=4,
            feedforward_dim=192,
            encoder_layers=3,
            decoder_layers=1,
            memory_layers=1,
            memory_heads=4,
            memory_feedforward_dim=192,
            head_dim=64,
            corner_prior=True,
            dropout=0.0,
            template_size=96,
            search_size=192,
            search_factor=4.0,
            memory_capacity=2,
        ).with_crops("snapped"),
    )
}


def preset(name: str) -> ModelConfig:
    """A preset by name.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"there is no preset {name!r}; presets are {', '.join(sorted(PRESETS))}") from None
