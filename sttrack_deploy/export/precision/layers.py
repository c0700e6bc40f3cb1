"""Which layers of a graph can be quantized, in the groups that the sensitivity search decides about."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from sttrack_deploy.errors import UsageError
from sttrack_deploy.records import read_text

__all__ = ["Layer", "group_names", "macs_by_group", "members", "quantizable_layers", "read_groups"]

_NAMED = (
    (re.compile(r"bottleneck"), "bottleneck"),
    (re.compile(r"\.squeeze\."), "squeeze"),
    (re.compile(r"backbone\.stem\."), "backbone stem"),
    (re.compile(r"backbone\.blocks\.(\d+)\."), r"backbone block \1"),
    (re.compile(r"correlation\.tower_\w+\.(\d+)\."), r"tower \1"),
    (re.compile(r"correlation\.predict\."), "score map"),
    (re.compile(r"correlation\."), "correlation"),
    (re.compile(r"encoder\.layers\.(\d+)\.attention"), r"encoder \1 attention"),
    (re.compile(r"encoder\.layers\.(\d+)\."), r"encoder \1 feed-forward"),
    (re.compile(r"decoder\."), "decoder"),
    (re.compile(r"(memory_attention|row_memory)\."), "memory"),
    (re.compile(r"head\..*\.score\."), "head scores"),
    (re.compile(r"head\..*\.blocks\.(\d+)\."), r"head \1"),
)
"""Groups by the name of the weight, which the exporter takes from the network's own modules."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, or a product with a constant matrix.

    Attributes:
        node: its name in the graph.
        group: the same in the template and the search graph for the same weights.
        activation, weight, output: tensor names.
        macs: multiply-accumulates of one call.
    """

    node: str
    group: str
    activation: str
    weight: str
    output: str
    macs: int


def quantizable_layers(model: onnx.ModelProto) -> list[Layer]:
    """Convolutions and MatMuls whose second input is a constant matrix, in the graph's order.

    Products of two activations (attention), and constants of more than two axes (the decoder's one query),
    are left out: the facts found them costly in accuracy, and they are a small share of the work. So are depthwise
    convolutions: in ``sttrack-nano`` they are a ninth of the work and cost as much accuracy as all the rest together.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = _shapes(inferred)
    weights = {i.name: tuple(i.dims) for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
    image = max((s for name, s in shapes.items() if name.endswith("_image")), default=(1, 1, 1, 3))
    layers = []
    for node in model.graph.node:
        if len(node.input) < 2 or node.input[1] not in weights:
            continue
        shape, out = weights[node.input[1]], shapes.get(node.output[0], ())
        if node.op_type == "Conv" and _depthwise(node, shape):
            continue
        if node.op_type == "Conv":
            positions = _product(out[2:])
            stride = image[1] // max(out[-1], 1)
            unnamed = f"backbone /{stride}" if stride.bit_count() == 1 else "embedding"
            group = _group(node.input[1]) or unnamed
        elif node.op_type == "MatMul" and len(shape) == 2:
            positions = _product(out[:-1])
            group = _group(node.input[1]) or "other products"
        else:
            continue
        macs = _product(shape) * positions
        layers.append(Layer(node.name, group, node.input[0], node.input[1], node.output[0], macs))
    return layers


def group_names(layers: Sequence[Layer]) -> list[str]:
    """Groups in the order of their first layer."""
    return list(dict.fromkeys(layer.group for layer in layers))


def read_groups(choice: str, layers: Sequence[Layer]) -> list[str]:
    """The groups that ``--layers`` names: ``all``, ``backbone``, or a file with one group a line.

    Raises:
        UsageError: no such file, or a line is not one of this graph's groups.
    """
    names = group_names(layers)
    if choice == "all":
        return names
    if choice == "backbone":
        return [name for name in names if name.startswith("backbone")]
    path = Path(choice)
    if not path.is_file():
        raise UsageError(
            f"--layers is all, backbone, auto or a file with one group a line, not {choice!r}; "
            f"the groups are: {', '.join(names)}"
        )
    wanted = [line.strip() for line in read_text(path, "the groups").splitlines()]
    wanted = [line for line in wanted if line and not line.startswith("#")]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise UsageError(f"{path} names the group {unknown[0]!r}; the groups are: {', '.join(names)}")
    return [name for name in names if name in wanted]


def members(layers: Sequence[Layer], groups: Collection[str]) -> list[str]:
    """Nodes of these groups."""
    return [layer.node for layer in layers if layer.group in groups]


def macs_by_group(layers: Sequence[Layer]) -> Mapping[str, int]:
    """Multiply-accumulates of one call."""
    total: dict[str, int] = {}
    for layer in layers:
        total[layer.group] = total.get(layer.group, 0) + layer.macs
    return total


def _depthwise(node: onnx.NodeProto, weight: Sequence[int]) -> bool:
    """Whether each output channel reads one input channel, of several."""
    return weight[1] == 1 and any(a.name == "group" and a.i > 1 for a in node.attribute)


def _group(weight: str) -> str | None:
    for pattern, name in _NAMED:
        found = pattern.search(weight)
        if found:
            return found.expand(name)
    return None  # the backbone's folded weights are anonymous: their convolutions are told by their stride


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor; a dynamic axis (the batch) counts as 1."""
    graph = model.graph
    return {
        value.name: tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output, *graph.value_info)
    }


def _product(numbers: Sequence[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result
