"""A tiny network that is not degenerate, and inputs for it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.corner_network import STTrack, TrackState

Crop = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""An image and its padding mask."""

TINY = ModelConfig(
    name="tiny",
    backbone="plain",
    plain_channels=(8, 8, 16, 16),
    plain_blocks=(0, 1, 0, 1),
    hidden_dim=32,
    heads=2,
    feedforward_dim=48,
    encoder_layers=2,
    decoder_layers=2,
    memory_layers=2,
    memory_heads=2,
    memory_feedforward_dim=48,
    head_dim=32,
    dropout=0.0,
    template_size=64,
    search_size=128,
    search_factor=4.0,
    memory_capacity=4,
)


def lively_network(config: ModelConfig, seed: int = 3) -> STTrack:
    """Random weights large enough that each input shows in the box; fresh ones give a nearly constant box.

    Batch norm statistics are those of the activations, so that nothing dies or explodes.
    """
    torch.manual_seed(seed)
    network = STTrack(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and ("proj" in name or "linear" in name):
                parameter.mul_(3.0)
            elif name.endswith("score.weight"):
                parameter.mul_(20.0)
        network.window_penalty.fill_(0.4)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(4):
            state = network.initial_state(*template_input(config, 4, generator))
            network.step(*search_input(config, 4, generator), state)
    return network.eval().requires_grad_(False)


def as_arrays(crop: tuple[Tensor, Tensor]) -> Crop:
    """The same for an engine."""
    image, mask = crop
    return image.numpy(), mask.numpy()


def picture(size: int, batch: int, generator: torch.Generator) -> Tensor:
    """Smooth random pictures, uint8 ``(batch, size, size, 3)``."""
    coarse = torch.rand(batch, 3, 9, 9, generator=generator) * 255
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return fine.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def mask_of(cells: int, batch: int, generator: torch.Generator) -> Tensor:
    """bool ``(batch, cells, cells)``: a random border of padding."""
    mask = torch.zeros(batch, cells, cells, dtype=torch.bool)
    for row in range(batch):
        mask[row, :, : int(torch.randint(0, cells // 2, (), generator=generator))] = True
    return mask


def template_input(config: ModelConfig, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A template picture and its mask."""
    return picture(config.template_size, batch, generator), mask_of(config.template_cells, batch, generator)


def search_input(config: ModelConfig, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A search picture and its mask."""
    return picture(config.search_size, batch, generator), mask_of(config.search_cells, batch, generator)


def run_clip(network: STTrack, frames: int, batch: int = 1, seed: int = 0) -> tuple[list[Tensor], TrackState]:
    """Boxes of a random clip and the state after it."""
    generator = torch.Generator().manual_seed(seed)
    state = network.initial_state(*template_input(network.config, batch, generator))
    boxes = []
    for _ in range(frames):
        output, state = network.step(*search_input(network.config, batch, generator), state)
        boxes.append(output.corners.box)
    return boxes, state
