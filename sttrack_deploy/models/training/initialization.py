"""What a run starts from: fresh weights, a checkpoint, or a backbone that was trained on something else."""

from __future__ import annotations

from pathlib import Path

import torch

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.checkpoint_file import check_usable, read_weights
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.corner_network import STTrack
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
        UserError: the file is missing or not one of weights, or lacks a part of the backbone.
    """
    weights = read_weights(path)
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
    check_usable(path, fitting)
    network.backbone.load_state_dict(fitting)
