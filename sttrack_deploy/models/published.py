"""Published checkpoints and experiment files: ``{'net': state_dict}`` plus the experiment's YAML."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.network import STTrack

__all__ = ["config_from_yaml", "load_published", "published_keys"]

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.", "backbone.0.body."),
    (r"^encoder\.", "transformer.encoder."),
    (r"^decoder\.", "transformer.decoder."),
    (r"^memory_attention\.", "update_head.decoder."),
    (r"\.self_attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".multihead_attn."),
    (r"\.feed_forward\.", "."),
    (r"^query_embed$", "query_embed.weight"),
)
_BRANCHES = {"top_left": "tl", "bottom_right": "br"}


def _published_name(name: str) -> str:
    """Our parameter name to the published one; projections q, k, v all map to their packed tensor."""
    head = re.match(r"^head\.(top_left|bottom_right)\.(?:blocks\.(\d)\.(conv|norm)|score)\.(\w+)$", name)
    if head:
        branch, block, part, leaf = head.groups()
        if block is None:
            return f"box_head.conv5_{_BRANCHES[branch]}.{leaf}"
        return f"box_head.conv{int(block) + 1}_{_BRANCHES[branch]}.{0 if part == 'conv' else 1}.{leaf}"
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"\.[qkv]_proj\.(weight|bias)$", r".in_proj_\1", name)


def published_keys(network: STTrack) -> dict[str, list[str]]:
    """Published key to our parameters, in the order in which they are packed along the first axis."""
    packed: dict[str, list[str]] = {}
    for name in network.state_dict():
        packed.setdefault(_published_name(name), []).append(name)
    order = {"q": 0, "k": 1, "v": 2}
    for names in packed.values():
        if len(names) > 1:
            names.sort(key=lambda n: order[re.search(r"\.([qkv])_proj\.", n).group(1)])  # type: ignore[union-attr]
    return packed


def load_published(network: STTrack, checkpoint: Path) -> None:
    """Fill ``network`` from a published checkpoint, strictly.

    Raises:
        UserError: the file is missing or not a checkpoint, would run code when loaded, or its keys or
            shapes are not the network's; every one of them is named.
    """
    weights = _read_checkpoint(checkpoint)
    expected = published_keys(network)
    own = network.state_dict()
    shapes = {
        key: (sum(own[n].shape[0] for n in names), *own[names[0]].shape[1:]) if own[names[0]].ndim else ()
        for key, names in expected.items()
    }
    problems = [f"unexpected key {key} {tuple(weights[key].shape)}" for key in weights if key not in expected]
    problems += [f"missing key {key} {shape}" for key, shape in shapes.items() if key not in weights]
    problems += [
        f"{key} has shape {tuple(weights[key].shape)}, the configuration wants {shape}"
        for key, shape in shapes.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    if problems:
        raise UserError(
            f"{checkpoint} does not fit the configuration '{network.config.name}' "
            f"({len(problems)} problem{'s' if len(problems) > 1 else ''}): {'; '.join(problems)}. "
            "Give the experiment file it was trained with: --config EXPERIMENT.yaml"
        )
    state: dict[str, Tensor] = {}
    for key, names in expected.items():
        parts = weights[key].chunk(len(names), dim=0) if len(names) > 1 else (weights[key],)
        state.update(zip(names, parts, strict=True))
    network.load_state_dict(state)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The ``net`` dictionary of a published checkpoint, tensors only."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        # weights_only refuses every pickle that would run code.
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} was refused: it holds more than plain tensors and loading it could run code ({reason}). "
            "Save it again with torch.save({'net': model.state_dict()}, FILE)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} is not a PyTorch checkpoint, or is cut short or corrupt ({reason})"
        ) from error
    net = data.get("net") if isinstance(data, Mapping) else None
    if not isinstance(net, Mapping) or not net or not all(isinstance(v, Tensor) for v in net.values()):
        keys = sorted(map(str, data))[:8] if isinstance(data, Mapping) else type(data).__name__
        raise UserError(
            f"{path} is not a published checkpoint: expected {{'net': state_dict}}, found {keys}. "
            "Save it again with torch.save({'net': model.state_dict()}, FILE)"
        )
    return {str(key): value for key, value in net.items()}


def config_from_yaml(path: Path) -> ModelConfig:
    """The network of a published experiment file (``experiments/sttrack/<name>.yaml``).

    Raises:
        UserError: not readable, not YAML, a key is missing or a value is one this network has not.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the experiment file {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    try:
        model, tokens, update = data["MODEL"], data["MODEL"]["TRANSFORMER"], data["MODEL"]["CFA"]
        test, published = data["TEST"], ModelConfig(name=path.stem)
        unsupported = {
            "MODEL.HEAD_TYPE": (model.get("HEAD_TYPE", "CORNER"), "CORNER"),
            "MODEL.POSITION_EMBEDDING": (model.get("POSITION_EMBEDDING", "sine"), "sine"),
            "MODEL.NUM_OBJECT_QUERIES": (model.get("NUM_OBJECT_QUERIES", 1), 1),
            "MODEL.BACKBONE.DILATION": (model["BACKBONE"].get("DILATION", False), False),
            "MODEL.BACKBONE.OUTPUT_LAYERS": (model["BACKBONE"].get("OUTPUT_LAYERS", ["layer3"]), ["layer3"]),
            "MODEL.TRANSFORMER.PRE_NORM": (tokens.get("PRE_NORM", False), False),
            "MODEL.TRANSFORMER.DIVIDE_NORM": (tokens.get("DIVIDE_NORM", False), False),
            "MODEL.CFA.PRE_NORM": (update.get("PRE_NORM", False), False),
        }
        for key, (value, allowed) in unsupported.items():
            if value != allowed:
                raise UserError(f"{path}: {key} is {value!r}; this network has only {allowed!r}")
        return ModelConfig(
            name=path.stem,
            backbone=str(model["BACKBONE"]["TYPE"]),
            hidden_dim=int(model["HIDDEN_DIM"]),
            heads=int(tokens["NHEADS"]),
            feedforward_dim=int(tokens["DIM_FEEDFORWARD"]),
            encoder_layers=int(tokens["ENC_LAYERS"]),
            decoder_layers=int(tokens["DEC_LAYERS"]),
            memory_layers=int(update["LAYERS"]),
            memory_heads=int(update["NHEADS"]),
            memory_feedforward_dim=int(update["DIM_FEEDFORWARD"]),
            head_dim=int(model.get("HEAD_DIM", published.head_dim)),
            dropout=float(tokens.get("DROPOUT", published.dropout)),
            template_size=int(test["TEMPLATE_SIZE"]),
            template_factor=float(test["TEMPLATE_FACTOR"]),
            search_size=int(test["SEARCH_SIZE"]),
            search_factor=float(test["SEARCH_FACTOR"]),
            mean=_triple(data["DATA"]["MEAN"]),
            std=_triple(data["DATA"]["STD"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is not an STTrack experiment file: {what}") from error


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue
