"""What the Python bindings of TensorRT and CUDA really have, as data, and classes made from it.

``gpu_contract.json`` is distilled by :func:`distil` from listings of the live modules: TensorRT 10.16 and 11.4,
TensorRT for RTX 1.7 and ``cuda.bindings.runtime`` 12.9 and 13.4. The doubles are made of it: a name,
an argument or a type that is not in it raises what the real bindings raise.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "CONTRACT",
    "Enum",
    "Parameter",
    "bind",
    "cuda_contract",
    "distil",
    "overloads",
    "tensorrt_contract",
]

CONTRACT = Path(__file__).with_name("gpu_contract.json")
Entries = dict[str, Any]


class Parameter(NamedTuple):
    name: str
    type: str
    optional: bool


def distil(tensorrt: dict[str, Entries], cuda: dict[str, Entries]) -> str:
    """The committed JSON, from the listings by version: what versions share is written once."""
    shared: dict[str, Entries] = {}
    data: Entries = {"shared": shared, "tensorrt": {}, "cuda": {}}
    for kind, listings in (("tensorrt", tensorrt), ("cuda", cuda)):
        flat = {version: dict(_flatten(kind, listing)) for version, listing in listings.items()}
        first, *others = flat.values()
        same = {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}
        shared[kind] = same
        for version, entries in flat.items():
            data[kind][version] = {key: value for key, value in entries.items() if key not in same}
    return json.dumps(data, indent=0, sort_keys=True, separators=(",", ":")) + "\n"


def _flatten(kind: str, listing: Entries) -> Iterator[tuple[str, Any]]:
    """``Class.member`` to its signature without what repeats itself."""
    if kind == "cuda":
        yield "__version__", listing["version"]
        for name, parameters in listing["functions"].items():
            yield name, parameters
        for name, members in listing["enums"].items():
            yield name, members
        for name, value in listing["constants"].items():
            yield name, value
        yield "cudaDeviceProp", listing["device_properties"]
        return
    for name, members in listing.items():
        if name in ("__about__", "__python_overrides__"):
            continue
        if members.get("__kind__") == "enum":
            yield name, {k: v for k, v in members.items() if isinstance(v, int)}
            continue
        for member, text in members.items():
            short = (
                str(text)
                .replace("typing.", "")
                .replace("typing_extensions.", "")
                .replace("collections.abc.", "")
            )
            short = re.sub(r"\bnv(?:infer1|onnxparser)::(?:v_1_0::)?", "", short)
            short = re.sub(rf"(^|\| ){re.escape(member)}\((?:self: \w+(?:, )?)?", r"\1(", short)
            yield f"{name}.{member}", short


@functools.cache
def _load() -> Entries:
    data: Entries = json.loads(CONTRACT.read_text())
    return data


@functools.cache
def tensorrt_contract(major: str) -> dict[str, Entries]:
    """Members by class; an enum's are integers. Versions are "10", "11" and "rtx"."""
    data = _load()
    classes: dict[str, Entries] = {}
    for key, value in {**data["shared"]["tensorrt"], **data["tensorrt"][major]}.items():
        name, _, member = key.partition(".")
        if member:
            classes.setdefault(name, {})[member] = value
        else:
            classes[name] = {**value, "__kind__": "enum"}
    return classes


@functools.cache
def cuda_contract(major: str) -> Entries:
    """Names of ``cuda.bindings.runtime``: a string is a function's parameters, a dict an enum. "12" and "13"."""
    data = _load()
    return {**data["shared"]["cuda"], **data["cuda"][major]}


class Enum:
    """A member of an enum of pybind11: it has a number, is none, and equals only itself."""

    def __init__(self, kind: str, name: str, value: int) -> None:
        self._kind, self.name, self.value = kind, name, value

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __repr__(self) -> str:
        return f"<{self._kind}.{self.name}: {self.value}>"

    def __str__(self) -> str:
        return f"{self._kind}.{self.name}"


@functools.cache
def overloads(text: str) -> tuple[tuple[Parameter, ...], ...]:
    """``(a: T, b: U = 0) -> R | (...)`` as lists of parameters."""
    return tuple(
        tuple(_parameter(part) for part in _split(match, ", "))
        for match in (one[1 : _closing(one)] for one in _alternatives(text))
    )


def _alternatives(text: str) -> list[str]:
    starts = [match.start(1) for match in re.finditer(r"(?:^| \| )(\()", text)]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _closing(text: str) -> int:
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index
    raise ValueError(text)


def _split(text: str, separator: str) -> list[str]:
    """At separators outside of brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "([<") - (letter in ")]>")
        if depth == 0 and text.startswith(separator, index):
            parts.append(text[start:index])
            start = index + len(separator)
    return [part for part in (*parts, text[start:]) if part]


def _parameter(text: str) -> Parameter:
    declared, _, default = text.partition(" = ")
    name, _, kind = declared.partition(": ")
    return Parameter(name, kind, bool(default) or name.startswith("*") or name == "/")


def bind(
    where: str, text: str, accepts: Callable[[str, Any], bool], arguments: tuple[Any, ...], named: Entries
) -> list[Any]:
    """Hold a call against the overloads.

    Returns:
        the arguments in order, without what was left out.

    Raises:
        TypeError: no overload takes them.
    """
    for parameters in overloads(text):
        values: list[Any] = []
        left = dict(named)
        positional = list(arguments)
        fits = len(positional) <= len(parameters)
        for parameter in parameters:
            if positional:
                value = positional.pop(0)
            elif parameter.name in left:
                value = left.pop(parameter.name)
            elif parameter.optional:
                continue
            else:
                fits = False
                break
            fits = fits and (accepts(parameter.type, value) or (value is None and parameter.optional))
            values.append(value)
        if fits and not left:
            return values
    given = ", ".join([*(repr(a)[:60] for a in arguments), *(f"{k}={v!r}"[:60] for k, v in named.items())])
    raise TypeError(f"{where}(): incompatible function arguments. Supported: {text}. Invoked with: {given}")
