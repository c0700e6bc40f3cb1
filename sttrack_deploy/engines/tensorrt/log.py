"""What TensorRT says while it works: its errors and warnings in one line, and the kernels of a plan.

The kernels are read from the builder's own report, since looking into a plan needs a GPU: with detailed profiling
verbosity TensorRT for RTX writes one verbose message that starts with ``Layers:``, a line for each kernel: its name,
kind, the tensors it reads and writes with their types, and the ONNX nodes that it does.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["REPORT_START", "Kernel", "Log", "kernel_facts", "log_of", "read_kernels"]

REPORT_START = "Layers:"
_LINE = re.compile(
    r"Name: (?P<name>[^,]*), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*), Constants: (?P<constants>.*), "
    r"Outputs: (?P<outputs>.*), TacticName: [^,]*, StreamId: [^,]*, Metadata: ?(?P<nodes>.*)"
)
_TYPES = {
    "Float": "FP32",
    "Half": "FP16",
    "BFloat16": "BF16",
    "Int8": "INT8",
    "Int32": "INT32",
    "Bool": "BOOL",
}
_WAITING = ("signal", "wait", "shape_call")
"""Not kernels: the order of two streams, and shapes that are computed on the CPU."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    Attributes:
        kind: the builder's word: ``correlation`` (a convolution), ``gemm`` (a product), ``runtime_fusion`` (a
            convolution, product or attention with what follows it), ``kgen`` (anything else, such as elementwise).
        inputs, constants, outputs: types, such as FP16.
        nodes: names of the ONNX nodes that it does.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def attention(self) -> bool:
        """Whether it is a whole attention: product, softmax, product."""
        return "mha" in self.name

    @property
    def convolution(self) -> bool:
        """A convolution, with or without what follows it."""
        fused = self.kind == "runtime_fusion" and "Corr" in self.name
        return self.kind == "correlation" or fused

    @property
    def product(self) -> bool:
        """A matrix product, with or without what follows it."""
        fused = self.kind == "runtime_fusion" and "Fc" in self.name
        return not self.attention and (self.kind == "gemm" or fused)

    @property
    def types(self) -> str:
        """What it computes: type of the first input, then of the first output where that differs."""
        first, last = (self.inputs or self.constants)[:1], self.outputs[:1]
        return " -> ".join(dict.fromkeys((*first, *last)))


def read_kernels(report: str) -> tuple[Kernel, ...]:
    """The kernels of a message that starts with :data:`REPORT_START`, in the order in which they run."""
    found = []
    for line in report.split("\n"):
        match = _LINE.match(line)
        if match is None or match["kind"] in _WAITING:
            continue
        inputs, constants, outputs = (_types(match[side]) for side in ("inputs", "constants", "outputs"))
        nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", match["nodes"]))
        found.append(Kernel(match["name"], match["kind"], inputs, constants, outputs, nodes))
    return tuple(found)


def kernel_facts(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Counts for the manifest: kernels, convolutions and products by type, fused attentions."""
    return {
        "kernels": len(kernels),
        "convolutions": dict(Counter(k.types for k in kernels if k.convolution)),
        "products": dict(Counter(k.types for k in kernels if k.product)),
        "fused_attention": sum(k.attention for k in kernels),
    }


def _types(side: str) -> tuple[str, ...]:
    return tuple(_TYPES.get(name, name) for name in re.findall(r"Datatype: (\w+)", side))


KEPT = 50
"""Messages kept of each kind; TensorRT can say the same thousands of times."""

_ECHO = "catchCudaError"
"""Without a GPU every error of TensorRT for RTX is followed by one that only says so."""
_SCRATCH = re.compile(r"Total Activation Memory: (\d+) bytes")


class Log:
    """Errors and warnings since they were last taken; any thread may add to it.

    Attributes:
        native: the ``ILogger`` to hand to TensorRT.
        kernel_report: the last build's message that lists its kernels; empty if there was none.
        scratch_bytes: device memory that the last build's plan needs besides inputs and outputs; 0 if not said.
    """

    def __init__(self, trt: Any) -> None:
        self._lock = threading.Lock()
        self._errors: list[str] = []
        self._warnings: list[str] = []
        self.kernel_report = ""
        self.scratch_bytes = 0
        severities = trt.ILogger.Severity
        serious = (severities.INTERNAL_ERROR, severities.ERROR)
        add_error, add_warning, look_at = self._errors.append, self._warnings.append, self._look_at
        lock = self._lock

        class Native(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # TensorRT's classes want it by name, not through super()

            def log(self, severity: Any, msg: str) -> None:
                with lock:
                    if severity in serious:
                        add_error(msg)
                    elif severity == severities.WARNING:
                        add_warning(msg)
                    else:
                        look_at(msg)

        self.native = Native()

    def _look_at(self, text: str) -> None:
        if text.startswith(REPORT_START):
            self.kernel_report = text
        elif found := _SCRATCH.match(text):
            self.scratch_bytes = int(found[1])

    def take_errors(self) -> list[str]:
        """Errors in the order they came; they are forgotten here."""
        with self._lock:
            taken = self._errors[:KEPT]
            self._errors.clear()
        return taken

    def take_warnings(self) -> list[str]:
        """Different warnings in the order they came; they are forgotten here."""
        with self._lock:
            taken = list(dict.fromkeys(self._warnings))[:KEPT]
            self._warnings.clear()
        return taken

    def last_error(self, otherwise: str = "it gave no reason") -> str:
        """The latest error that gives a reason, in one line; all of them are forgotten."""
        errors = self.take_errors()
        telling = [error for error in errors if _ECHO not in error] or errors
        return " ".join(telling[-1].split()) if telling else otherwise


_logs: dict[int, tuple[Any, Log]] = {}


def log_of(trt: Any) -> Log:
    """The process's log: TensorRT keeps to the first logger it is given, and needs it to the end."""
    _, log = _logs.setdefault(id(trt), (trt, Log(trt)))
    return log
