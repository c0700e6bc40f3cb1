"""Backbones: image to a stride-16 feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sttrack_deploy.errors import UsageError
from sttrack_deploy.models.config import ModelConfig

__all__ = ["FrozenBatchNorm2d", "PlainBackbone", "ResNet", "build_backbone"]

_RESNET_BLOCKS = {
    "resnet18": (2, 2, 2),
    "resnet34": (3, 4, 6),
    "resnet50": (3, 4, 6),
    "resnet101": (3, 4, 23),
}


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters never change (DETR; epsilon 1e-5)."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.downsample = _shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet-50, -101); the stride is on the 3x3."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(channels_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + self.downsample(x))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), FrozenBatchNorm2d(channels_out)
    )


class ResNet(nn.Module):
    """A ResNet cut after layer3 (stride 16), with frozen batch norm.

    Args:
        kind: one of the keys of the published configuration's ``MODEL.BACKBONE.TYPE``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        block: type[BasicBlock | Bottleneck] = BasicBlock if kind in ("resnet18", "resnet34") else Bottleneck
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        layers: list[nn.Sequential] = []
        for width, count, stride in zip((64, 128, 256), _RESNET_BLOCKS[kind], (1, 2, 2), strict=True):
            blocks: list[nn.Module] = []
            for index in range(count):
                blocks.append(block(channels, width, stride if index == 0 else 1))
                channels = width * block.expansion
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = layers
        self.channels_out = channels

    def forward(self, x: Tensor) -> Tensor:
        """float ``(B, 3, H, W)`` to ``(B, channels_out, H / 16, W / 16)``."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with trainable batch norm, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class PlainBackbone(nn.Module):
    """Four stride-2 3x3 convolutions, each followed by residual blocks; ReLU throughout.

    Only convolutions, batch norm that folds into them, and ReLU: what INT8 engines run best.
    """

    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        if len(channels) != 4 or len(blocks) != 4:
            raise UsageError(
                f"a plain backbone has 4 stages; got {len(channels)} channels, {len(blocks)} blocks"
            )
        stages: list[nn.Module] = []
        previous = 3
        for width, count in zip(channels, blocks, strict=True):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(previous, width, 3, 2, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    *(ResidualBlock(width) for _ in range(count)),
                )
            )
            previous = width
        self.stages = nn.Sequential(*stages)
        self.channels_out = previous

    def forward(self, x: Tensor) -> Tensor:
        """float ``(B, 3, H, W)`` to ``(B, channels_out, H / 16, W / 16)``."""
        features: Tensor = self.stages(x)
        return features


def build_backbone(config: ModelConfig) -> ResNet | PlainBackbone:
    """The backbone a configuration names.

    Raises:
        UsageError: there is none of that name.
    """
    if config.backbone == "plain":
        return PlainBackbone(config.plain_channels, config.plain_blocks)
    if config.backbone in _RESNET_BLOCKS:
        return ResNet(config.backbone)
    known = ", ".join(["plain", *_RESNET_BLOCKS])
    raise UsageError(f"there is no backbone {config.backbone!r}; backbones are {known}")
