"""What both halves of the TensorRT double use: types, shapes, and the graph as ONNX Runtime has it."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
from fake_tensorrt import FakeTensorRT

TYPES = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8", "tensor(bool)": "BOOL", "tensor(int64)": "INT64"}
NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


WORKSPACE = 3000
"""Bytes that a context wants; not a multiple of anything."""


class HostMemory(bytearray):
    """``IHostMemory``: a buffer with two members, and none of a bytearray's."""

    def __getattribute__(self, name: str) -> Any:
        if name == "nbytes":
            return bytearray.__len__(self)
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute '{name}'")


@functools.cache
def _session(digest: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(_models[digest], options, providers=["CPUExecutionProvider"])


_models: dict[str, bytes] = {}


def session_of(onnx: bytes) -> Any:
    digest = hashlib.sha256(onnx).hexdigest()
    _models[digest] = onnx
    return _session(digest)


class Dims:
    def __init__(self: Any, fake: FakeTensorRT, shape: Any = ()) -> None:
        self._own.values = tuple(int(v) for v in shape)

    def __len__(self: Any, fake: FakeTensorRT) -> int:
        return len(self._own.values)

    def __getitem__(self: Any, fake: FakeTensorRT, index: Any) -> Any:
        return self._own.values[index]

    def __eq__(self, other: object) -> bool:
        raise TypeError("__eq__(): incompatible function arguments")

    __hash__ = None  # type: ignore[assignment]


def shape_of(shape: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def nptype(fake: FakeTensorRT, kind: Any) -> Any:
    if kind.name not in NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return NUMPY[kind.name]
