#!/usr/bin/env python
"""A bundle of a preset with random weights that are not degenerate: for measuring speed, where there are no weights.

    python benchmarks/random_bundle.py sttrack-r50 --out export/r50-random
    sttrack-bench export/r50-random --engine torch --engine onnxruntime

Freshly initialized published networks predict one constant box whatever they see, and deep random ones explode or
die; numbers that are zero, infinite or denormal are not computed at the usual speed. Here every batch norm has the
statistics of real activations and every input shows in the box, which is checked. The export is not compared with
PyTorch in closed loop: under random weights a box says nothing, and rounding alone leads to another one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.cropping import crop_patch
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.export.exporter import ExportOptions, export_bundle
from sttrack_deploy.models.backbone import FrozenBatchNorm2d
from sttrack_deploy.models.config import ModelConfig, preset
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.weights import save_weights
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.terminal.program import command, say

CALIBRATION_FRAMES = (0, 40, 80, 140)
LEAST_SPREAD = 1e-3


def lively_network(config: ModelConfig, seed: int) -> STTrack:
    """Random weights under which each input shows in the box; statistics from crops of the demo clip."""
    torch.manual_seed(seed)
    network = STTrack(config).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and ("proj" in name or "linear" in name):
                parameter.mul_(3.0)
            elif name.endswith("score.weight"):
                parameter.mul_(20.0)
        network.window_penalty.fill_(0.4)
    handles = [
        module.register_forward_pre_hook(_take_statistics)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
    ]
    template, search = _crops(config)
    with torch.no_grad():
        network.step(*search, network.initial_state(*template))
    for handle in handles:
        handle.remove()
    return network


def _take_statistics(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Make the layer normalize what it is given now, before it does."""
    (x,) = inputs
    module.running_mean.copy_(x.mean(dim=(0, 2, 3)))  # type: ignore[operator]
    module.running_var.copy_(x.var(dim=(0, 2, 3)).clamp_min(1e-6))  # type: ignore[operator]


def _crops(config: ModelConfig) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Template and search crops of some frames of the demo clip with their masks, one batch each."""
    clip = DemoClip()
    pairs = []
    for factor, size in (
        (config.template_factor, config.template_size),
        (config.search_factor, config.search_size),
    ):
        crops = [
            crop_patch(clip.frame(i), clip.truth[i], factor, size, config.stride) for i in CALIBRATION_FRAMES
        ]
        patches = torch.stack([torch.from_numpy(c.patch) for c in crops])
        pairs.append((patches, torch.stack([torch.from_numpy(c.mask) for c in crops])))
    return pairs[0], pairs[1]


def check_lively(network: STTrack) -> float:
    """How far apart the boxes of different frames are, as a share of the crop's side.

    Raises:
        UserError: not finite, or hardly any: the network is degenerate and would measure nothing.
    """
    template, search = _crops(network.config)
    with torch.no_grad():
        output, _ = network.step(*search, network.initial_state(*template))
    spread = float((output.corners.box.amax(dim=0) - output.corners.box.amin(dim=0)).max())
    if not spread > LEAST_SPREAD:
        raise UserError(f"the random network is degenerate (boxes differ by {spread}); choose another --seed")
    return spread


def random_bundle(preset_name: str, out: Path, batch: int | None, seed: int) -> tuple[Bundle, float]:
    """Export it; the bundle, and the spread of its boxes.

    Args:
        batch: targets for each call; ``None``: dynamic.
    """
    network = lively_network(preset(preset_name), seed)
    spread = check_lively(network)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f"random-{seed}.safetensors"
        save_weights(weights, network.config, network.state_dict())
        options = ExportOptions(batch=batch, license="none: random weights")
        return export_bundle(network, weights, out, options, clip=None), spread


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("preset_name", metavar="PRESET")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option("--batch", default="1", show_default=True, metavar="N|dynamic", help="Targets for each call.")
@click.option("--seed", default=0, show_default=True)
@command
def main(preset_name: str, out: Path, batch: str, seed: int) -> None:
    """Export PRESET with random weights, to measure its speed."""
    if batch != "dynamic" and not (batch.isdecimal() and 1 <= int(batch) <= 64):
        raise UsageError(f"--batch is a number from 1 to 64 or 'dynamic', not {batch!r}")
    bundle, spread = random_bundle(preset_name, out, None if batch == "dynamic" else int(batch), seed)
    say(
        f"made {bundle.path}: {preset_name} with random weights (seed {seed}), boxes of different frames {spread:.3f} "
        "of the crop apart; it tracks nothing"
    )
    say(f"next: sttrack-bench {bundle.path} --engine torch --engine onnxruntime")


if __name__ == "__main__":
    main()
