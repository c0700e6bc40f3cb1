"""What a run starts from: fresh weights, a checkpoint, or a backbone that was trained on something else."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.network import STTrack
from sttrack_deploy.models.published import load_published
from sttrack_deploy.models.weights import load_weights

__all__ = ["fresh_network", "load_backbone", "load_initial"]


def fresh_network(config: ModelConfig, seed: int) -> STTrack:
    """A network with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = STTrack(config)
    # Attention then begins as similarity of tokens, which is what matching a template to a search region
    # needs; from random projections it first has to be found.
    for layer in network.encoder.layers:
        attention = layer.self_attention
        attention.k_proj.load_state_dict(attention.q_proj.state_dict())  # type: ignore[union-attr]
    return network


def load_initial(path: Path, config: ModelConfig) -> STTrack:
    """A network with the weights of one of our ``.safetensors`` files or of a published checkpoint.

    Raises:
        UserError: it is missing, neither, or does not fit the configuration.
    """
    if path.suffix == ".safetensors":
        loaded = load_weights(path, config)
        if not isinstance(loaded, STTrack):
            raise UserError(
                f"{path} has a dense head, which is trained in closed loop: give a recipe with a [closed_loop] table"
            )
        return loaded
    network = STTrack(config)
    load_published(network, path)
    return network


def load_backbone(network: STTrack, path: Path) -> None:
    """Fill the network's ResNet from a classifier's weights in torchvision's names (``conv1.weight``, ``layer1.0...``).

    What a tracker does not have (the last stage, the classifier) is left out.

    Raises:
        UserError: the file is missing or not one of tensors only, or lacks a part of the backbone.
    """
    weights = _read_tensors(path)
    own = network.backbone.state_dict()
    fitting = {
        name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape
    }
    missing = [name for name in own if name not in fitting]
    if missing:
        raise UserError(
            f"{path} does not fit the backbone '{network.config.backbone}': {len(missing)} of its {len(own)} tensors "
            f"are missing or of another shape, the first is {missing[0]} {tuple(own[missing[0]].shape)}"
        )
    network.backbone.load_state_dict(fitting)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"there is no file {path} with a backbone's weights")
    try:
        data: Any = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a PyTorch file of plain tensors ({reason})") from error
    if isinstance(data, Mapping) and isinstance(data.get("state_dict"), Mapping):
        data = data["state_dict"]
    if not isinstance(data, Mapping) or not all(isinstance(v, Tensor) for v in data.values()):
        raise UserError(f"{path} holds no dictionary of tensors")
    return {str(name): value for name, value in data.items()}
