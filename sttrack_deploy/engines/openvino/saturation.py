"""INT8 sums that saturate on some CPUs, and weights of 7 bits there.

x86 without VNNI (AVX2, or AVX-512 alone) multiplies UINT8 activations with INT8 weights and adds pairs of products in
16 bits: 255 * 127 + 255 * 127 is cut off at 32767. OpenVINO computes so without a word; boxes of ``sttrack-nano`` were
off by 0.4 of the crop. Weights within -64..63 cannot saturate (2 * 255 * 64 = 32640). The weights lose a bit on these
CPUs (an error of 0.003 there, ten times less than what INT8 itself costs at most); speed stays. It is what
OpenVINO's own documentation advises for them ("saturation issue"), at quantization; here it happens when the graph is
compiled, so that one bundle serves every CPU.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino

__all__ = ["int8_saturates", "weights_within_7_bits"]

_CHANNELS = 64


@functools.cache
def int8_saturates(core: openvino.Core) -> bool:
    """Whether the largest numbers of a quantized convolution come out too small on this CPU: tried, once.

    The instruction sets are not asked for: OpenVINO does not tell them, and which kernels use them is its own choice.
    """
    import openvino
    from openvino import opset13 as ops

    low, high = np.float32(0), np.float32(255)
    given = ops.parameter([1, _CHANNELS, 4, 4], np.float32)
    activation = ops.fake_quantize(given, low, high, low, high, 256)
    weight = ops.fake_quantize(
        ops.constant(np.full((_CHANNELS, _CHANNELS, 1, 1), 127, np.float32)),
        *(np.float32(limit) for limit in (-128, 127, -128, 127)),
        256,
    )
    product = ops.convolution(activation, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE"}
    compiled = core.compile_model(openvino.Model([product], [given], "saturation"), "CPU", properties)
    found = compiled(np.full((1, _CHANNELS, 4, 4), 255, np.float32))[0]
    return bool(found.max() < 0.99 * 255 * 127 * _CHANNELS)


def weights_within_7_bits(model: openvino.Model) -> int:
    """Quantize INT8 weights to -64..63 with twice the step; the model is changed.

    Weights that are stored as floats are rounded once, to the new step; those stored as integers are rounded again.
    Weights with a zero point other than 0 stay as they are; those of bundles are symmetric.

    Returns:
        Number of weight tensors.
    """
    from openvino import opset13 as ops

    changed = 0
    for node in list(model.get_ops()):
        narrow = _narrow(node)
        if narrow is None:
            continue
        multiply = _dequantization(node)
        if multiply is None:
            continue
        node.output(0).replace(narrow.output(0))
        doubled = ops.multiply(multiply.input_value(1), np.float32(2))
        multiply.input(1).replace_source_output(doubled.output(0))
        changed += 1
    return changed


def _narrow(node: openvino.Node) -> openvino.Node | None:
    """Half the integers that this node gives, if it is a weight in INT8.

    As a constant: OpenVINO leaves a convolution in FP32 whose weights are quantized to 128 levels on the way.
    """
    import openvino
    from openvino import opset13 as ops

    kind = node.get_type_name()
    if kind == "Constant" and node.get_element_type() == openvino.Type.i8 and np.size(node.data) > 1:
        halves = np.asarray(node.data, np.float32) / 2
    elif kind == "FakeQuantize" and node.input_value(0).get_node().get_type_name() == "Constant":
        values, low, high = (np.asarray(node.input_value(i).get_node().data) for i in range(3))
        halves = values / (2 * (high - low) / (node.get_attributes()["levels"] - 1))
    else:
        return None
    return ops.constant(np.rint(halves).clip(-64, 63).astype(np.int8))


def _dequantization(weight: openvino.Node) -> openvino.Node | None:
    """The product of the integers with their step, behind conversions and a zero point of 0."""
    node = weight
    while node.get_type_name() != "Multiply":
        readers = list(node.output(0).get_target_inputs())
        if len(readers) != 1 or readers[0].get_index() != 0:
            return None
        node = readers[0].get_node()
        kind = node.get_type_name()
        if kind not in ("Convert", "Subtract", "Multiply") or (kind == "Subtract" and not _is_zero(node)):
            return None
    return node


def _is_zero(subtract: openvino.Node) -> bool:
    node = subtract.input_value(1).get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and not np.any(np.asarray(node.data))
