"""Shifting the difficulty of a linear layer's input into its weights before both are quantized (SmoothQuant).

A few channels of a transformer's activations are far larger than the others and take all of INT8's steps. Dividing each
channel by a factor, and multiplying the weight's row by it, changes nothing in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sttrack_deploy.export.precision.layers import Layer
from sttrack_deploy.export.precision.ranges import Feeds, all_tensors

__all__ = ["Factors", "smooth", "smoothing_factors"]

Factors = Mapping[str, npt.NDArray[np.float32]]
"""What each channel of an activation is divided by, by the activation's name."""

ALPHA = 0.5
"""Share of the difficulty that goes into the weights. On sttrack-nano's encoder 0.5 and 0.7 are alike, 0.3 is worse."""


def smoothing_factors(
    model: onnx.ModelProto, layers: Sequence[Layer], samples: Iterable[Feeds], threads: int | None = None
) -> Factors:
    """Factors for every activation that a product with a constant matrix reads; convolutions have none.

    Args:
        samples: inputs of the graph; each channel's largest magnitude is taken from them.
    """
    linear = _linear(model, layers)
    if not linear:
        return {}
    weights = {i.name: i for i in model.graph.initializer}
    largest: dict[str, npt.NDArray[np.float32]] = {}
    for values in all_tensors(model, samples, threads):
        for layer in linear:
            channels = np.abs(values[layer.activation]).reshape(-1, values[layer.activation].shape[-1]).max(0)
            largest[layer.activation] = np.maximum(largest.get(layer.activation, channels), channels)
    factors = {}
    for name, channels in largest.items():
        readers = [
            numpy_helper.to_array(weights[layer.weight]) for layer in linear if layer.activation == name
        ]
        rows = np.max([np.abs(weight).max(axis=1) for weight in readers], axis=0)
        factor = np.maximum(channels, 1e-5) ** ALPHA / np.maximum(rows, 1e-5) ** (1.0 - ALPHA)
        factors[name] = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
    return factors


def smooth(model: onnx.ModelProto, layers: Sequence[Layer], factors: Factors) -> onnx.ModelProto:
    """The graph with the inputs of some layers divided by their factors, and their weights multiplied by them.

    Args:
        model: not changed.
        layers: those to change; others that read the same activation go on reading it as it is.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    chosen = {layer.node: layer for layer in _linear(model, layers) if layer.activation in factors}
    if not chosen:
        return copied
    weights = {i.name: i for i in copied.graph.initializer}
    divided: dict[str, onnx.NodeProto] = {}
    for node in copied.graph.node:
        layer = chosen.get(node.name)
        if layer is None:
            continue
        factor = factors[layer.activation]
        weight = numpy_helper.to_array(weights[layer.weight]) * factor[:, None]
        name = f"{layer.weight}_smoothed"
        copied.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
        node.input[0], node.input[1] = smoothed_name(layer.activation), name
        if layer.activation not in divided:
            inverse = f"{layer.activation}_factor"
            copied.graph.initializer.append(numpy_helper.from_array(1.0 / factor, inverse))
            divided[layer.activation] = helper.make_node(
                "Mul", [layer.activation, inverse], [smoothed_name(layer.activation)], name=f"{inverse}_mul"
            )
    inputs = {v.name for v in copied.graph.input}
    ordered = [divided[name] for name in divided if name in inputs]
    for node in copied.graph.node:
        ordered.append(node)
        ordered += [divided[name] for name in node.output if name in divided]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    _drop_unread(copied)
    return copied


def smoothed_name(activation: str) -> str:
    """Name of an activation after its division."""
    return f"{activation}_smoothed"


def _linear(model: onnx.ModelProto, layers: Sequence[Layer]) -> list[Layer]:
    products = {n.name for n in model.graph.node if n.op_type == "MatMul"}
    return [layer for layer in layers if layer.node in products]


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove weights that nobody reads any more."""
    read = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    kept = [i for i in model.graph.initializer if i.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
