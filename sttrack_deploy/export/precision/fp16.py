"""FP16-typed graphs, and which of their parts stay in FP32: measured, one part at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sttrack_deploy.bundle import BOX, CONFIDENCE
from sttrack_deploy.export.precision.measurements import StepError
from sttrack_deploy.progress import SILENT, Progress

__all__ = [
    "FP16_MAX",
    "MARGIN",
    "UNMEASURABLE",
    "Fp16Choice",
    "choose_parts",
    "convert",
    "parts",
    "wide_nodes",
]

FP16_MAX = 65504.0
MARGIN = 4.0
"""A tensor whose largest calibrated magnitude, times this, does not fit into FP16 stays in FP32."""

_NORMS = "layer norms"
_ATTENTION = "attention softmax"
_CORNERS = "corner softmax, box and confidence"
_MAP = "score map, box and confidence"
_POSITION = "position encoding"
_PIXELS = "pixel shift"
_FIRST = "first convolution"

UNMEASURABLE = (_NORMS,)
"""Parts that always stay in FP32: on a CPU every runtime sums a layer norm in FP32 inside, so its error in FP16 cannot
be seen here, and it has ruined other networks in TensorRT."""

_QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}

_MOVING = frozenset(
    (
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)
"""Operators that move values and compute nothing."""

_FP32_ONLY = frozenset(("CumSum",))
"""ONNX Runtime has no FP16 kernel for these; CumSum counts cells in the position encoding."""


def parts(model: onnx.ModelProto) -> dict[str, list[str]]:
    """The delicate parts that may be left in FP32, each a list of nodes; disjoint, empty ones left out.

    Found by what the nodes do, so that it holds for every size of network: what follows the last score
    convolutions, what lies between the score map's convolution or the last products and the outputs, layer
    norms, softmaxes with the sum before them, the way from the masks to a sine, the way from the image to the
    first convolution, and that convolution.
    """
    nodes = list(model.graph.node)
    heads = [n.output[0] for n in nodes if _scores(n)]
    corners = _downstream(nodes, heads)
    sines = [n for n in nodes if n.op_type in ("Sin", "Cos")]
    position = _upstream(nodes, [name for n in sines for name in n.input]) | {n.name for n in sines}
    image = [v.name for v in model.graph.input if v.name.endswith("_image")]
    pixels, first = _until_convolution(nodes, image)
    made_by = {output: n for n in nodes for output in n.output}
    softmax: set[str] = set()
    for node in nodes:
        if node.op_type == "Softmax":
            softmax.add(node.name)
            before = made_by.get(node.input[0])
            if before is not None and before.op_type == "Add":
                softmax.add(before.name)
    norms = {n.name for n in nodes if n.op_type == "LayerNormalization"}
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for name, members in (
        (_CORNERS, corners),
        (_MAP, _around_score_map(model)),
        (_POSITION, position),
        (_PIXELS, pixels),
        (_FIRST, first),
        (_NORMS, norms),
        (_ATTENTION, softmax),
    ):
        own = [n.name for n in nodes if n.name in members - taken and n.op_type not in _QUANTIZING]
        taken |= members
        if own:
            found[name] = own
    return found


def wide_nodes(model: onnx.ModelProto, maxima: Mapping[str, float]) -> list[str]:
    """Nodes that read or write a tensor too large for FP16 with the margin, or whose inside could be.

    A layer norm sums squares: its largest input squared, times its channels, is what FP16 would have to hold.
    (ONNX Runtime's kernel sums in FP32 and shows nothing of it.)

    Args:
        maxima: largest magnitude of each float tensor on real inputs.
    """
    limit = FP16_MAX / MARGIN
    wide = {name for name, value in maxima.items() if value > limit}
    channels = {i.name: i.dims[0] for i in model.graph.initializer if len(i.dims) == 1}
    found = []
    for node in model.graph.node:
        inside = 0.0
        if node.op_type == "LayerNormalization":
            inside = maxima.get(node.input[0], 0.0) ** 2 * channels.get(node.input[1], 1)
        if inside > limit or wide.intersection((*node.input, *node.output)):
            found.append(node.name)
    return found


def convert(model: onnx.ModelProto, keep: Collection[str]) -> onnx.ModelProto:
    """The graph in FP16, with some nodes in FP32 and one cast for each tensor that crosses over.

    Inputs and outputs keep their dtypes. Every node gets inputs of one float type, as a strongly typed build needs
    it. Nodes that only move data take the type that comes, so that they never cost a cast. (ONNX Runtime's own
    converter leaves twice as many casts, rounds constants that FP32 nodes share, and breaks graphs with a
    constant output.)

    Args:
        model: FP32, or FP32 with Q/DQ pairs; not changed.
        keep: names of the nodes that stay in FP32.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return _Retyping(copied, frozenset(keep)).run()


class _Retyping:
    """One pass over the nodes in topological order.

    Attributes:
        types: float type of each float tensor so far; others are not in it.
    """

    def __init__(self, model: onnx.ModelProto, keep: frozenset[str]) -> None:
        self.model = model
        self.keep = keep
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        values = (*inferred.input, *inferred.output, *inferred.value_info)
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.constants = {i.name: i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
        self.floats |= set(self.constants)
        self.types: dict[str, int] = {
            v.name: int(TensorProto.FLOAT) for v in model.graph.input if v.name in self.floats
        }
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, onnx.TensorProto] = {}
        self.casts: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        outputs = {v.name for v in graph.output}
        for node in list(graph.node):
            wanted = self._type_of(node)
            for index, name in enumerate(node.input):
                if name in self.floats:
                    node.input[index] = self._as(name, wanted)
            self._attributes(node, wanted)
            self.nodes.append(node)
            for index, name in enumerate(node.output):
                if name not in self.floats:
                    continue
                self.types[name] = wanted
                if name in outputs and wanted == TensorProto.FLOAT16:
                    inner = f"{name}_fp16"
                    node.output[index] = inner
                    self.types[inner], self.types[name] = wanted, TensorProto.FLOAT
                    self.floats.add(inner)
                    # Readers further down may use the FP16 form as it is.
                    self.casts[name, TensorProto.FLOAT16] = inner
                    self.nodes.append(_cast(inner, name, TensorProto.FLOAT))
        others = [i for i in graph.initializer if i.name not in self.constants or i.name in outputs]
        del graph.initializer[:], graph.node[:], graph.value_info[:]
        graph.initializer.extend([*others, *(t for n, t in self.made.items() if n not in outputs)])
        graph.node.extend(self.nodes)
        return self.model

    def _type_of(self, node: onnx.NodeProto) -> int:
        if node.name in self.keep or node.op_type in _FP32_ONLY:
            return int(TensorProto.FLOAT)
        if node.op_type in _MOVING:
            data = [name for name in node.input if name in self.types]
            if data and all(self.types[name] == TensorProto.FLOAT for name in data):
                return int(TensorProto.FLOAT)
        return int(TensorProto.FLOAT16)

    def _as(self, name: str, wanted: int) -> str:
        """A tensor in the wanted type: itself, a constant of that type, or a cast that all readers share."""
        if name in self.constants:
            typed = name if wanted == TensorProto.FLOAT else f"{name}_fp16"
            if typed not in self.made:
                self.made[typed] = _typed(self.constants[name], typed, wanted)
            return typed
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            other = f"{name}_{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}"
            self.casts[name, wanted] = other
            self.nodes.append(_cast(name, other, wanted))
        return self.casts[name, wanted]

    def _attributes(self, node: onnx.NodeProto, wanted: int) -> None:
        """What an operator says of its output's type itself."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = wanted
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_typed(attribute.t, attribute.t.name, wanted))


def _typed(tensor: onnx.TensorProto, name: str, wanted: int) -> onnx.TensorProto:
    """A constant in another float type; what is too large for FP16 becomes its largest value."""
    values = numpy_helper.to_array(tensor)
    if wanted == TensorProto.FLOAT16:
        values = np.clip(values, -FP16_MAX, FP16_MAX).astype(np.float16)
    return numpy_helper.from_array(values, name)


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=to)


def _scores(node: onnx.NodeProto) -> bool:
    """Is it one of the convolutions that make the corner heat maps?"""
    return node.op_type == "Conv" and any(".score.weight" in name for name in node.input)


def _around_score_map(model: onnx.ModelProto) -> set[str]:
    """The score map's convolution, and what is computed of it up to products with weights, and in front of the outputs.

    Logits of some tens, logarithms of distances, positions to a thousandth: FP16 holds none of them well.
    """
    nodes = list(model.graph.node)
    maps = {
        n.output[0]: n.name for n in nodes if n.op_type == "Conv" and any(".predict." in i for i in n.input)
    }
    if not maps:
        return set()
    weights = {i.name for i in model.graph.initializer if len(i.dims) > 1}
    walls = {
        n.name
        for n in nodes
        if n.op_type in ("Conv", "LayerNormalization", *_QUANTIZING)
        or (n.op_type in ("MatMul", "Gemm") and weights.intersection(n.input))
    }
    inner = [n for n in nodes if n.name not in walls]
    return {*maps.values(), *_downstream(inner, maps), *_upstream(inner, [BOX, CONFIDENCE])}


def _downstream(nodes: Iterable[onnx.NodeProto], tensors: Iterable[str]) -> set[str]:
    reached, names = set(tensors), set()
    for node in nodes:  # in topological order
        if reached.intersection(node.input):
            names.add(node.name)
            reached.update(node.output)
    return names


def _upstream(nodes: Iterable[onnx.NodeProto], tensors: Iterable[str]) -> set[str]:
    wanted, names = set(tensors), set()
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            names.add(node.name)
            wanted.update(node.input)
    return names


def _until_convolution(nodes: Iterable[onnx.NodeProto], tensors: Iterable[str]) -> tuple[set[str], set[str]]:
    """Nodes from these tensors to the first convolutions, and those."""
    reached, names, first = set(tensors), set(), set()
    for node in nodes:
        if not reached.intersection(node.input) or node.op_type == "QuantizeLinear":
            continue
        if node.op_type == "Conv":
            first.add(node.name)
        else:
            names.add(node.name)
            reached.update(node.output)
    return names, first


MATTERS = 0.1
"""A part stays in FP32 if that takes off more than this share of the error that is left."""


@dataclass(frozen=True, slots=True)
class Fp16Choice:
    """What stays in FP32.

    Attributes:
        parts: names of :func:`parts`; they hold for the same graph with Q/DQ too.
        recipe: for the manifest, with the figures.
    """

    parts: tuple[str, ...]
    recipe: Mapping[str, Any]


def choose_parts(
    model: onnx.ModelProto, maxima: Mapping[str, float], error: StepError, progress: Progress = SILENT
) -> Fp16Choice:
    """Start with everything in FP16 but what its range forbids, and put back the part that takes off most of the error,
    again and again, until none of the rest matters. (Beside a part whose error is ten times theirs the others cannot be
    told apart.)

    Layer norms are put back in any case, see ``UNMEASURABLE``.

    Args:
        model: FP32 without Q/DQ, beside whose error that of FP16 would not be seen.
        maxima: largest magnitudes of its tensors.
        error: compares with the same model.
    """
    found = parts(model)
    wide = wide_nodes(model, maxima)
    progress.stage("FP16: which parts matter", (len(found) * (len(found) + 1) // 2 + 3) * len(error))

    def measured(names: Sequence[str]) -> float:
        nodes = {n for name in names for n in found[name]}.union(wide)
        return error(convert(model, nodes), optimized=False)

    everything = now = measured([])
    kept: list[str] = []
    rounds = []
    while len(kept) < len(found):
        beside = {name: measured([*kept, name]) for name in found if name not in kept}
        rounds.append(beside)
        best = min(beside, key=lambda name: beside[name])
        if now - beside[best] <= MATTERS * now:
            break
        progress.note(f"{best}: FP32 (step error {beside[best]:.2e} with it in FP32, {now:.2e} without)")
        kept.append(best)
        now = beside[best]
    for name in (n for n in found if n not in kept):
        what = "FP32 in any case" if name in UNMEASURABLE else "FP16"
        progress.note(
            f"{name}: {what} (step error {rounds[-1].get(name, now):.2e} with it in FP32, {now:.2e} without)"
        )
    kept += [name for name in found if name in UNMEASURABLE and name not in kept]
    final = measured(kept)
    largest = sorted(maxima.items(), key=lambda item: -item[1])[:3]
    return Fp16Choice(
        tuple(kept),
        {
            "fp32_parts": kept,
            "fp32_nodes_by_range": len(wide),
            "range_limit": FP16_MAX / MARGIN,
            "largest_magnitudes": {name: round(value, 1) for name, value in largest},
            "step_error": {
                "all_fp16": everything,
                "with_fp32": rounds,
                "chosen": final,
                "samples": len(error),
            },
        },
    )
