"""A tracker's state as bytes: what one process exports and another one, on another engine, goes on from.

Eight bytes that say what it is, the length of a header (4 bytes, little-endian), the header (JSON), the tensors one
after the other. Nothing in it is code, and nothing is read before its size is known to fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle, Manifest, TrackingPolicy
from sttrack_deploy.errors import UserError
from sttrack_deploy.records import Within, fill, parse_json
from sttrack_deploy.runtime.target import TargetMemory

__all__ = ["TrackerState", "pack", "unpack"]

MAGIC = b"STTRACK\x01"
VERSION: Final = 3
MOST_HEADER = 4 << 20
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TrackerState:
    """Everything that a tracker carries from frame to frame.

    Attributes:
        frame: height and width of the frames, pixels.
        policy: what is done with the confidence.
        targets: what is known of each.
        arrays: the network's state by the manifest's names, ``(targets, ...)`` each.
    """

    frame: tuple[int, int]
    policy: TrackingPolicy
    targets: tuple[TargetMemory, ...]
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class _Header:
    version: Literal[3]
    model: str
    network: str
    frame: tuple[Annotated[int, Within(1, 1 << 16)], Annotated[int, Within(1, 1 << 16)]]
    policy: TrackingPolicy
    targets: tuple[TargetMemory, ...]
    sha256: str


def pack(state: TrackerState, bundle: Bundle) -> bytes:
    """The bytes of a state; the same state gives the same bytes."""
    data = b"".join(np.ascontiguousarray(state.arrays[spec.name]).tobytes() for spec in bundle.manifest.state)
    header = _Header(
        VERSION,
        bundle.manifest.name,
        _network(bundle.manifest),
        state.frame,
        state.policy,
        state.targets,
        hashlib.sha256(data).hexdigest(),
    )
    text = json.dumps(dataclasses.asdict(header), sort_keys=True, separators=(",", ":")).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + data


def unpack(data: bytes, bundle: Bundle) -> TrackerState:
    """The reverse of :func:`pack`.

    Raises:
        UserError: not such bytes, of another version, damaged, or of a bundle with other weights, crops or state.
    """
    start = len(MAGIC) + 4
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise UserError("these bytes are not a tracker's state: they come from export_state() of a tracker")
    (length,) = struct.unpack("<I", data[len(MAGIC) : start])
    if length > MOST_HEADER or start + length > len(data):
        raise UserError("the tracker's state is cut off: export it again")
    where = "the tracker's state"
    try:
        text = data[start : start + length].decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is damaged: export it again") from error
    values = parse_json(text, where)
    version = values.get("version") if isinstance(values, Mapping) else None
    if version != VERSION:
        raise UserError(
            f"{where} is of version {version!r}, this package reads {VERSION}: use one version of it on both sides"
        )
    header = fill(_Header, values, where)
    if header.network != _network(bundle.manifest):
        raise UserError(
            f"{where} was exported with {header.model!r} ({header.network[:12]}…); {bundle.path} has other weights or "
            f"settings ({_network(bundle.manifest)[:12]}…): use the same bundle, or one converted from it"
        )
    rest = data[start + length :]
    layout = _layout(bundle.manifest, len(header.targets))
    wanted = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())
    if not header.targets or len(rest) != wanted:
        raise UserError(
            f"{where} has {len(rest)} bytes of tensors, {len(header.targets)} target(s) need {wanted}: export it again"
        )
    if hashlib.sha256(rest).hexdigest() != header.sha256:
        raise UserError(f"{where} is damaged: its tensors are not those that were exported")
    arrays, begin = {}, 0
    for name, (shape, dtype) in layout.items():
        count = math.prod(shape)
        array = np.frombuffer(rest, dtype, count, begin).reshape(shape).copy()
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{where} holds numbers that are not finite in {name}")
        if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
            raise UserError(f"{where} holds truth values other than 0 and 1 in {name}")
        arrays[name] = array
        begin += count * dtype.itemsize
    return TrackerState(header.frame, header.policy, header.targets, arrays)


def _network(manifest: Manifest) -> str:
    """What must be equal on both sides: weights, crops, and the state's tensors; not precision, batch and engine."""
    weights = manifest.weights.get("sha256") or [manifest.template.sha256, manifest.search.sha256]
    layout = {name: [shape, dtype.name] for name, (shape, dtype) in _layout(manifest, 1).items()}
    facts = [weights, dataclasses.asdict(manifest.crop), layout]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _layout(manifest: Manifest, targets: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each tensor, in the order of the manifest."""
    ports = {port.name: port for port in manifest.search.inputs}
    return {
        spec.name: (
            (targets, *(int(axis) for axis in ports[spec.input].shape[1:])),
            np.dtype(ports[spec.input].dtype),
        )
        for spec in manifest.state
    }
