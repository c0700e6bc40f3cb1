"""Reading checkpoints of any trainer without running anything that is in them.

Trainers save objects of their own classes beside the weights (statistics, settings, NumPy numbers). Their classes are
not looked for: each is replaced by an inert stand-in, and only what makes tensors is real.
"""

from __future__ import annotations

import collections
import pickle
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sttrack_deploy.errors import UserError, one_line
from sttrack_deploy.records import show

__all__ = ["check_usable", "few", "read_weights"]

_PLACES = ("net", "state_dict", "model", "model_state_dict", "network", "params", "weights")
"""Where trainers keep the weights, in the order in which they are looked for; ``net`` is the published one."""
_PREFIXES = ("module.", "_orig_mod.")
"""What torch.nn.DataParallel and torch.compile put before every name."""

_MOST_UNPACKED = 100
"""Times a checkpoint's size; PyTorch writes them uncompressed."""

_MAKERS = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.storage", "UntypedStorage"),
    ("torch.storage", "TypedStorage"),
    ("torch.serialization", "_get_layout"),
}


class _StandIn:
    """Takes whatever an unpickler does to an object, and keeps none of it."""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> _StandIn:
        return self

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...

    def update(self, _: Any) -> None: ...


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _MAKERS:
            return getattr(collections if module == "collections" else _import(module), name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type(str(name), (_StandIn,), {})


def _import(module: str) -> Any:
    import importlib

    return importlib.import_module(module)


def _inert_load(file: Any, **options: Any) -> Any:
    return _InertUnpickler(file, **options).load()


_INERT = types.SimpleNamespace(Unpickler=_InertUnpickler, load=_inert_load, __name__="inert")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint under their plain names.

    They are looked for under ``net``, ``state_dict``, ``model`` and the like, or are the file itself; prefixes of
    wrappers are taken off. Nothing in the file is run.

    Raises:
        UserError: the file is missing, not a checkpoint, cut short, or holds no weights.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        data: Any = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        reason = one_line(str(error) or type(error).__name__, 160)
        raise UserError(
            f"{path} is not a PyTorch checkpoint, or is cut short or corrupt ({reason})"
        ) from error
    found = _weights_in(data)
    if not found:
        keys = show(sorted(map(str, data))) if isinstance(data, Mapping) else type(data).__name__
        raise UserError(
            f"{path} is not a checkpoint of a network's weights: expected {{'net': state_dict}}, found {keys}. "
            "Save it again with torch.save({'net': model.state_dict()}, FILE)"
        )
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in found)), None):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _check_archive(path: Path) -> None:
    """What PyTorch does not look at: checksums, and how much a small file unpacks to.

    Raises:
        UserError: it is another kind of archive.
        ValueError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise UserError(
                f"{path} is a TorchScript program; save weights: torch.save({{'net': m.state_dict()}}, FILE)"
            )
        unpacked = sum(member.file_size for member in members)
        if unpacked > _MOST_UNPACKED * path.stat().st_size:
            raise UserError(
                f"{path} would unpack to {unpacked / 1e9:.1f} GB; PyTorch does not compress so much"
            )
        if (broken := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {broken} is wrong")


def _weights_in(data: Any, depth: int = 2) -> dict[str, Tensor]:
    if not isinstance(data, Mapping):
        return {}
    for place in _PLACES if depth else ():
        if found := _weights_in(data.get(place), depth - 1):
            return found
    return {str(key): value for key, value in data.items() if isinstance(value, Tensor)}


def _usable(key: str, value: Tensor) -> str | None:
    """What is wrong with a weight; ``None``: nothing."""
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return f"{key} is not a plain tensor"
    if key.endswith("num_batches_tracked"):
        return None
    if not value.is_floating_point():
        return f"{key} is {str(value.dtype).removeprefix('torch.')}, not floating-point numbers"
    if not torch.isfinite(value).all():
        return f"{key} holds NaN or infinity"
    return None


def check_usable(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises UserError where a weight is not of finite floating-point numbers."""
    if broken := [problem for key, value in weights.items() if (problem := _usable(key, value))]:
        raise UserError(f"{path} cannot be used: {few(broken, 3)}; take another checkpoint of the training")


def few(problems: list[str], most: int = 5) -> str:
    """The first problems and how many there are more."""
    more = len(problems) - most
    return "; ".join(problems[:most]) + (f"; and {more} more" if more > 0 else "")
