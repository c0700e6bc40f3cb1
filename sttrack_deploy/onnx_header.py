"""What an ONNX file says of itself, read without the onnx package: interface, and data kept in other files.

Only the wire format of protocol buffers is read (https://protobuf.dev/programming-guides/encoding); field numbers are
those of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sttrack_deploy.errors import UserError

__all__ = ["OnnxHeader", "Port", "read_onnx_header"]

Port = tuple[str, tuple[int | str, ...]]
"""dtype as NumPy names it, and shape; an axis that is not fixed is a name (``""`` where it has none)."""

_DTYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"},
    **{10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Where tensors can be, from a model down: field numbers of messages that hold more, by the kind of message.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """A graph's interface.

    Attributes:
        inputs, outputs: by name, in the file's order.
        external: whether a tensor's data lie in another file.
    """

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    external: bool


def read_onnx_header(path: Path) -> OnnxHeader:
    """Read it.

    Raises:
        UserError: the file cannot be read, or is not an ONNX model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    inputs: dict[str, Port] = {}
    outputs: dict[str, Port] = {}
    try:
        for number, graph in _messages(memoryview(data)):
            if number == 7:
                for part, value in _messages(graph):
                    if part in (11, 12):
                        name, port = _port(value)
                        (inputs if part == 11 else outputs)[name] = port
        # "location" is the one key that data in another file must have, so that most files need no closer look.
        external = b"location" in data and _keeps_data_elsewhere(memoryview(data), "model")
    except (ValueError, IndexError, RecursionError) as error:
        raise UserError(
            f"{path} is not an ONNX model, or is damaged ({error}); export the bundle again"
        ) from error
    if not outputs:
        raise UserError(f"{path} is not an ONNX model: it has no outputs; export the bundle again")
    return OnnxHeader(inputs, outputs, external)


def _keeps_data_elsewhere(message: memoryview, kind: str) -> bool:
    if kind == "tensor":
        return any(
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1)
            for number, value in _fields(message)
        )
    inside = _INSIDE[kind]
    return any(
        number in inside and _keeps_data_elsewhere(value, inside[number])
        for number, value in _messages(message)
    )


def _port(message: memoryview) -> tuple[str, Port]:
    """Of a ValueInfoProto."""
    name, dtype, shape = "", "unknown", []
    for number, value in _messages(message):
        if number == 1:
            name = bytes(value).decode("utf-8")
        elif number == 2:
            for _, tensor in (m for m in _messages(value) if m[0] == 1):
                for part, inner in _fields(tensor):
                    if part == 1 and isinstance(inner, int):
                        dtype = _DTYPES.get(inner, f"ONNX type {inner}")
                    elif part == 2 and isinstance(inner, memoryview):
                        shape = [_axis(axis) for one, axis in _messages(inner) if one == 1]
    return name, (dtype, tuple(shape))


def _axis(message: memoryview) -> int | str:
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            return value
        if number == 2 and isinstance(value, memoryview):
            return bytes(value).decode("utf-8")
    return ""


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a message; numbers of a fixed width are left out.

    Raises:
        ValueError: this is no message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif wire == _BYTES:
            size, at = _varint(message, at)
            if size > len(message) - at:
                raise ValueError("it is cut short")
            yield number, message[at : at + size]
            at += size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number is too long")
