"""Explicit Q/DQ by ONNX Runtime's quantizer, in two layouts.

``portable`` is what TensorRT wants and OpenVINO takes: the inputs of the chosen layers and nothing else, INT8,
zero point 0. ONNX Runtime's CPU kernels need more to stay in integers between two layers: a quantized output,
and UINT8 after a ReLU so that the ReLU is the saturation. That is the layout ``cpu``; TensorRT refuses UINT8.

Before that, the difficulty of a linear layer's input may be shifted into its weights (SmoothQuant): a few channels of a
transformer's activations are far larger than the others and take all of INT8's steps. Dividing each channel by a
factor, and multiplying the weight's row by it, changes nothing in float.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from sttrack_deploy.export.precision.layers import Layer
from sttrack_deploy.export.precision.measurements import Feeds, all_tensors

__all__ = [
    "LAYOUTS",
    "Factors",
    "Layout",
    "activations",
    "quantize",
    "smooth",
    "smoothed_name",
    "smoothing_factors",
]

Layout = Literal["portable", "cpu"]
LAYOUTS: tuple[Layout, ...] = ("portable", "cpu")

_LAYERS = ("Conv", "MatMul")
NOT_MEASURED: Mapping[str, float] = {}


def quantize(
    model: onnx.ModelProto,
    thresholds: Mapping[str, float],
    nodes: Collection[str],
    layout: Layout,
    *,
    lowest: Mapping[str, float] = NOT_MEASURED,
    per_channel: bool = True,
) -> onnx.ModelProto:
    """The graph with Q/DQ pairs around some nodes; everything else stays as it is.

    Weights are symmetric, with a scale for each output channel or one for all; activations have the range
    ``-threshold..threshold``. In the layout ``cpu`` it begins at the lowest value: 0 after a ReLU and for pixels, -0.4
    after a hard swish, which gives nearly twice the steps.

    Args:
        model: FP32; not changed.
        thresholds: for each tensor of :func:`activations`, what the integers' largest value stands for.
        nodes: names of Conv nodes and of MatMuls with a constant second input.
        lowest: smallest value of these tensors, where it is known.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _numbers_from_booleans(copied)
    if not nodes:
        return copied
    chosen = set(nodes)
    if layout == "cpu":
        chosen |= {node.name for node in _followers(copied, nodes)}
    bounds = _bounds(copied)
    whole = layout == "portable"
    low = {name: min(value, 0.0) for name, value in lowest.items()} | dict.fromkeys(bounds, 0.0)
    thresholds = {name: min(limit, bounds.get(name, limit)) for name, limit in thresholds.items()}
    ranges = {
        name: TensorData(
            lowest=np.float32(-limit if whole else max(-limit, low.get(name, -limit))),
            highest=np.float32(limit),
        )
        for name, limit in thresholds.items()
    }
    options: dict[str, Any] = {
        "WeightSymmetric": True,
        "ActivationSymmetric": whole,
        # TensorRT wants a float bias and quantizes the weight itself; ONNX Runtime's kernel wants an INT32 bias.
        "QuantizeBias": not whole,
        "AddQDQPairToWeight": whole,
        "DedicatedQDQPair": False,
        "ForceQuantizeNoInputCheck": whole,
        "OpTypesToExcludeOutputQuantization": list(_LAYERS) if whole else ["MatMul"],
        "QDQDisableWeightAdjustForInt32Bias": True,
    }
    with _quiet():
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(copied, data_prop=True),
            per_channel,
            False,  # reduce range
            QuantType.QInt8,
            QuantType.QInt8 if whole else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            sorted(chosen),
            [],
            [*_LAYERS, "Relu", "Clip", "Add"],
            options,
        )
        quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    if whole:
        _quantize_residuals(quantized, set(nodes))
    del quantized.graph.value_info[:]
    return _sorted(quantized)


def activations(model: onnx.ModelProto, nodes: Collection[str]) -> frozenset[str]:
    """Tensors whose thresholds :func:`quantize` needs in either layout: inputs and outputs of the nodes touched."""
    touched = [node for node in model.graph.node if node.name in set(nodes)] + _followers(model, nodes)
    constants = {i.name for i in model.graph.initializer}
    names = {name for node in touched for name in (*node.input, *node.output)}
    return frozenset(names - constants - {""})


def _followers(model: onnx.ModelProto, nodes: Collection[str]) -> list[onnx.NodeProto]:
    """ReLUs (also cut off, at 6 say) right behind a chosen convolution, and residual sums of two quantized tensors with
    theirs.

    These would otherwise break the chain of integers between two convolutions.
    """
    chosen = set(nodes)
    integer = {n.output[0] for n in model.graph.node if n.name in chosen and n.op_type == "Conv"}
    bounds = _bounds(model)
    found = []
    for node in model.graph.node:  # in topological order, so one pass follows whole chains
        relu = node.output[0] in bounds and node.input[0] in integer
        residual = node.op_type == "Add" and integer.issuperset(node.input)
        if relu or residual:
            found.append(node)
            integer.add(node.output[0])
    return found


def _bounds(model: onnx.ModelProto) -> dict[str, float]:
    """Outputs of ReLUs and the largest value that they can have: infinity, or where a Clip from 0 ends."""
    constants = {i.name: i for i in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Relu":
            found[node.output[0]] = float("inf")
        elif node.op_type == "Clip" and len(node.input) == 3 and constants.keys() >= set(node.input[1:]):
            low, high = (float(numpy_helper.to_array(constants[name])) for name in node.input[1:])
            if low == 0.0:
                found[node.output[0]] = high
    return found


def _quantize_residuals(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Let a residual sum read the quantized form of its other input, so that TensorRT fuses it in INT8.

    Only where that form exists anyway, because a chosen layer reads it too.
    """
    dequantized = _dequantized(model)
    outputs = {n.output[0] for n in model.graph.node if n.name in nodes and n.op_type == "Conv"}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for index, name in enumerate(node.input):
            if node.input[1 - index] in outputs and name in dequantized:
                node.input[index] = dequantized[name]


def _dequantized(model: onnx.ModelProto) -> dict[str, str]:
    """From a float tensor to the output of its Q/DQ pair."""
    source = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    return {
        source[n.input[0]]: n.output[0]
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in source
    }


def _numbers_from_booleans(model: onnx.ModelProto) -> None:
    """Turn masks into numbers by a choice of 1 and 0 instead of a cast.

    OpenVINO 2026.4 fuses the cast into the arithmetic behind it once a graph holds Q/DQ, and then refuses to compile
    ("unsupported src_prc: boolean").
    """
    masks = {v.name for v in model.graph.input if v.type.tensor_type.elem_type == TensorProto.BOOL}
    changed = False
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in masks:
            node.op_type = "Where"
            node.input.extend(("mask_one", "mask_zero"))
            del node.attribute[:]
            changed = True
    if changed:
        for name, value in (("mask_one", 1.0), ("mask_zero", 0.0)):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """In topological order, which the quantizer does not keep."""
    graph_model = ir.from_proto(model)
    graph_model.graph.sort()
    return ir.to_proto(graph_model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer talks through the root logger."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


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
