"""Explicit Q/DQ by ONNX Runtime's quantizer, in two layouts.

``portable`` is what TensorRT wants and OpenVINO takes: the inputs of the chosen layers and nothing else, INT8,
zero point 0. ONNX Runtime's CPU kernels need more to stay in integers between two layers: a quantized output,
and UINT8 after a ReLU so that the ReLU is the saturation. That is the layout ``cpu``; TensorRT refuses UINT8.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

__all__ = ["LAYOUTS", "Layout", "activations", "quantize"]

Layout = Literal["portable", "cpu"]
LAYOUTS: tuple[Layout, ...] = ("portable", "cpu")

_LAYERS = ("Conv", "MatMul")


def quantize(
    model: onnx.ModelProto, thresholds: Mapping[str, float], nodes: Collection[str], layout: Layout
) -> onnx.ModelProto:
    """The graph with Q/DQ pairs around some nodes; everything else stays as it is.

    Weights are symmetric per output channel, activations per tensor with the range ``-threshold..threshold``,
    or ``0..threshold`` after a ReLU in the layout ``cpu``.

    Args:
        model: FP32; not changed.
        thresholds: for each tensor of :func:`activations`, what the integers' largest value stands for.
        nodes: names of Conv nodes and of MatMuls with a constant second input.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _numbers_from_booleans(copied)
    if not nodes:
        return copied
    chosen = set(nodes)
    if layout == "cpu":
        chosen |= {node.name for node in _followers(copied, nodes)}
    positive = {node.output[0] for node in copied.graph.node if node.op_type == "Relu"}
    whole = layout == "portable"
    ranges = {
        name: TensorData(
            lowest=np.float32(0.0 if name in positive and not whole else -limit), highest=np.float32(limit)
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
            True,  # per channel
            False,  # reduce range
            QuantType.QInt8,
            QuantType.QInt8 if whole else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            sorted(chosen),
            [],
            [*_LAYERS, "Relu", "Add"],
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
    """ReLUs right behind a chosen convolution, and residual sums of two quantized tensors with theirs.

    These would otherwise break the chain of integers between two convolutions.
    """
    chosen = set(nodes)
    integer = {n.output[0] for n in model.graph.node if n.name in chosen and n.op_type == "Conv"}
    found = []
    for node in model.graph.node:  # in topological order, so one pass follows whole chains
        relu = node.op_type == "Relu" and node.input[0] in integer
        residual = node.op_type == "Add" and integer.issuperset(node.input)
        if relu or residual:
            found.append(node)
            integer.add(node.output[0])
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
