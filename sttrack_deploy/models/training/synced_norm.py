"""Batch norm over the batches of all processes.

Each process normalising by its own few clips would train another network than one process with all of them, and
the processes' running statistics would drift apart. torch's ``SyncBatchNorm`` runs on GPUs only and knows nothing
of the statistics that :class:`~sttrack_deploy.models.backbone.RoleBatchNorm2d` keeps for templates; this does both
wherever ``all_reduce`` runs, and leaves running statistics that are equal in all processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sttrack_deploy.models.backbone import RoleBatchNorm2d

__all__ = ["synchronise_batch_norm"]


def synchronise_batch_norm(network: nn.Module) -> None:
    """Make all trainable batch norm of the network normalise over the processes; parameters and keys stay.

    All processes must give it equally large batches.
    """
    for module in network.modules():
        # The class is changed in place: state, hooks and whoever refers to the module stay as they are.
        if type(module) is RoleBatchNorm2d:
            module.__class__ = _SyncedRoleBatchNorm2d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = _SyncedBatchNorm2d


class _Average(torch.autograd.Function):
    """Mean over the processes; so is its gradient."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        del context  # the mean's gradient needs nothing from here
        return _averaged(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        del context
        return _averaged(gradient)


def _averaged(values: Tensor) -> Tensor:
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _normalise(x: Tensor, norm: nn.BatchNorm2d, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """``x`` float ``(B, C, H, W)`` by the statistics of all processes' ``x``; the running ones ``(C,)`` follow."""
    var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    # In float64, since the difference of squares cancels.
    mean, var = mean.double(), var.double()
    shared: Tensor = _Average.apply(torch.stack((mean, var + mean.square())))  # type: ignore[no-untyped-call]
    mean = shared[0]
    var = shared[1] - mean.square()
    count = x.numel() / x.shape[1] * dist.get_world_size()
    momentum = 0.1 if norm.momentum is None else norm.momentum
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / max(1.0, count - 1))).to(running_var.dtype), momentum)
    scale = norm.weight * (var + norm.eps).rsqrt().to(norm.weight.dtype)
    shift = norm.bias - mean.to(norm.bias.dtype) * scale
    return (x.float() * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


class _SyncedBatchNorm2d(nn.BatchNorm2d):
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return _normalise(x, self, self.running_mean, self.running_var)


class _SyncedRoleBatchNorm2d(RoleBatchNorm2d):
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor, template: bool = False) -> Tensor:
        if not self.training:
            return super().forward(x, template)
        if template:
            return _normalise(x, self, self.template_mean, self.template_var)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return _normalise(x, self, self.running_mean, self.running_var)
