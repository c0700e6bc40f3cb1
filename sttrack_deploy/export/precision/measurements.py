"""What running a graph on recorded inputs tells: how large its tensors get, how far its boxes are off, its time.

INT8 scales and what FP16 must hold are made from the first. Layers are ranked by the second, the error of single
steps from recorded states: unlike a closed loop, in which one frame's luck decides what the next sees, it hardly varies
from run to run. The closed loop then decides (``gate_run.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto

from sttrack_deploy.bundle import BOX, CONFIDENCE
from sttrack_deploy.engines.onnxruntime.engine import session_options
from sttrack_deploy.export.precision import Method
from sttrack_deploy.geometry import iou
from sttrack_deploy.progress import SILENT, Progress

__all__ = [
    "BINS",
    "Feeds",
    "StepError",
    "TensorRange",
    "all_tensors",
    "largest_values",
    "measure_ranges",
    "open_model",
    "time_ratio",
]

BINS = 2048
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)

Feeds = Mapping[str, npt.NDArray[Any]]
FloatArray = npt.NDArray[np.float64]


@dataclass(slots=True)
class TensorRange:
    """Magnitudes of one tensor over all samples, in bounded memory.

    Attributes:
        absmax: largest magnitude seen.
        lowest: smallest value seen, at most 0.
        counts: int64 ``(BINS,)``, how many values had a magnitude in each bin of ``0..top``; empty if no
            histogram was asked for.
        top: upper edge of the last bin, a power of two.
    """

    absmax: float = 0.0
    lowest: float = 0.0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    top: float = 0.0

    def add(self, values: npt.NDArray[np.floating[Any]], histogram: bool) -> None:
        """Take in one sample's values.

        Raises:
            ValueError: a value is not finite.
        """
        if not values.size:
            return
        flat = values.ravel().astype(np.float32, copy=False)
        magnitude = np.abs(flat)
        largest = float(magnitude.max())
        if not np.isfinite(largest):
            raise ValueError("a value is not finite")
        self.absmax = max(self.absmax, largest)
        self.lowest = min(self.lowest, float(flat.min()))
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

    def threshold(self, method: Method) -> float:
        """The magnitude that INT8's 127 stands for, where activations are cut off; always above zero."""
        found = _THRESHOLDS[method](self.absmax, self.counts, self.top)
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


class StepError:
    """Compares graphs with one FP32 graph on a few samples.

    Args:
        samples: inputs of the search graph; kept in memory.
        sure_above: samples on which the reference's confidence is lower are left out, unless that leaves none: there
            the tracker believes the target lost and does not use the box.
        threads: of ONNX Runtime.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        samples: Sequence[Feeds],
        sure_above: float = 0.0,
        threads: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._threads = threads
        self._progress = progress
        boxes, confidences = self._run(reference, samples, optimized=True)
        sure = np.array([c.min() >= sure_above for c in confidences])
        if not sure.any():
            sure[:] = True
        self._samples = [feeds for feeds, taken in zip(samples, sure, strict=True) if taken]
        self._boxes = np.concatenate([b for b, taken in zip(boxes, sure, strict=True) if taken])

    def __len__(self) -> int:
        """Samples that are compared."""
        return len(self._samples)

    def __call__(self, model: onnx.ModelProto, optimized: bool = True) -> float:
        """Mean of ``1 - IoU`` between the two boxes, 0..1; infinite if an output is not a number.

        Args:
            optimized: let ONNX Runtime fuse; without, FP16 tensors are really rounded between nodes.
        """
        boxes = np.concatenate(self._run(model, self._samples, optimized)[0])
        if not np.isfinite(boxes).all():
            return float("inf")
        return float(np.mean(1.0 - np.asarray(iou(_sides(boxes), _sides(self._boxes)))))

    def _run(
        self, model: onnx.ModelProto, samples: Sequence[Feeds], optimized: bool
    ) -> tuple[list[FloatArray], list[FloatArray]]:
        """Boxes and confidences of each sample."""
        session = open_model(model, self._threads, optimized)
        boxes, confidences = [], []
        for feeds in samples:
            box, confidence = session.run([BOX, CONFIDENCE], dict(feeds))
            boxes.append(np.asarray(box, np.float64))
            confidences.append(np.asarray(confidence, np.float64))
            self._progress.advance()
        return boxes, confidences


def _sides(corners: FloatArray) -> FloatArray:
    """x1 y1 x2 y2 to x y w h."""
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)


ROUNDS = 15
CALLS = 6


def time_ratio(
    model: onnx.ModelProto, reference: onnx.ModelProto, samples: Sequence[Feeds], rounds: int = ROUNDS
) -> float:
    """CPU time of one call of ``model`` over that of ``reference``, both in ONNX Runtime on one thread.

    Measured so that a busy machine does not decide: both take turns, and what counts is the CPU time of this thread;
    what else runs on the machine takes turns with it, but is not charged to it.

    Each round's ratio is of the fastest calls, and the median of the rounds is returned.
    """
    sessions = [open_model(m, threads=1) for m in (model, reference)]
    ratios = []
    for turn in range(rounds + 1):
        best = []
        for session in sessions:
            took = []
            for call in range(CALLS):
                feeds = dict(samples[call % len(samples)])
                started = time.thread_time()
                session.run(None, feeds)
                took.append(time.thread_time() - started)
            best.append(min(took))
        if turn:  # the first is the warm-up
            ratios.append(best[0] / best[1])
    return float(np.median(ratios))


# Where to cut off an activation's magnitudes before it is quantized. All are for symmetric INT8: 127 steps from zero to
# the threshold, what is larger saturates.

Counts = npt.NDArray[np.int64]

LEVELS = 128
"""Magnitudes that symmetric INT8 can tell apart, zero included."""

PERCENTILE = 99.99


def _min_max(absmax: float, counts: Counts, top: float) -> float:  # noqa: ARG001 (one signature for all)
    return absmax


def _percentile(absmax: float, counts: Counts, top: float) -> float:
    """The magnitude that ``PERCENTILE`` of 100 values do not exceed (a bin's upper edge)."""
    total = int(counts.sum())
    if not total:
        return absmax
    index = int(np.searchsorted(np.cumsum(counts), total * PERCENTILE / 100.0))
    return min(absmax, (index + 1) * top / len(counts))


def _entropy(absmax: float, counts: Counts, top: float) -> float:
    """The threshold whose quantized distribution is nearest to the real one (least KL divergence).

    The bin of exact zeros is left out, as usual: after a ReLU it would outweigh all others.
    """
    used = int(np.ceil(absmax / top * len(counts))) if top else 0
    weights = counts[:used].astype(np.float64)
    if used <= LEVELS or not weights[1:].any():
        return absmax
    weights[0] = weights[1]
    best, best_at = np.inf, used
    for end in range(LEVELS, used + 1, 8):
        divergence = _divergence(weights, end)
        if divergence < best:
            best, best_at = divergence, end
    return min(absmax, best_at * top / len(counts))


def _least_squares(absmax: float, counts: Counts, top: float) -> float:
    """The threshold of the least mean squared error: rounding to its steps below, saturation above.

    Exact zeros (the first bin) have no rounding error.
    """
    used = int(np.ceil(absmax / top * len(counts))) if top else 0
    weights = counts[:used].astype(np.float64)
    if not weights[1:].any():
        return absmax
    width = top / len(counts)
    middle = (np.arange(used) + 0.5) * width
    ends = np.arange(1, used + 1)
    threshold = ends * width
    inside = np.cumsum(weights)[ends - 1] - weights[0]
    # Sums over what lies above each end, by the moments: sum of w (x - t)^2.
    above = [_above(weights * middle**power) for power in range(3)]
    saturated = above[2] - 2.0 * threshold * above[1] + threshold**2 * above[0]
    error = inside * (threshold / (LEVELS - 1)) ** 2 / 12.0 + saturated
    return min(absmax, float(threshold[np.argmin(error)]))


def _above(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each index the sum of all values behind it."""
    total: npt.NDArray[np.float64] = values.sum() - np.cumsum(values)
    return total


def _divergence(weights: npt.NDArray[np.float64], end: int) -> float:
    """KL divergence of ``weights`` cut off at bin ``end`` from the same in ``LEVELS`` steps."""
    real = weights[:end].copy()
    real[-1] += weights[end:].sum()  # saturated
    level = np.arange(end) * LEVELS // end
    filled = weights[:end] > 0
    sums = np.bincount(level, weights[:end], LEVELS)
    members = np.bincount(level, filled.astype(np.float64), LEVELS)
    spread = np.where(filled, (sums / np.maximum(members, 1.0))[level], 0.0)
    p, q = real / real.sum(), spread / max(spread.sum(), 1e-300)
    # What saturates into an empty last bin has no counterpart; a floor keeps its cost finite.
    both = p > 0
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))).sum())


_THRESHOLDS: dict[Method, Callable[[float, Counts, float], float]] = {
    "minmax": _min_max,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _least_squares,
}
"""From largest magnitude, histogram and its upper edge to the threshold."""
