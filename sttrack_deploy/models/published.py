"""Published checkpoints and experiment files: ``{'net': state_dict}`` plus the experiment's YAML."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.manifest import plain_name
from sttrack_deploy.models.checkpoint_file import check_usable, few, read_weights
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.records import read_text, show

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
    weights = read_weights(checkpoint)
    expected = published_keys(network)
    own = network.state_dict()
    # Counters of batch norm, which training frameworks add and frozen norms have not.
    weights = {k: v for k, v in weights.items() if k in expected or not k.endswith("num_batches_tracked")}
    weights = {
        k: own[names[0]] for k, names in expected.items() if k.endswith("num_batches_tracked")
    } | weights
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
            f"({len(problems)} problem{'s' if len(problems) > 1 else ''}): {few(problems)}. "
            "Give the experiment file it was trained with: --config EXPERIMENT.yaml"
        )
    check_usable(checkpoint, weights)
    state: dict[str, Tensor] = {}
    for key, names in expected.items():
        parts = weights[key].chunk(len(names), dim=0) if len(names) > 1 else (weights[key],)
        state.update(zip(names, parts, strict=True))
    network.load_state_dict(state)


class _YamlLoader(yaml.SafeLoader):
    """Without aliases, a few of which can stand for more text than there is memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses aliases (*name), which an experiment file has no need of")
        return super().compose_node(parent, index)


def config_from_yaml(path: Path, notice: Callable[[str], None] = lambda _: None) -> ModelConfig:
    """The network of a published experiment file (``experiments/sttrack/<name>.yaml``).

    Such files name what differs from the training code's defaults; what they leave out has the published value.

    Args:
        notice: told which settings were left out, in one line.

    Raises:
        UserError: not readable, not YAML, or a value is one this network has not.
    """
    text = read_text(path, "the experiment file")
    try:
        data = yaml.load(text, _YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a YAML file: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(data, dict) or not isinstance(data.get("MODEL"), dict):
        raise UserError(f"{path} is not an STTrack experiment file: it has no MODEL with settings below it")
    missing: list[str] = []

    def setting(key: str, default: Any) -> Any:
        value: Any = data
        for part in key.split("."):
            if not isinstance(value, dict):
                raise UserError(f"{path} is not an STTrack experiment file: {key} is below {show(value)}")
            if part not in value:
                missing.append(f"{key} {show(default)}")
                return default
            value = value[part]
        return value

    for key, only in _ONLY.items():
        value = setting(key, only)
        if value != only:
            raise UserError(f"{path}: {key} is {show(value)}; this network has only {only!r}")
    missing.clear()  # what there is only one of need not be told
    name = plain_name(path.stem)
    published = ModelConfig(name=name)
    values = {field: setting(key, getattr(published, field)) for field, key in _SETTINGS.items()}
    values = {key: _number(value) for key, value in values.items()}
    config = ModelConfig.from_dict({"name": name, **values}, str(path))
    if missing:
        notice(f"{path} leaves out {', '.join(missing)}: the published values are taken")
    return config


_ONLY: dict[str, Any] = {
    "MODEL.HEAD_TYPE": "CORNER",
    "MODEL.POSITION_EMBEDDING": "sine",
    "MODEL.NUM_OBJECT_QUERIES": 1,
    "MODEL.BACKBONE.DILATION": False,
    "MODEL.BACKBONE.OUTPUT_LAYERS": ["layer3"],
    "MODEL.TRANSFORMER.PRE_NORM": False,
    "MODEL.TRANSFORMER.DIVIDE_NORM": False,
    "MODEL.CFA.PRE_NORM": False,
}
_SETTINGS = {
    "backbone": "MODEL.BACKBONE.TYPE",
    "hidden_dim": "MODEL.HIDDEN_DIM",
    "heads": "MODEL.TRANSFORMER.NHEADS",
    "feedforward_dim": "MODEL.TRANSFORMER.DIM_FEEDFORWARD",
    "encoder_layers": "MODEL.TRANSFORMER.ENC_LAYERS",
    "decoder_layers": "MODEL.TRANSFORMER.DEC_LAYERS",
    "memory_layers": "MODEL.CFA.LAYERS",
    "memory_heads": "MODEL.CFA.NHEADS",
    "memory_feedforward_dim": "MODEL.CFA.DIM_FEEDFORWARD",
    "head_dim": "MODEL.HEAD_DIM",
    "dropout": "MODEL.TRANSFORMER.DROPOUT",
    "template_size": "TEST.TEMPLATE_SIZE",
    "template_factor": "TEST.TEMPLATE_FACTOR",
    "search_size": "TEST.SEARCH_SIZE",
    "search_factor": "TEST.SEARCH_FACTOR",
    "mean": "DATA.MEAN",
    "std": "DATA.STD",
}


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as a text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
