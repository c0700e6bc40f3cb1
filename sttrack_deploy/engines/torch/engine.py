"""PyTorch: the reference every other back end is compared with, and its compiled version (for comparison only)."""

from __future__ import annotations

import os
import shutil
from typing import cast

import numpy as np
import torch

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import Arrays, BoolArray, EngineState, Prediction, UInt8Array, check_process
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.files import sha256_of
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.corner_network import StepOutput
from sttrack_deploy.models.dense_network import DenseStep
from sttrack_deploy.models.network import Network

__all__ = ["CompiledTorchEngine", "TorchEngine", "create", "create_compiled", "devices"]


class TorchEngine:
    """Runs the network itself; a track's state is the network's own named tuple."""

    name = "torch"

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        self._process = os.getpid()

    @torch.inference_mode()
    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        check_process(self.name, self._process)
        return self._network.initial_state(
            torch.from_numpy(template).to(self._device), torch.from_numpy(mask).to(self._device)
        )

    @torch.inference_mode()
    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        check_process(self.name, self._process)
        output, after = self._network.step(
            torch.from_numpy(search).to(self._device), torch.from_numpy(mask).to(self._device), state
        )
        return Prediction(output.box.cpu().numpy(), output.confidence.cpu().numpy()), after

    def export_state(self, state: EngineState) -> Arrays:
        return {name: np.array(tensor.cpu().numpy()) for name, tensor in state._asdict().items()}

    def import_state(self, arrays: Arrays) -> EngineState:
        kind = self._network.state_type
        if set(arrays) != set(kind._fields):
            raise UsageError(
                f"the state holds {', '.join(sorted(arrays)) or 'nothing'}; the network needs "
                f"{', '.join(kind._fields)}"
            )
        return kind(
            **{name: torch.from_numpy(value.copy()).to(self._device) for name, value in arrays.items()}
        )

    def describe(self) -> dict[str, str]:
        return {
            "engine": self.name,
            "version": torch.__version__,
            "device": self._device,
            "threads": str(torch.get_num_threads()),
        }


def create(bundle: Bundle, threads: int | None) -> TorchEngine:
    """The network that the bundle was exported from, from the weights that lie in it.

    Raises:
        UserError: the weights are missing or altered.
        MissingDependencyError: safetensors is not installed.
    """
    try:
        from sttrack_deploy.models.weights import load_weights
    except ImportError as error:
        raise MissingDependencyError(
            error.name or "safetensors", "the engine 'torch'", "pip install safetensors"
        ) from error
    path, recorded = bundle.weights_path, bundle.manifest.weights.get("sha256")
    if not recorded or not path.is_file():
        raise UserError(f"the bundle {bundle.path} has no weights for the torch engine; export it again")
    if sha256_of(path) != recorded:
        raise UserError(f"{path} was altered: its SHA-256 is not the manifest's; copy the bundle again")
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchEngine(
        load_weights(path, ModelConfig.from_dict(bundle.manifest.model, f"the model of {bundle.path}"))
    )


def devices() -> list[str]:
    """Devices that PyTorch can use here."""
    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *cuda]


class CompiledTorchEngine(TorchEngine):
    """The search step compiled with fixed shapes; the template graph stays eager, it runs once a target."""

    name = "torch-compile"

    def __init__(self, eager: TorchEngine) -> None:
        super().__init__(eager._network)
        self._compiled = torch.compile(self._network.step, fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        output, after = self._compiled(torch.from_numpy(search), torch.from_numpy(mask), state)
        step = cast(StepOutput | DenseStep, output)
        return Prediction(step.box.numpy(), step.confidence.numpy()), after


def create_compiled(bundle: Bundle, threads: int | None) -> CompiledTorchEngine:
    """The network of a bundle's weights, compiled at its first step (half a minute).

    Raises:
        UserError: see ``engine.create``; or there is no C++ compiler, which it needs.
    """
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise UserError("the engine 'torch-compile' needs a C++ compiler: apt-get install g++")
    return CompiledTorchEngine(create(bundle, threads))
