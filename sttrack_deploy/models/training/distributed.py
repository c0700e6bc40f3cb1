"""The processes of one training run, as torch's launcher starts them, and what they tell each other.

``torchrun --nproc_per_node N -m sttrack_deploy.cli.train ...`` starts N equal processes on each machine and
describes them in environment variables. Without those there is one process, and nothing here does anything.

Batch norm runs over the batches of all processes. Each process normalizing by its own few clips would train another
network than one process with all of them, and the processes' running statistics would drift apart. torch's
``SyncBatchNorm`` runs on GPUs only and knows nothing of the statistics that
:class:`~sttrack_deploy.models.backbone.RoleBatchNorm2d` keeps for templates; this does both wherever ``all_reduce``
runs, and leaves running statistics that are equal in all processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.backbone import RoleBatchNorm2d

__all__ = ["ALONE", "Processes", "launched_processes", "synchronize_batch_norm"]


T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others: reading a large data set for the first time takes long."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among the ``count`` of a run; all methods but the properties are called by all of them.

    Attributes:
        rank: of this process, from 0.
        count: of all.
        on_node: number of this process among those of its machine, from 0.
        device: where it trains.
        launched: by torch's launcher, which passes signals on.
    """

    rank: int = 0
    count: int = 1
    on_node: int = 0
    device: str = "cpu"
    launched: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def average(self, values: Tensor) -> Tensor:
        """The mean over the processes of a tensor; no gradient passes."""
        if self.count == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def highest(self, value: int) -> int:
        """The largest of the processes' numbers; goes through the CPU, so that no process waits for its GPU."""
        if self.count == 1:
            return value
        number = torch.tensor(value)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def gather(self, thing: T) -> list[T]:
        """What each process gave, by rank; anything that can be pickled."""
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        dist.all_gather_object(things, thing)
        return things

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the main process, in all of them; its :class:`UserError` too."""
        if self.count == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = make()
            except UserError as error:
                answer[1] = str(error)
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise UserError(answer[1])
        return cast(T, answer[0])

    def wait_for_all(self) -> None:
        """Go on when all processes have come here."""
        self.highest(0)

    @contextlib.contextmanager
    def first_on_each_node(self) -> Iterator[None]:
        """One process of each machine runs the block before the others do: it fills caches that they read."""
        if self.on_node:
            self.wait_for_all()
        yield
        if not self.on_node:
            self.wait_for_all()

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes, each of which starts from the main one's weights.

        Buffers are not sent around after the start: synchronized batch norm keeps them equal.
        """
        if self.count == 1:
            return module
        return nn.parallel.DistributedDataParallel(
            module, forward_sync_buffers=False, gradient_as_bucket_view=True
        )


ALONE = Processes()


@contextlib.contextmanager
def launched_processes(device: str) -> Iterator[Processes]:
    """Join the run that the launcher's environment variables describe, and leave it at the end.

    Args:
        device: ``cpu``; ``cuda``, of which each process takes the one of its number on its machine; or one device.

    Raises:
        UserError: the device is not there, or another process ended while this one waited for it.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    on_node = int(os.environ.get("LOCAL_RANK", "0"))
    kind = _kind(device)
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"there is no CUDA device for --device {device}: --device cpu trains without one")
    if kind == "cuda" and (count > 1 or device == "cuda"):
        if on_node >= torch.cuda.device_count():
            raise UserError(
                f"process {on_node} of this machine has no GPU: it has {torch.cuda.device_count()}, "
                "so many is the most for --nproc_per_node"
            )
        device = f"cuda:{on_node}"
    _check(device)
    if kind == "cuda":
        torch.cuda.set_device(device)
    if count == 1:
        yield Processes(device=device, launched="WORLD_SIZE" in os.environ)
        return
    # Numbers that decide when to stop go over gloo, tensors on GPUs over NCCL.
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), count, on_node, device, launched=True)
    except RuntimeError as error:
        # gloo has no error of its own.
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise UserError(
                "another process of this run ended, and with it this one; the same command goes on from the last "
                "checkpoint"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def _check(device: str) -> None:
    """Whether numbers can be put there and read back: not so on ``meta``, or where the driver is missing."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise UserError(f"there is no device {device!r} to train on: cpu, cuda or cuda:0 are") from error


def _kind(device: str) -> str:
    try:
        return torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"there is no device {device!r}: cpu, cuda or cuda:0 are") from error


def synchronize_batch_norm(network: nn.Module) -> None:
    """Make all trainable batch norm of the network normalize over the processes; parameters and keys stay.

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


def _normalize(x: Tensor, norm: nn.BatchNorm2d, running_mean: Tensor, running_var: Tensor) -> Tensor:
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
        return _normalize(x, self, self.running_mean, self.running_var)


class _SyncedRoleBatchNorm2d(RoleBatchNorm2d):
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor, template: bool = False) -> Tensor:
        if not self.training:
            return super().forward(x, template)
        if template:
            return _normalize(x, self, self.template_mean, self.template_var)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return _normalize(x, self, self.running_mean, self.running_var)
