"""How large a graph's tensors get on real inputs: what FP16 must hold, and what INT8 scales are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto

from sttrack_deploy.engines.onnxruntime.engine import session_options
from sttrack_deploy.export.precision.thresholds import METHODS
from sttrack_deploy.progress import SILENT, Progress

__all__ = [
    "BINS",
    "Feeds",
    "TensorRange",
    "all_tensors",
    "largest_values",
    "measure_ranges",
    "open_model",
]

BINS = 2048
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)

Feeds = Mapping[str, npt.NDArray[Any]]


@dataclass(slots=True)
class TensorRange:
    """Magnitudes of one tensor over all samples, in bounded memory.

    Attributes:
        absmax: largest magnitude seen.
        counts: int64 ``(BINS,)``, how many values had a magnitude in each bin of ``0..top``; empty if no
            histogram was asked for.
        top: upper edge of the last bin, a power of two.
    """

    absmax: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    top: float = 0.0

    def add(self, values: npt.NDArray[np.floating[Any]], histogram: bool) -> None:
        """Take in one sample's values.

        Raises:
            ValueError: a value is not finite.
        """
        if not values.size:
            return
        magnitude = np.abs(values.ravel().astype(np.float32, copy=False))
        largest = float(magnitude.max())
        if not np.isfinite(largest):
            raise ValueError("a value is not finite")
        self.absmax = max(self.absmax, largest)
        if not histogram:
            return
        if not self.counts.size:
            self.counts = np.zeros(BINS, np.int64)
            self.top = float(2.0 ** np.ceil(np.log2(max(largest, 1e-6))))
        while largest > self.top:  # twice the range: every two bins become one
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(1)
            self.counts[BINS // 2 :] = 0
            self.top *= 2.0
        bins = np.minimum((magnitude * np.float32(BINS / self.top)).astype(np.int32), BINS - 1)
        self.counts += np.bincount(bins, minlength=BINS)

    def threshold(self, method: str) -> float:
        """The magnitude that INT8's 127 stands for, by one of ``METHODS``; always above zero."""
        found = METHODS[method](self.absmax, self.counts, self.top)
        return max(found, 1e-8)


def open_model(
    model: onnx.ModelProto, threads: int | None = None, optimized: bool = True
) -> onnxruntime.InferenceSession:
    """A session on the CPU with the settings of the runtime's own."""
    options = session_options(threads)
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def measure_ranges(
    model: onnx.ModelProto,
    samples: Iterable[Feeds],
    histograms: frozenset[str] = frozenset(),
    threads: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, TensorRange]:
    """Run the float graph on samples, one at a time, and note the magnitude of every float tensor.

    Args:
        samples: inputs of the graph by name.
        histograms: tensors that need more than their largest magnitude.
        progress: a step for each sample.

    Returns:
        by tensor name, graph inputs and outputs included, constants left out.
    """
    ranges: dict[str, TensorRange] = {}
    for values in all_tensors(model, samples, threads):
        for name, value in values.items():
            if value.dtype.kind == "f":
                ranges.setdefault(name, TensorRange()).add(value, name in histograms)
        progress.advance()
    return ranges


def all_tensors(
    model: onnx.ModelProto, samples: Iterable[Feeds], threads: int | None
) -> Iterable[dict[str, npt.NDArray[Any]]]:
    """Every tensor of float type, and the inputs, for one sample after the other."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    known = {v.name for v in inferred.graph.output}
    for value in inferred.graph.value_info:
        if value.type.tensor_type.elem_type in FLOAT_TYPES and value.name not in known:
            inferred.graph.output.append(value)
            known.add(value.name)
    session = open_model(inferred, threads, optimized=False)
    names = [output.name for output in session.get_outputs()]
    for feeds in samples:
        yield {**feeds, **dict(zip(names, session.run(names, dict(feeds)), strict=True))}


def largest_values(ranges: Mapping[str, TensorRange], count: int = 5) -> list[tuple[str, float]]:
    """The tensors of the largest magnitudes, largest first."""
    ordered = sorted(ranges.items(), key=lambda item: (-item[1].absmax, item[0]))
    return [(name, found.absmax) for name, found in ordered[:count]]
