"""What a network is made of: one frozen dataclass, and the presets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from sttrack_deploy.errors import UsageError
from sttrack_deploy.records import PlainName, Within, check, fill

__all__ = ["CROP_RULES", "PRESETS", "CropRule", "MemorySemantics", "ModelConfig", "preset"]

MemorySemantics = Literal["test", "train"]
CropRule = Literal["published", "snapped"]
CROP_RULES: dict[CropRule, tuple[float, float]] = {"published": (0.0, 0.0), "snapped": (1 / 64, 0.05)}
"""``search_grid`` and ``search_scale_step`` by the name of the rule; how the second were chosen stands in
``models/sttrack-nano/EXPERIMENTS.md``."""
MAX_SNAP = 0.25
"""Greatest step of place or size of a snapped search crop: the target would leave its middle."""
MOST_MEMORY = 4096
"""Greatest memory, frames."""

Width = Annotated[int, Within(1, 1 << 16)]
Count = Annotated[int, Within(1, 256)]
Side = Annotated[int, Within(1, 4096)]
Factor = Annotated[float, Within(0, 64, open_low=True)]
Pixel = Annotated[float, Within(-1000, 1000)]
Spread = Annotated[float, Within(1e-6, 1000)]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The numbers of one STTrack network.

    Attributes:
        name: preset name, or the name of the file it came from.
        backbone: ``resnet18|34|50|101`` (published, frozen batch norm), ``plain`` (small, trainable) or
            ``nanotrack3`` (NanoTrack v3's, with its correlation; head ``dense`` only).
        head: ``corner`` (published) or ``dense`` (a score and a box at each place, ``dense_network.py``).
        plain_channels: output channels of the four stride-2 stages; ``plain`` only.
        plain_blocks: residual blocks after each stage; ``plain`` only.
        hidden_dim: width of all tokens and queries.
        memory_capacity: spatial queries kept for the memory attention (a ring).
        memory_semantics: ``test`` attends to the previous frames' queries only (to itself on the
            first frame); ``train`` attends to the current one as well, as the published training does.
        corner_prior: learn where in the search region corners are likely; not in the published network.
        template_factor, search_factor: side of a crop over the size of the box.
        crop_context: what is counted into that size (``manifest.CropSpec.context``); 0: ``sqrt(w * h)``.
        search_grid, search_scale_step: how the tracker snaps its search crops (``bundle.CropSpec``); 0: published.
    """

    name: PlainName
    backbone: str = "resnet50"
    head: str = "corner"
    plain_channels: tuple[Width, ...] = ()
    plain_blocks: tuple[Annotated[int, Within(0, 256)], ...] = ()
    hidden_dim: Width = 256
    heads: Count = 8
    feedforward_dim: Width = 2048
    encoder_layers: Count = 6
    decoder_layers: Count = 6
    memory_layers: Count = 2
    memory_heads: Count = 8
    memory_feedforward_dim: Width = 2048
    head_dim: Width = 256
    corner_prior: bool = False
    dropout: Annotated[float, Within(0, 0.99)] = 0.1
    template_size: Side = 128
    template_factor: Factor = 2.0
    search_size: Side = 320
    search_factor: Factor = 5.0
    stride: Side = 16
    mean: tuple[Pixel, Pixel, Pixel] = (0.485, 0.456, 0.406)
    std: tuple[Spread, Spread, Spread] = (0.229, 0.224, 0.225)
    memory_capacity: Annotated[int, Within(1, MOST_MEMORY)] = 64
    memory_semantics: MemorySemantics = "test"
    search_grid: Annotated[float, Within(0, MAX_SNAP)] = 0.0
    search_scale_step: Annotated[float, Within(0, MAX_SNAP)] = 0.0
    crop_context: Annotated[float, Within(0, 2)] = 0.0

    def __post_init__(self) -> None:
        check(self)
        for size in (self.template_size, self.search_size):
            if size % self.stride:
                raise UsageError(f"crop sizes must be multiples of the stride {self.stride}, not {size}")
        for heads in (self.heads, self.memory_heads):
            if self.hidden_dim % heads or self.hidden_dim % 4:
                raise UsageError(f"hidden_dim {self.hidden_dim} must be divisible by 4 and by {heads} heads")
        if self.search_scale_step > 0 and self.search_grid == 0:
            raise UsageError("search_scale_step needs a search_grid above 0")

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

    def with_crops(self, rule: CropRule | None) -> ModelConfig:
        """A copy with another rule for search crops; ``None`` keeps what is there."""
        if rule is None:
            return self
        grid, scale_step = CROP_RULES[rule]
        return dataclasses.replace(self, search_grid=grid, search_scale_step=scale_step)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, fit for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "the model's configuration") -> ModelConfig:
        """The reverse of :meth:`to_dict`; ``where`` names its place in errors.

        Raises:
            UserError: a field is unknown or not possible, or the name is missing.
        """
        return fill(cls, data, where)

    def to_json(self) -> str:
        """One line, keys sorted: equal configurations give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True)


PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(name="sttrack-r50"),
        ModelConfig(
            name="sttrack-plain",
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
        ModelConfig(
            name="sttrack-nano",
            backbone="nanotrack3",
            head="dense",
            hidden_dim=64,
            heads=4,
            feedforward_dim=128,
            encoder_layers=1,
            decoder_layers=1,
            memory_layers=1,
            memory_heads=4,
            memory_feedforward_dim=128,
            dropout=0.0,
            template_size=128,
            template_factor=1.008,
            search_size=224,
            search_factor=1.764,
            memory_capacity=6,
            crop_context=0.5,
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
