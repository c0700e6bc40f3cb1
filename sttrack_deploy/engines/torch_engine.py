"""PyTorch: the reference every other back end is compared with."""

from __future__ import annotations

import torch

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.base import BoolArray, EngineState, Prediction, UInt8Array
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.files import sha256_of
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.network import STTrack

__all__ = ["TorchEngine", "create", "devices"]


class TorchEngine:
    """Runs the network itself; a track's state is a :class:`~sttrack_deploy.models.network.TrackState`."""

    name = "torch"

    def __init__(self, network: STTrack, device: str = "cpu") -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device

    @torch.inference_mode()
    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        return self._network.initial_state(
            torch.from_numpy(template).to(self._device), torch.from_numpy(mask).to(self._device)
        )

    @torch.inference_mode()
    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        output, after = self._network.step(
            torch.from_numpy(search).to(self._device), torch.from_numpy(mask).to(self._device), state
        )
        corners = output.corners
        return Prediction(corners.box.cpu().numpy(), corners.confidence.cpu().numpy()), after

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
    return TorchEngine(load_weights(path, ModelConfig.from_dict(bundle.manifest.model)))


def devices() -> list[str]:
    """Devices that PyTorch can use here."""
    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *cuda]
