"""Graphs in INT8: the tiny network's backbone, and one product of the largest numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tiny import TINY, search_input

from sttrack_deploy.export.precision.int8 import activations, quantize
from sttrack_deploy.export.precision.layers import quantizable_layers
from sttrack_deploy.export.precision.measurements import measure_ranges

__all__ = ["largest_product", "with_backbone_in_int8", "with_random_state"]


def with_backbone_in_int8(path: Path) -> onnx.ModelProto:
    """The tiny network's search graph, of a dynamic batch, with Q/DQ around the convolutions of the backbone."""
    model = onnx.load(path)
    nodes = [layer.node for layer in quantizable_layers(model) if layer.group.startswith("backbone")]
    needed = activations(model, nodes)
    seen = measure_ranges(model, [with_random_state(path, 3)], needed, threads=1)
    limits = {name: seen[name].threshold("minmax") for name in needed}
    return quantize(model, limits, nodes, "portable")


def with_random_state(path: Path, batch: int) -> dict[str, np.ndarray]:
    """Inputs of the tiny network's search graph: pictures, and noise for the state."""
    import torch

    image, mask = (t.numpy() for t in search_input(TINY, batch, torch.Generator().manual_seed(3)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {"search_image": image, "search_mask": mask}
    draws = np.random.default_rng(5)
    for port in session.get_inputs():
        if port.name not in feeds:
            shape = [batch if isinstance(axis, str) else axis for axis in port.shape]
            boolean = port.type == "tensor(bool)"
            feeds[port.name] = (
                np.zeros(shape, bool) if boolean else draws.normal(size=shape).astype(np.float32)
            )
    return feeds


def largest_product(
    operator: str, activation: Any, float_weights: bool, channels: int = 64
) -> tuple[onnx.ModelProto, dict[str, np.ndarray], float]:
    """One convolution or matrix product of the largest INT8 numbers that there are.

    Args:
        operator: ``Conv`` or ``MatMul``.
        activation: ``np.int8`` or ``np.uint8``.
        float_weights: stored as floats in front of a Q/DQ pair, in place of integers in front of DQ.

    Returns:
        The graph, its input and every element of the output.
    """
    top, step = float(np.iinfo(activation).max), 2000.0 * channels / 8
    whole = (channels, channels, 1, 1) if operator == "Conv" else (channels, channels)
    constants: dict[str, Any] = {
        "one": np.float32(1),
        "step": np.float32(step),
        "zero": np.array(0, activation),
        "zero_w": np.array(0, np.int8),
        "w": np.full(whole, 127, np.float32 if float_weights else np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["qw" if float_weights else "w", "one", "zero_w"], ["dw"]),
        helper.make_node(operator, ["d", "dw"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "step", "zero"], ["qy"]),
        helper.make_node("DequantizeLinear", ["qy", "step", "zero"], ["y"]),
    ]
    if float_weights:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["w", "one", "zero_w"], ["qw"]))
    shape = (1, channels, 4, 4) if operator == "Conv" else (4, channels)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model, {"x": np.full(shape, top, np.float32)}, channels * top * 127
