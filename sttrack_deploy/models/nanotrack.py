"""NanoTrack v3's computation: a MobileNetV3-small backbone to stride 16, two correlations, two towers.

Own code, written from the published ONNX graphs (HonglinChu/SiamTrackers, Apache-2.0; see NOTICE). Batch norm is folded
into the convolutions. Crops are RGB and 0 to 255: the order of the channels is folded into the first convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.checkpoint_file import check_usable, read_weights

__all__ = ["KERNEL", "NanoBackbone", "NanoHead", "NanoKernels", "NanoMaps", "read_nanotrack"]

FEATURES = 96
"""Channels of the backbone's output, of the correlations and of the towers."""
KERNEL = 4
"""Side, in cells, of the template's middle that is correlated channel by channel."""
PIXELWISE = 64
"""Template cells, each of which is correlated with every search cell."""
LAYERS = 6
"""Depthwise separable convolutions of a tower."""


@dataclass(frozen=True, slots=True)
class _Block:
    """One inverted residual: channels, kernel, stride, squeeze width (0: none), and which nonlinearity."""

    inputs: int
    hidden: int
    outputs: int
    kernel: int
    stride: int
    squeeze: int
    hard: bool


_BLOCKS = (
    _Block(16, 16, 16, 3, 2, 8, False),
    _Block(16, 72, 24, 3, 2, 0, False),
    _Block(24, 88, 24, 3, 1, 0, False),
    _Block(24, 96, 40, 5, 2, 24, True),
    _Block(40, 240, 40, 5, 1, 64, True),
    _Block(40, 240, 40, 5, 1, 64, True),
    _Block(40, 120, 48, 5, 1, 32, True),
    _Block(48, 144, 48, 5, 1, 40, True),
    _Block(48, 288, FEATURES, 5, 1, 72, True),
)


class _Squeeze(nn.Module):
    """Channel weights from the mean over the crop."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = F.hardsigmoid(self.up(torch.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return x * weights


class _InvertedResidual(nn.Module):
    def __init__(self, block: _Block) -> None:
        super().__init__()
        b, self.block = block, block
        self.expand = nn.Conv2d(b.inputs, b.hidden, 1) if b.hidden != b.inputs else None
        self.depth = nn.Conv2d(b.hidden, b.hidden, b.kernel, b.stride, b.kernel // 2, groups=b.hidden)
        self.squeeze = _Squeeze(b.hidden, b.squeeze) if b.squeeze else None
        self.project = nn.Conv2d(b.hidden, b.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, y = self.block, x
        if self.expand is not None:
            y = self.expand(y)
            y = F.hardswish(y) if b.hard else torch.relu(y)
        y = self.depth(y)
        if self.expand is None:  # the first block: ReLU comes before the squeeze
            y = torch.relu(y)
            y = y if self.squeeze is None else self.squeeze(y)
        else:
            y = y if self.squeeze is None else self.squeeze(y)
            y = F.hardswish(y) if b.hard else torch.relu(y)
        y = self.project(y)
        out: Tensor = x + y if b.stride == 1 and b.inputs == b.outputs else y
        return out


class NanoBackbone(nn.Module):
    """RGB 0 to 255 ``(B, 3, S, S)`` to ``(B, 96, S / 16, S / 16)``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.ModuleList(_InvertedResidual(block) for block in _BLOCKS)

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.hardswish(self.stem(pixels))
        for block in self.blocks:
            x = block(x)
        return x


class NanoKernels(NamedTuple):
    """What the head needs of a template; constant for a track.

    Attributes:
        pixel: float ``(B, 128, 96)``, a filter for each template cell, for regression and for classification. The
            search region's own projection is folded in.
        offset: float ``(B, 128, 1)``, added to their products.
        depth: float ``(B, 192, 4, 4)``, filters of the template's middle, regression's channels first.
    """

    pixel: Tensor
    offset: Tensor
    depth: Tensor


class NanoMaps(NamedTuple):
    """The head's maps over ``cells - 1`` times ``cells - 1`` places.

    Attributes:
        margin: float ``(B, h, w)``, foreground logit less background logit.
        distances: float ``(B, 4, h, w)``, left, top, right, bottom of the box from the place, in crop pixels.
        towers: float ``(B, 192, h, w)``, the towers' outputs, regression's first.
    """

    margin: Tensor
    distances: Tensor
    towers: Tensor


class NanoHead(nn.Module):
    """Correlation of template and search features, and what the towers read off it.

    Regression and classification have weights of their own and run side by side: their channels lie one after the
    other, and every convolution that mixes channels has two groups.
    """

    def __init__(self) -> None:
        super().__init__()
        pixels, both = 2 * PIXELWISE, 2 * FEATURES
        self.kernel = nn.Conv2d(FEATURES, 2 * both, 1)
        self.pixel_search = nn.Parameter(torch.zeros(2, FEATURES, FEATURES))
        self.pixel_shift = nn.Parameter(torch.zeros(2, FEATURES))
        self.search = nn.Conv2d(FEATURES, both, 1)
        self.attend_down = nn.Conv2d(pixels, pixels, 1, groups=2)
        self.attend_up = nn.Conv2d(pixels, pixels, 1, groups=2)
        self.pixel_depth = nn.Conv2d(pixels, pixels, 2, groups=pixels)
        self.pixel_point = nn.Conv2d(pixels, pixels, 1, groups=2)
        self.join_pixel = nn.Conv2d(pixels, both, 1, groups=2)
        self.join_depth = nn.Conv2d(both, both, 1, groups=2, bias=False)
        self.tower_depth = nn.ModuleList(nn.Conv2d(both, both, 3, 1, 1, groups=both) for _ in range(LAYERS))
        self.tower_point = nn.ModuleList(nn.Conv2d(both, both, 1, groups=2) for _ in range(LAYERS))
        # Four distances; the margin, and three channels of zeros that make the groups equal.
        self.predict = nn.Conv2d(both, 8, 1, groups=2)

    def kernels(self, template: Tensor) -> NanoKernels:
        """``(B, 96, 8, 8)`` to the filters of a track."""
        projected = self.kernel(template)
        cells = projected[:, : 2 * FEATURES].reshape(-1, 2, FEATURES, PIXELWISE).transpose(2, 3)
        pixel = (cells @ self.pixel_search).flatten(1, 2)
        offset = (cells @ self.pixel_shift[:, :, None]).flatten(1, 2)
        middle = slice(2, 2 + KERNEL)
        return NanoKernels(pixel, offset, projected[:, 2 * FEATURES :, middle, middle].contiguous())

    def forward(self, search: Tensor, kernels: NanoKernels) -> NanoMaps:
        """``(B, 96, cells, cells)`` to the maps."""
        cells = search.shape[-1]
        products = (kernels.pixel @ search.flatten(2) + kernels.offset).reshape(
            -1, 2 * PIXELWISE, cells, cells
        )
        attention = self.attend_up(torch.relu(self.attend_down(F.adaptive_avg_pool2d(products, 1))))
        pixel = self.pixel_depth(products * torch.sigmoid(attention))
        pixel = self.pixel_point(torch.clamp(pixel, 0.0, 6.0))
        deep = depthwise_correlation(self.search(search), kernels.depth)
        x = self.join_pixel(pixel) + self.join_depth(deep)
        for depth, point in zip(self.tower_depth, self.tower_point, strict=True):
            x = point(torch.clamp(depth(x), 0.0, 6.0))
        predicted = self.predict(x)
        return NanoMaps(predicted[:, 4], torch.exp(predicted[:, :4]), x)


def depthwise_correlation(search: Tensor, kernel: Tensor) -> Tensor:
    """Each channel of ``(B, C, n, n)`` with its own 4 x 4 filter of ``(B, C, 4, 4)``; ``(B, C, n - 1, n - 1)``.

    A convolution with one cell of padding whose filters are an input. Four shifts along a row, one small product,
    four shifts along a column: it has a free batch axis, and engines that want constant weights take it.
    """
    n = search.shape[-1]
    padded = F.pad(search, (1, 1, 1, 1))
    rows = torch.stack([padded[..., i : i + n - 1] for i in range(KERNEL)], 2)  # B, C, 4, n + 2, n - 1
    mixed = (kernel @ rows.flatten(3)).reshape(*kernel.shape[:3], n + 2, n - 1)
    out: Tensor = mixed[:, :, 0, : n - 1]
    for i in range(1, KERNEL):
        out = out + mixed[:, :, i, i : i + n - 1]
    return out


def read_nanotrack(path: Path) -> dict[str, dict[str, Tensor]]:
    """Weights of ``backbone`` and ``head`` from the published checkpoint ``nanotrackv3.pth``, batch norm folded.

    Raises:
        UserError: it is missing, or not that checkpoint.
    """
    checkpoint = read_weights(path)
    check_usable(path, checkpoint)
    try:
        return _ported(checkpoint)
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not the checkpoint of NanoTrack v3 ({reason})") from error


def _ported(checkpoint: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    backbone: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}

    def fold(out: dict[str, Tensor], name: str, convolution: str, norm: str | None) -> None:
        weight, bias = _folded(checkpoint, convolution, norm)
        out[f"{name}.weight"], out[f"{name}.bias"] = weight, bias

    fold(backbone, "stem", "backbone.features.0.0", "backbone.features.0.1")
    backbone["stem.weight"] = backbone["stem.weight"].flip(1).contiguous()  # published crops are BGR
    for index, block in enumerate(_BLOCKS):
        name, at = f"blocks.{index}", f"backbone.features.{index + 1}.conv"
        places: Sequence[int]
        if block.hidden == block.inputs:
            places = (0, 3, 4)
        else:
            fold(backbone, f"{name}.expand", f"{at}.0", f"{at}.1")
            places = (3, 5, 7)
        depth, squeeze, project = places
        fold(backbone, f"{name}.depth", f"{at}.{depth}", f"{at}.{depth + 1}")
        if block.squeeze:
            for part, layer in (("down", 0), ("up", 2)):
                weight = checkpoint[f"{at}.{squeeze}.fc.{layer}.weight"]
                backbone[f"{name}.squeeze.{part}.weight"] = weight[:, :, None, None].clone()
                backbone[f"{name}.squeeze.{part}.bias"] = checkpoint[
                    f"{at}.{squeeze}.fc.{layer}.bias"
                ].clone()
        fold(backbone, f"{name}.project", f"{at}.{project}", f"{at}.{project + 1}")

    correlations = ("corr_pw_reg", "corr_pw_cls", "corr_dw_reg", "corr_dw_cls")
    kinds, towers = ("reg", "cls"), ("bbox_tower", "cls_tower")

    def both(name: str, layers: Sequence[tuple[str, str | None]]) -> None:
        """Regression's and classification's layers, one after the other."""
        parts = [
            _folded(checkpoint, f"ban_head.{c}", None if n is None else f"ban_head.{n}") for c, n in layers
        ]
        head[f"{name}.weight"] = torch.cat([weight for weight, _ in parts])
        head[f"{name}.bias"] = torch.cat([bias for _, bias in parts])

    both("kernel", [(f"{c}.conv_kernel.0", f"{c}.conv_kernel.1") for c in correlations])
    both("search", [(f"{c}.conv_search.0", f"{c}.conv_search.1") for c in correlations])
    weight, bias = head["search.weight"], head["search.bias"]
    split = 2 * FEATURES
    head["pixel_search"] = weight[:split].reshape(2, FEATURES, FEATURES).clone()
    head["pixel_shift"] = bias[:split].reshape(2, FEATURES).clone()
    head["search.weight"], head["search.bias"] = weight[split:].clone(), bias[split:].clone()
    both("attend_down", [(f"corr_pw_{k}.CA_layer.fc1", None) for k in kinds])
    both("attend_up", [(f"corr_pw_{k}.CA_layer.fc2", None) for k in kinds])
    both("pixel_depth", [(f"corr_pw_{k}.conv.0", f"corr_pw_{k}.conv.1") for k in kinds])
    both("pixel_point", [(f"corr_pw_{k}.conv.3", f"corr_pw_{k}.conv.4") for k in kinds])
    both("join_pixel", [(f"down_{k}.0", None) for k in kinds])
    joined = head["join_pixel.weight"]
    head["join_pixel.weight"] = joined[:, :PIXELWISE].clone()
    head["join_depth.weight"] = joined[:, PIXELWISE:].clone()
    for layer in range(LAYERS):
        first = 5 * layer
        both(f"tower_depth.{layer}", [(f"{t}.{first}", f"{t}.{first + 1}") for t in towers])
        both(f"tower_point.{layer}", [(f"{t}.{first + 3}", f"{t}.{first + 4}") for t in towers])
    distances, logits = (_folded(checkpoint, f"ban_head.{c}", None) for c in ("bbox_pred.0", "cls_logits.0"))
    margin = [part[1:] - part[:1] for part in logits]
    head["predict.weight"] = torch.cat((distances[0], margin[0], torch.zeros(3, FEATURES, 1, 1)))
    head["predict.bias"] = torch.cat((distances[1], margin[1], torch.zeros(3)))
    return {"backbone": backbone, "head": head}


def _folded(checkpoint: Mapping[str, Tensor], convolution: str, norm: str | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch norm after it, computed in float64."""
    weight = checkpoint[f"{convolution}.weight"].double()
    bias = checkpoint.get(f"{convolution}.bias", torch.zeros(weight.shape[0])).double()
    if norm is not None:
        scale = checkpoint[f"{norm}.weight"].double() / torch.sqrt(
            checkpoint[f"{norm}.running_var"].double() + 1e-5
        )
        weight = weight * scale[:, None, None, None]
        bias = (bias - checkpoint[f"{norm}.running_mean"].double()) * scale + checkpoint[
            f"{norm}.bias"
        ].double()
    return weight.float(), bias.float()
