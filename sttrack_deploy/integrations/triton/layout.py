"""Names and configurations of the models in the repository: what the exporter writes and the client relies on.

Two models. ``sttrack_template`` is the template graph. ``sttrack_search`` is the search graph, whose state stays in the
server (sequence batching with implicit state): a sequence is a track. The first request of a sequence brings the
state to start from, which is what the template model answered, or what any engine exported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sttrack_deploy.bundle import BOX, CONFIDENCE, SEARCH_IMAGE, SEARCH_MASK, Manifest, StateSpec, TensorSpec
from sttrack_deploy.errors import UsageError

__all__ = [
    "SEARCH",
    "START",
    "TEMPLATE",
    "ServerOptions",
    "given_name",
    "kept_name",
    "next_name",
    "search_config",
    "state_bytes",
    "state_tensor",
    "template_config",
    "to_pbtxt",
]

TEMPLATE, SEARCH = "sttrack_template", "sttrack_search"
START = "start"
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}
Config = Mapping[str, Any]


class Word(str):
    """An enumeration's value, which stands without quotes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the server runs the models.

    Attributes:
        tracks: sequences that it keeps at once; more wait until one ends or is idle for too long.
        max_batch: tracks in one call of the graph, where the bundle's batch is dynamic.
        idle_seconds: a track without a frame for so long is forgotten.
        instances: copies of each model that run side by side.
        gpu: whether they run on GPUs, by ONNX Runtime's CUDA provider.
    """

    tracks: int = 256
    max_batch: int = 16
    idle_seconds: float = 60.0
    instances: int = 1
    gpu: bool = False


def given_name(spec: StateSpec) -> str:
    """Input with the state to start from; read in a sequence's first request alone."""
    return f"{spec.name}_given"


def kept_name(spec: StateSpec) -> str:
    """Input that the server fills with what it kept."""
    return f"{spec.name}_kept"


def next_name(spec: StateSpec) -> str:
    """Output that the server keeps."""
    return spec.output if spec.output is not None else f"{spec.name}_next"


def state_tensor(manifest: Manifest, spec: StateSpec) -> TensorSpec:
    """Type and shape of a state tensor."""
    return next(port for port in manifest.search.inputs if port.name == spec.input)


def state_bytes(manifest: Manifest) -> int:
    """Bytes of one track's state."""
    total = 0
    for spec in manifest.state:
        tensor = state_tensor(manifest, spec)
        total += math.prod(int(axis) for axis in tensor.shape[1:]) * np.dtype(tensor.dtype).itemsize
    return total


def template_config(manifest: Manifest, options: ServerOptions) -> Config:
    """Of ``sttrack_template``, whose requests of different clients form batches."""
    batched = _batched(manifest)
    config = {
        **_common(TEMPLATE, options, batched),
        "input": [_port(port, batched) for port in manifest.template.inputs],
        "output": [_port(port, batched) for port in manifest.template.outputs],
    }
    return {**config, "dynamic_batching": {"max_queue_delay_microseconds": 1000}} if batched else config


def search_config(manifest: Manifest, options: ServerOptions) -> Config:
    """Of ``sttrack_search``."""
    batched = _batched(manifest)
    ports = {port.name: port for port in (*manifest.search.inputs, *manifest.search.outputs)}
    tensors = [(spec, state_tensor(manifest, spec)) for spec in manifest.state]
    given = [_port(tensor, batched, given_name(spec)) for spec, tensor in tensors]
    confidence = {"name": CONFIDENCE, "data_type": Word(_TYPES[ports[CONFIDENCE].dtype]), "dims": [1]}
    states = [_state(spec, _port(tensor, batched)) for spec, tensor in tensors]
    # "oldest": whichever tracks have a frame waiting form the next batch. With "direct" each track would own a place
    # in a batch, and a place whose track has no frame would be computed for nothing.
    oldest: dict[str, Any] = {"max_candidate_sequences": options.tracks}
    if batched:
        oldest["max_queue_delay_microseconds"] = 1000
    return {
        **_common(SEARCH, options, batched),
        "input": [_port(ports[name], batched) for name in (SEARCH_IMAGE, SEARCH_MASK)] + given,
        "output": [_port(ports[BOX], batched), confidence],
        "sequence_batching": {
            "max_sequence_idle_microseconds": round(options.idle_seconds * 1e6),
            "oldest": oldest,
            "control_input": [
                {
                    "name": START,
                    "control": [{"kind": Word("CONTROL_SEQUENCE_START"), "bool_false_true": [False, True]}],
                }
            ],
            "state": states,
        },
    }


def to_pbtxt(config: Config, depth: int = 0) -> str:
    """A configuration as protobuf's text format."""
    lines = []
    for name, value in config.items():
        for item in value if isinstance(value, list) else [value]:
            pad = "  " * depth
            if isinstance(item, Mapping):
                lines.append(f"{pad}{name} {{\n{to_pbtxt(item, depth + 1)}{pad}}}\n")
            else:
                lines.append(f"{pad}{name}: {item if isinstance(item, Word) else json.dumps(item)}\n")
    return "".join(lines)


def _batched(manifest: Manifest) -> bool:
    """Whether the server may form batches.

    Raises:
        UsageError: each call takes several targets, which the server could not fill up.
    """
    if manifest.batch not in ("dynamic", 1):
        raise UsageError(
            f"the bundle {manifest.name} takes {manifest.batch} targets in every call; a server forms its batches "
            "itself: export one with sttrack-export --batch dynamic"
        )
    return manifest.batch == "dynamic"


def _common(name: str, options: ServerOptions, batched: bool) -> dict[str, Any]:
    kind = Word("KIND_GPU" if options.gpu else "KIND_CPU")
    return {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": options.max_batch if batched else 0,
        "instance_group": [{"kind": kind, "count": options.instances}],
    }


def _port(tensor: TensorSpec, batched: bool, name: str | None = None) -> dict[str, Any]:
    shape = tensor.shape[1:] if batched else tensor.shape
    return {"name": name or tensor.name, "data_type": Word(_TYPES[tensor.dtype]), "dims": list(shape)}


def _state(spec: StateSpec, port: dict[str, Any]) -> dict[str, Any]:
    kind, dims = port["data_type"], port["dims"]
    # Zeros, which the first request replaces: the graph takes what is given where START is set.
    zeros = {
        "name": f"{spec.name} before the first request",
        "data_type": kind,
        "dims": dims,
        "zero_data": True,
    }
    return {
        "input_name": kept_name(spec),
        "output_name": next_name(spec),
        "data_type": kind,
        "dims": dims,
        "initial_state": [zeros],
    }
