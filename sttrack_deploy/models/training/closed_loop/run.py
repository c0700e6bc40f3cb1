"""A closed-loop run from a recipe file: reading it, the network to begin with, the frozen part in a fast engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sttrack_deploy.errors import UserError, one_line
from sttrack_deploy.models.config import ModelConfig, preset
from sttrack_deploy.models.dense_network import DenseSTTrack
from sttrack_deploy.models.nanotrack import NanoBackbone, NanoHead, NanoKernels, NanoMaps, read_nanotrack
from sttrack_deploy.models.network import build_network
from sttrack_deploy.models.training.clips.real.video_clips import load_tracks
from sttrack_deploy.models.training.clips.synthetic.image_bank import SpriteSampler, load_image_bank
from sttrack_deploy.models.training.closed_loop.clip_groups import Views
from sttrack_deploy.models.training.closed_loop.following import Features, follow
from sttrack_deploy.models.training.closed_loop.stills import read_stills
from sttrack_deploy.models.training.closed_loop.training import ClosedLoopRecipe, Material
from sttrack_deploy.models.weights import load_weights
from sttrack_deploy.records import fill, parse_toml, read_text, show

__all__ = ["TABLE", "frozen_part", "is_closed_loop", "load_material", "network_to_train", "read_closed_loop"]

TABLE = "closed_loop"
CHUNK = 4
"""Crops for each call of the engine: more of them do not fit the caches, and take longer each."""
CALIBRATION_BATCHES = 2
LONGEST = 150
"""Frames of a track from which on it is not used more often."""


def is_closed_loop(path: Path) -> bool:
    """Whether a recipe is one for closed-loop training: it has a table ``[closed_loop]``."""
    return TABLE in parse_toml(read_text(path, "the recipe"), str(path))


def read_closed_loop(path: Path) -> tuple[ModelConfig, ClosedLoopRecipe]:
    """Network and settings of a recipe with the tables ``[model]`` and ``[closed_loop]``.

    Raises:
        UserError: not readable, a key is unknown, a value is not possible, or the network's head is another.
    """
    data = parse_toml(read_text(path, "the recipe"), str(path))
    if unknown := sorted(set(data) - {"model", TABLE}):
        raise UserError(f"{path} has unknown keys {unknown}; known tables are [model] and [{TABLE}]")
    given = data.get("model", {})
    if not isinstance(given, dict):
        raise UserError(f"{path} [model] must be a table, not {show(given)}")
    model = dict(given)
    base = preset(str(model.pop("preset", "sttrack-nano"))).to_dict()
    config = ModelConfig.from_dict({**base, **model}, f"{path} [model]")
    if config.head != "dense":
        raise UserError(f"{path}: closed-loop training needs a dense head; {config.name} has {config.head!r}")
    return config, fill(ClosedLoopRecipe, data[TABLE], f"{path} [{TABLE}]")


def load_material(
    images: Path | None,
    videos: Sequence[Path],
    cache: Path,
    limit: int | None = None,
    *,
    stills: bool = False,
) -> Material:
    """Tracks and photographs to learn from; long tracks are used more often, but not in proportion.

    Args:
        stills: whether photographs of several objects are used as they are, too.

    Raises:
        UserError: there is no annotated video, or a folder cannot be read.
    """
    tracks = [t for t in load_tracks(videos, "train") if len(t.frames) > 2]
    weights = np.sqrt([min(len(t.frames), LONGEST) for t in tracks])
    sprites = None
    if images is not None:
        bank = load_image_bank(images, "train", cache=cache, limit=limit)
        sprites = SpriteSampler(bank)
    found = read_stills(images, limit) if stills and images is not None else []
    if stills and images is not None and not found:
        raise UserError(
            f"none of the photographs of {images} shows two objects apart: leave stills out of the recipe"
        )
    return Material(tracks, weights / weights.sum(), sprites, found)


def network_to_train(
    config: ModelConfig, init: Path | None, nanotrack: Path | None, seed: int
) -> DenseSTTrack:
    """A network with weights to begin with: another run's, or NanoTrack v3's and an untrained rest.

    Raises:
        UserError: neither is given, or one does not fit.
    """
    if init is not None:
        loaded = load_weights(init, config)  # fits the configuration, so its head is dense
        assert isinstance(loaded, DenseSTTrack)
        return loaded
    if nanotrack is None:
        raise UserError(
            "closed-loop training begins with a correlation tracker that can track already: give its checkpoint, "
            "--backbone nanotrackv3.pth (HonglinChu/SiamTrackers), or --init WEIGHTS.safetensors"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(config)
    assert isinstance(network, DenseSTTrack)
    weights = read_nanotrack(nanotrack)
    try:
        network.backbone.load_state_dict(weights["backbone"])
        network.correlation.load_state_dict(weights["head"])
    except RuntimeError as error:
        reason = one_line(error, 200)
        raise UserError(f"{nanotrack} does not fit the network {config.name} ({reason})") from error
    return network


def calibrate_inputs(
    network: DenseSTTrack, frozen: Features, material: Material, recipe: ClosedLoopRecipe
) -> None:
    """Give the token layers' inputs mean 0 and deviation 1 by their weights; a fresh network learns faster."""
    across = network.config.search_size / network.config.search_factor
    search: list[Tensor] = []
    target: list[Tensor] = []

    class Recording:
        def template(self, views: Views) -> tuple[NanoKernels, Tensor]:
            kernels, features = frozen.template(views)
            target.append(features.transpose(0, 1).flatten(1))
            return kernels, features

        def search(self, views: Views, kernels: NanoKernels) -> tuple[NanoMaps, Tensor]:
            maps, features = frozen.search(views, kernels)
            pooled = nn.functional.avg_pool2d(features, 2, 1)
            search.append(torch.cat((maps.towers, pooled), 1).transpose(0, 1).flatten(1))
            return maps, features

    with torch.no_grad():
        for batch in range(CALIBRATION_BATCHES):
            groups = material.groups(recipe, recipe.steps + batch, across)
            follow(network, Recording(), groups, np.random.default_rng(batch))
        for layer, seen in (
            (network.embed, torch.cat(search, 1)),
            (network.embed_target, torch.cat(target, 1)),
        ):
            mean, deviation = seen.mean(1), seen.std(1) + 1e-3
            layer.weight[:, : len(mean)] /= deviation
            layer.bias.sub_(layer.weight[:, : len(mean)] @ mean)


class _TorchFrozen:
    """The frozen part in PyTorch."""

    def __init__(self, backbone: NanoBackbone, head: NanoHead) -> None:
        self.backbone, self.head = backbone, head
        self.device = backbone.stem.weight.device

    @torch.no_grad()
    def template(self, views: Views) -> tuple[NanoKernels, Tensor]:
        features = self._features(views)
        return self.head.kernels(features), features

    @torch.no_grad()
    def search(self, views: Views, kernels: NanoKernels) -> tuple[NanoMaps, Tensor]:
        features = self._features(views)
        return self.head(features, kernels), features

    def _features(self, views: Views) -> Tensor:
        pixels = torch.from_numpy(views.pixels).to(self.device)
        features: Tensor = self.backbone(pixels.float().permute(0, 3, 1, 2))
        return features


class _SearchPart(nn.Module):
    def __init__(self, backbone: NanoBackbone, head: NanoHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixels: Tensor, pixel: Tensor, offset: Tensor, depth: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(pixels.float().permute(0, 3, 1, 2))
        return (*self.head(features, NanoKernels(pixel, offset, depth)), features)


class _OnnxFrozen(_TorchFrozen):
    """Its search part in ONNX Runtime, which takes a quarter of PyTorch's time on a CPU."""

    def __init__(self, backbone: NanoBackbone, head: NanoHead, size: int, runtime: Any) -> None:
        super().__init__(backbone, head)
        example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        kernels = self.head.kernels(torch.zeros(2, 96, 8, 8))
        names = ["pixels", "pixel", "offset", "depth"]
        batch = {0: torch.export.Dim("batch", min=1, max=64)}
        with tempfile.TemporaryDirectory(prefix="sttrack-train-") as folder:
            path = Path(folder) / "frozen.onnx"
            torch.onnx.export(
                _SearchPart(backbone, head).eval(),
                (example, *kernels),
                path,
                input_names=names,
                output_names=["margin", "distances", "towers", "features"],
                dynamo=True,
                verbose=False,
                dynamic_shapes=tuple(batch for _ in names),
            )
            options = runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def search(self, views: Views, kernels: NanoKernels) -> tuple[NanoMaps, Tensor]:
        parts = []
        for first in range(0, len(views.pixels), CHUNK):
            part = slice(first, first + CHUNK)
            feeds = {"pixels": views.pixels[part], "pixel": kernels.pixel[part].numpy()}
            feeds |= {"offset": kernels.offset[part].numpy(), "depth": kernels.depth[part].numpy()}
            parts.append(self.session.run(None, feeds))
        joined = [torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*parts, strict=True)]
        return NanoMaps(joined[0], joined[1], joined[2]), joined[3]


def frozen_part(network: DenseSTTrack, note: Callable[[str], None] = print) -> Features:
    """The part of the network that is not trained: on a CPU in ONNX Runtime if it is installed, else in PyTorch."""
    backbone, head = network.backbone.eval(), network.correlation.eval()
    if network.query_embed.device.type != "cpu":
        return _TorchFrozen(backbone, head)
    try:
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        note(f"{error.name} is not installed: the frozen part runs in PyTorch, about four times as slow")
        return _TorchFrozen(backbone, head)
    onnxruntime.disable_telemetry_events()
    return _OnnxFrozen(backbone, head, network.config.search_size, onnxruntime)
