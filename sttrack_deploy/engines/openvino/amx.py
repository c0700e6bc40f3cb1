"""The same graph in kernels that are faster on CPUs with AMX (matrix products in bfloat16 and INT8).

There the products themselves take little; what is around them counts. Measured on ``sttrack-r50``, one thread, CPU time
of a search step: 37.3 ms in INT8 with bf16 around it, 43.4 ms in bf16.

- A quantized input that is not symmetric costs a subtraction for each output of the product behind it: 34.1 ms without.
- The scale and shift of a layer norm are fused into the Q/DQ behind it, which then runs alone, in FP32; one reshape
  between them and it joins its neighbors: 32.9 ms.
- Products of many rows with a constant matrix are faster as 1x1 convolutions (by a fourth; their kernels handle a
  number of rows that is no multiple of 32 better): 32.1 ms, and 39.4 ms in bf16.

Only what rounding does changes. Other CPUs were not measured and keep their graphs as they are.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import openvino

__all__ = ["has_amx", "norms_apart", "products_as_convolutions", "suited_to_amx", "symmetric_ranges"]

LEAST_ROWS = 256
"""Products of fewer rows gain nothing (``sttrack-nano`` has 185)."""
LEVELS = 256


@functools.cache
def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has AMX for bfloat16 and INT8; unknown, and then no, where the system is not Linux."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next(
        (line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), []
    )
    return {"amx_bf16", "amx_int8"} <= set(flags)


def suited_to_amx(model: openvino.Model, precision: str) -> None:
    """Change a model of fixed shapes that will run in ``precision`` on a CPU with AMX; FP32 stays as it is."""
    quantized = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    if not quantized and precision != "bf16":
        return
    symmetric_ranges(model)
    norms_apart(model)
    products_as_convolutions(model)


def symmetric_ranges(model: openvino.Model) -> int:
    """Quantize activations that can be negative to -128..127 about zero instead of 0..255 with a zero point.

    The range grows to the larger side, so that nothing is cut off that was not before. One that begins at 0 stays.
    All are written as one operation that gives numbers and not integers: OpenVINO then chooses the integers.

    Returns:
        Number of activations.
    """
    changed = 0
    for node in model.get_ordered_ops():
        ends = _dequantized(node)
        if ends and (limits := _limits(node)) is not None:
            limits = _symmetric(limits) if limits[0] < 0.0 else limits
            _replace(node, _fake_quantize(node.input_value(0), *limits), ends)
            changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def norms_apart(model: openvino.Model) -> int:
    """Put a reshape between a layer norm of rows and its scale, and take back the rows behind what reads the result.

    Returns:
        Number of changed layer norms.
    """
    from openvino import opset13 as ops

    changed = 0
    for norm in model.get_ordered_ops():
        shape = _shape(norm.output(0))
        scale = _only_reader(norm)
        if norm.get_type_name() != "MVN" or shape is None or len(shape) != 2 or scale is None:
            continue
        shift = _only_reader(scale)
        if shift is None or (scale.get_type_name(), shift.get_type_name()) != ("Multiply", "Add"):
            continue
        factor, term = _constant_operand(scale), _constant_operand(shift)
        if factor is None or term is None:
            continue
        apart = ops.reshape(norm, np.array([1, *shape]), False)
        scaled = ops.multiply(apart, ops.constant(factor.reshape(1, 1, -1)))
        moved = ops.add(scaled, ops.constant(term.reshape(1, 1, -1)))
        moved.set_friendly_name(shift.get_friendly_name())
        for reader in list(shift.output(0).get_target_inputs()):
            node = reader.get_node()
            ends, limits = _dequantized(node), _limits(node)
            if limits is not None and (ends or ends is None):
                quantized = ops.reshape(_fake_quantize(moved.output(0), *limits), np.array(shape), False)
                _replace(node, quantized, ends or [node])
            else:
                reader.replace_source_output(ops.reshape(moved, np.array(shape), False).output(0))
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def products_as_convolutions(model: openvino.Model, least_rows: int = LEAST_ROWS) -> int:
    """Compute products of rows with a constant matrix as 1x1 convolutions, with the bias, ReLU and Q/DQ behind them.

    Returns:
        Number of changed products.
    """
    from openvino import opset13 as ops

    changed = 0
    for product in model.get_ordered_ops():
        shape = _shape(product.input_value(0)) if product.get_type_name() == "MatMul" else None
        if shape is None or len(shape) != 2 or shape[0] < least_rows:
            continue
        filters = _filters(product)
        if filters is None:
            continue
        rows, channels = shape
        image = ops.transpose(
            ops.reshape(product.input_value(0), np.array([1, rows, 1, channels]), False),
            np.array([0, 3, 1, 2]),
        )
        result: openvino.Node = ops.convolution(image, filters, [1, 1], [0, 0], [0, 0], [1, 1])
        last = product
        while (reader := _only_reader(last)) is not None:
            joined = _joined(reader, result)
            if joined is None:
                break
            result, last = joined, reader
        result.set_friendly_name(last.get_friendly_name())
        wide = _shape(last.output(0))
        assert wide is not None
        back = ops.reshape(ops.transpose(result, np.array([0, 2, 3, 1])), np.array(wide), False)
        last.output(0).replace(back.output(0))
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def _joined(reader: openvino.Node, image: openvino.Node) -> openvino.Node | None:
    """What ``reader`` does to rows, done to an image of them; ``None`` if it is none of what a convolution fuses."""
    from openvino import opset13 as ops

    kind = reader.get_type_name()
    if kind == "Relu":
        return ops.relu(image)
    if kind == "Add" and (bias := _constant_operand(reader)) is not None and bias.size == bias.shape[-1]:
        return ops.add(image, ops.constant(bias.reshape(1, -1, 1, 1)))
    if kind == "FakeQuantize" and _dequantized(reader) is None and (limits := _limits(reader)) is not None:
        return _fake_quantize(image.output(0), *limits)
    return None


def _filters(product: openvino.Node) -> openvino.Node | None:
    """The constant matrix of a product as filters ``(out, in, 1, 1)``, in INT8 where it is that; else ``None``."""
    from openvino import opset13 as ops

    turned = bool(product.get_attributes()["transpose_b"])
    weight = product.input_value(1).get_node()
    scale: npt.NDArray[Any] | None = None
    if weight.get_type_name() == "Multiply":  # behind INT8 and a zero point of 0
        scale = _constant(weight.input_value(1))
        weight = weight.input_value(0).get_node()
        while weight.get_type_name() in ("Convert", "Subtract"):
            weight = weight.input_value(0).get_node()
        if scale is None:
            return None
    values = _constant(weight.output(0))
    if values is None or values.ndim != 2:
        return None
    filters = np.ascontiguousarray(values if turned else values.T)[:, :, None, None]
    if scale is None:
        return ops.constant(filters)
    scales = np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), len(filters)), np.float32)
    return ops.multiply(ops.convert(ops.constant(filters), "f32"), ops.constant(scales[:, None, None, None]))


def _dequantized(node: openvino.Node) -> list[openvino.Node] | None:
    """The products with the step behind a quantization to integers; ``None`` if the node gives numbers itself."""
    if node.get_type_name() != "FakeQuantize":
        return []
    found, open_nodes = [], [node]
    while open_nodes:
        for reader in open_nodes.pop().output(0).get_target_inputs():
            kind = reader.get_node().get_type_name()
            if kind in ("Convert", "Subtract"):
                open_nodes.append(reader.get_node())
            elif kind == "Multiply":
                found.append(reader.get_node())
            else:
                return None
    return found


def _limits(node: openvino.Node) -> tuple[float, float] | None:
    """Range of an activation's quantization to 256 levels, where all of it has one."""
    if node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] != LEVELS:
        return None
    low, high = _constant(node.input_value(1)), _constant(node.input_value(2))
    if _constant(node.input_value(0)) is not None or low is None or high is None or low.size * high.size != 1:
        return None
    return float(low.reshape(-1)[0]), float(high.reshape(-1)[0])


def _symmetric(limits: tuple[float, float]) -> tuple[float, float]:
    step = max(-limits[0] / 128, limits[1] / 127)
    return -128 * step, 127 * step


def _fake_quantize(values: openvino.Output, low: float, high: float) -> openvino.Node:
    from openvino import opset13 as ops

    limits = (np.float32(low), np.float32(high))
    return ops.fake_quantize(values, *limits, *limits, LEVELS)


def _replace(quantization: openvino.Node, new: openvino.Node, ends: list[openvino.Node]) -> None:
    new.set_friendly_name(quantization.get_friendly_name())
    for end in ends:
        end.output(0).replace(new.output(0))


def _only_reader(node: openvino.Node) -> openvino.Node | None:
    readers = [] if node.get_output_size() != 1 else list(node.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def _shape(port: openvino.Output) -> list[int] | None:
    shape = port.get_partial_shape()
    return [axis.get_length() for axis in shape] if shape.is_static else None


def _constant_operand(node: openvino.Node) -> npt.NDArray[Any] | None:
    """The constant one of a node's two operands."""
    found = [_constant(value) for value in node.input_values()]
    return next((value for value in found if value is not None), None)


def _constant(port: openvino.Output) -> npt.NDArray[Any] | None:
    node = port.get_node()
    while node.get_type_name() == "Reshape":  # of the scales of a weight's channels
        node = node.input_value(0).get_node()
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None
