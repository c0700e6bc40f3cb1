"""A double of ``tensorrt``, version 10 or 11, or of ``tensorrt_rtx``, that has what the real
bindings have and computes with ONNX Runtime.

Every class, member and signature comes from ``gpu_contract.json``; this file only says what the members do that we use.
A "plan" is a header as a real one has, what it was built for, and the ONNX file itself.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from fake_cuda import FakeGpu
from gpu_contract import Enum, bind, overloads, tensorrt_contract

__all__ = ["Behaviour", "FakeTensorRT", "Segfault"]


class Segfault(BaseException):
    """The real library would have ended the process here."""


class FakeTensorRT:
    """Makes the module; :mod:`fake_tensorrt_parts` holds what its classes do.

    Attributes:
        gpu: the CUDA double it runs on.
        events: what was asked of it, for tests: ``("build", options)`` and so on.
        refuse_operator: the parser refuses nodes of this kind.
        fail_build, fail_run: the error with which a build or an enqueue fails.
        fail_capture: no enqueue can be captured.
        distort: added to every box, as a wrong kernel would.
        invalid: what ``get_engine_validity`` answers, names of ``EngineInvalidityDiagnostics``; ``None``: by the GPU.
        on_step: called between the steps of a build, in TensorRT's threads.
    """

    def __init__(self, major: str, gpu: FakeGpu) -> None:
        self.major = major
        self.gpu = gpu
        self.contract = tensorrt_contract(major)
        self.version = str(self.contract["__constants__"]["__version__"])
        self.events: list[tuple[str, Any]] = []
        self.refuse_operator = ""
        self.fail_build = ""
        self.fail_run = ""
        self.fail_capture = False
        self.distort = 0.0
        self.invalid: tuple[str, ...] | None = None
        self.on_step: Callable[[int], None] = lambda _: None
        self.enums: dict[str, dict[str, Enum]] = {}
        self.classes: dict[str, type] = {}
        self.module = self._module()

    @property
    def rtx(self) -> bool:
        return self.major == "rtx"

    @property
    def name(self) -> str:
        """Of the module."""
        return "tensorrt_rtx" if self.rtx else "tensorrt"

    def new(self, name: str, /, **private: Any) -> Any:
        """An object of a class that cannot be made from Python."""
        made: Any = object.__new__(self.class_of(name))
        object.__setattr__(made, "_own", types.SimpleNamespace(**private))
        return made

    def log(self, logger: Any, severity: str, text: str) -> None:
        logger.log(self.enums["ILogger.Severity"][severity], text)

    def _module(self) -> types.ModuleType:
        from fake_tensorrt_parts import FUNCTIONS

        module = types.ModuleType(self.name)
        module.__version__ = self.version  # type: ignore[attr-defined]
        for name, members in self.contract.items():
            if members.get("__kind__") == "enum":
                setattr(module, name, self._enum(name, members))

        def on_demand(name: str) -> type:
            if self.contract.get(name, {}).get("__kind__") == "class":
                return self.class_of(name)
            raise AttributeError(f"module '{self.name}' has no attribute '{name}'")

        module.__getattr__ = on_demand  # type: ignore[method-assign] # 200 classes, of which a test needs ten
        for name, text in self.contract["__functions__"].items():
            setattr(module, name, self._function(name, text, FUNCTIONS.get(name)))
        for name, text in self.contract["__constants__"].items():
            if " = " in text:
                kind, member = text.split(" = ")[1].split(".")
                setattr(module, name, self.enums[kind][member])
        return module

    def _enum(self, name: str, members: dict[str, Any]) -> type:
        numbers = {k: v for k, v in members.items() if isinstance(v, int)}
        made = {member: Enum(name, member, number) for member, number in numbers.items()}
        self.enums[name] = made
        return type(name.rpartition(".")[2], (), {**made, "__members__": made})

    def class_of(self, name: str) -> type:
        """A class of the contract, made when it is first asked for."""
        if name in self.classes:
            return self.classes[name]
        members = self.contract[name]
        # The listing names all ancestors in order; Python wants only the nearest.
        base = members.get("__bases__", "").partition(", ")[0]
        bases = (self.class_of(base),) if base in self.contract else (Behaviour,)
        from fake_tensorrt_parts import PARTS, HostMemory

        if name == "IHostMemory":
            self.classes[name] = HostMemory
            return HostMemory
        part = PARTS.get(name, Behaviour)
        body: dict[str, Any] = {"_fake": self, "__slots__": ()}
        if "__eq__" in part.__dict__ and part is not Behaviour:
            body |= {"__eq__": part.__dict__["__eq__"], "__hash__": None}
        for member, text in members.items():
            if member in ("__kind__", "__bases__"):
                continue
            if isinstance(text, dict) and bases[0] is not Behaviour and hasattr(bases[0], member):
                continue  # Logger.Severity is ILogger.Severity
            if isinstance(text, dict):
                body[member] = self._enum(f"{name}.{member}", text)
                body.update(self.enums[f"{name}.{member}"])
            elif text.startswith("property"):
                body[member] = self._property(name, member, text, part)
            elif text.startswith("("):
                body[member] = self._method(name, member, text, part)
        self.classes[name] = type(name, bases, body)
        return self.classes[name]

    def _method(self, owner: str, member: str, text: str, part: type) -> Callable[..., Any]:
        where = f"{owner}.{member}"
        implementation = part.__dict__.get(member)
        closed = member == "__init__" and "*args" in text

        def method(this: Any, *arguments: Any, **named: Any) -> Any:
            if closed:
                raise TypeError(f"tensorrt.{owner}: No constructor defined!")
            values = bind(where, text, self.accepts, arguments, named)
            if member == "__init__" and getattr(this, "_own", None) is None:
                object.__setattr__(this, "_own", types.SimpleNamespace())
            if implementation is None:
                if member in ("__init__", "__del__"):
                    return None
                raise NotImplementedError(f"the double of TensorRT does not do {where}")
            return implementation(this, self, *values)

        return method

    def _property(self, owner: str, member: str, text: str, part: type) -> property:
        kind = text.partition("-> ")[2].partition(" (")[0]
        get: Callable[..., Any] | None = part.__dict__.get(member)
        put: Callable[..., Any] | None = part.__dict__.get(f"_set_{member}")

        def read(this: Any) -> Any:
            if get is not None:
                return get(this, self)
            try:
                return getattr(this._own, member)
            except AttributeError:
                raise NotImplementedError(f"the double of TensorRT does not know {owner}.{member}") from None

        def write(this: Any, value: Any) -> None:
            if kind and value is not None and not self.accepts(kind, value):
                raise TypeError(f"{owner}.{member} is {kind}, not {value!r}")
            if put is not None:
                put(this, self, value)
            else:
                setattr(this._own, member, value)

        return property(read, write if "settable" in text else None)

    def _function(
        self, name: str, text: str, implementation: Callable[..., Any] | None
    ) -> Callable[..., Any]:
        def function(*arguments: Any, **named: Any) -> Any:
            values = bind(name, text, self.accepts, arguments, named)
            if implementation is None:
                raise NotImplementedError(f"the double of TensorRT does not do {name}")
            return implementation(self, *values)

        assert overloads(text) is not None
        return function

    def accepts(self, kind: str, value: Any) -> bool:
        """Would pybind11 convert the value to a parameter of that type?"""
        if kind in self.enums:
            return isinstance(value, Enum) and value in self.enums[kind].values()
        if kind == "Dims":
            if isinstance(value, tuple | list):
                return all(isinstance(v, int | np.integer) for v in value)
            return isinstance(value, self.class_of("Dims"))
        if kind in self.contract:
            # A class derived in Python must have called the __init__ of TensorRT's.
            made = kind == "IHostMemory" or getattr(value, "_own", None) is not None
            return isinstance(value, self.class_of(kind)) and made
        if kind == "Buffer":
            return isinstance(value, bytes | bytearray | memoryview)
        checks = {"str": str, "bool": bool, "tuple": tuple, "list": list}
        if kind in checks:
            return isinstance(value, checks[kind])
        if kind in ("SupportsInt", "int"):
            return hasattr(value, "__int__") and not isinstance(value, str | float | Enum)
        return True


class Behaviour:
    """Base of every class: like those of pybind11 it has no attributes but its own."""

    __slots__ = ("__dict__", "__weakref__", "_own")

    def __setattr__(self, name: str, value: Any) -> None:
        # A class that a user derives from one of TensorRT's has a dictionary, the class itself has none.
        if (
            hasattr(type(self), name)
            or not hasattr(type(self), "_fake")
            or "_fake" not in type(self).__dict__
        ):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(f"'tensorrt.{type(self).__name__}' object has no attribute '{name}'")


def plan_bytes(version: str, facts: dict[str, Any], onnx: bytes, magic: bytes = b"ftrt") -> bytes:
    """A plan as the double writes it: a magic word, version numbers in bytes 24 to 27, its facts, the graph.

    No two are alike: two builds of one graph are not equal byte for byte.
    """
    head = bytearray(32)
    head[:4] = magic
    head[24:28] = bytes(int(number) for number in version.split("."))
    text = json.dumps({**facts, "build": os.urandom(4).hex()}).encode()
    return bytes(head) + len(text).to_bytes(4, "little") + text + onnx


def plan_parts(data: bytes) -> tuple[str, dict[str, Any], bytes]:
    """The reverse; ValueError where it is none."""
    if data[:4] not in (b"ftrt", b"vtrt") or len(data) < 40:
        raise ValueError("magic tag does not match")
    size = int.from_bytes(data[32:36], "little")
    return ".".join(map(str, data[24:28])), json.loads(data[36 : 36 + size]), data[36 + size :]
