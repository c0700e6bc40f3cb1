"""PyTorch's own answer to "make it faster": the same network through ``torch.compile``. For comparison only."""

from __future__ import annotations

import shutil

import torch

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import BoolArray, EngineState, Prediction, UInt8Array
from sttrack_deploy.engines.torch_engine import TorchEngine
from sttrack_deploy.engines.torch_engine import create as create_eager
from sttrack_deploy.errors import UserError

__all__ = ["CompiledTorchEngine", "create"]


class CompiledTorchEngine(TorchEngine):
    """The search step compiled with fixed shapes; the template graph stays eager, it runs once a target."""

    name = "torch-compile"

    def __init__(self, eager: TorchEngine) -> None:
        super().__init__(eager._network)
        self._compiled = torch.compile(self._network.step, fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        output, after = self._compiled(torch.from_numpy(search), torch.from_numpy(mask), state)
        corners = output.corners
        return Prediction(corners.box.numpy(), corners.confidence.numpy()), after


def create(bundle: Bundle, threads: int | None) -> CompiledTorchEngine:
    """The network of a bundle's weights, compiled at its first step (half a minute).

    Raises:
        UserError: see ``torch_engine.create``; or there is no C++ compiler, which it needs.
    """
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise UserError("the engine 'torch-compile' needs a C++ compiler: apt-get install g++")
    return CompiledTorchEngine(create_eager(bundle, threads))
