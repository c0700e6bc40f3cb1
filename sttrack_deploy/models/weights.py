"""The project's own weights: safetensors with the network's configuration in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.checkpoint_file import check_usable, few
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.network import Network, build_network
from sttrack_deploy.records import parse_json

__all__ = ["load_weights", "read_config", "save_weights"]

_CONFIG_KEY = "sttrack_config"


def save_weights(
    path: Path, config: ModelConfig, state: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    """Write weights; equal weights, configuration and notes give byte-identical files.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        # One metadata entry only: the library writes several in an order that changes from run to run.
        payload = {"config": config.to_dict(), "notes": dict(notes or {})}
        save_file(tensors, str(temporary), metadata={_CONFIG_KEY: json.dumps(payload, sort_keys=True)})
        temporary.chmod(0o644)  # the library writes for the owner alone


def read_config(path: Path) -> ModelConfig:
    """The configuration stored in a weights file.

    Raises:
        UserError: missing, not safetensors, or without a configuration.
    """
    return _open(path)[0]


def load_weights(path: Path, config: ModelConfig | None = None) -> Network:
    """A network in evaluation mode with the file's weights.

    Args:
        config: use this instead of the stored one (it must have the same parameters).

    Raises:
        UserError: missing, not safetensors, or its keys or shapes are not the configuration's.
    """
    stored, tensors = _open(path)
    network = build_network(stored if config is None else config)
    expected = network.state_dict()
    problems = [f"unexpected key {key}" for key in tensors if key not in expected]
    problems += [f"missing key {key} {tuple(v.shape)}" for key, v in expected.items() if key not in tensors]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)}, the configuration wants {tuple(v.shape)}"
        for key, v in expected.items()
        if key in tensors and tensors[key].shape != v.shape
    ]
    if problems:
        raise UserError(f"{path} does not fit its configuration: {few(problems)}")
    check_usable(path, tensors)
    network.load_state_dict(tensors)
    return network.eval()


def _open(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # it fails in many ways
        raise UserError(f"{path} is not a safetensors file, or is cut short or corrupt ({error})") from error
    if _CONFIG_KEY not in metadata:
        raise UserError(
            f"{path} holds no '{_CONFIG_KEY}' in its metadata: it was not written by sttrack-deploy"
        )
    payload = parse_json(metadata[_CONFIG_KEY], f"the configuration in {path}")
    config = payload.get("config") if isinstance(payload, dict) else None
    return ModelConfig.from_dict(config, f"the configuration in {path}"), tensors  # type: ignore[arg-type]
