"""Can TensorRT take this graph? Checked against its operator table, without TensorRT.

The tests hold this against the real parser and builder of TensorRT for RTX.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib import resources

import onnx
from onnx import TensorProto, numpy_helper

from sttrack_deploy.errors import UserError

__all__ = ["check_operators", "unsupported_nodes"]

_NAMES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}

TOP_K = 3840
"""TopK takes fewer than so many."""

_LITERAL_AXES = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "CumSum"}
"""Operators whose second input must be known when the engine is built."""


@functools.cache
def _table() -> dict[str, list[str]]:
    text = resources.files("sttrack_deploy.export").joinpath("tensorrt_operators.json").read_text()
    operators: dict[str, list[str]] = json.loads(text)["operators"]
    return operators


def unsupported_nodes(model: onnx.ModelProto) -> list[str]:
    """One line for each node that TensorRT would refuse: name, operator and why. Empty is good.

    Checked: the operator, the dtypes of its inputs and outputs, UINT8 used elsewhere than in a cast of a
    network input (or taken for INT8 by Q/DQ), zero points, axes that are not constants, how Resize interpolates,
    the K of TopK, attention in FP32, and LayerNormalization's extra outputs.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = inferred.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    types.update({i.name: i.data_type for i in graph.initializer})
    constants = {i.name for i in graph.initializer}
    constants |= {o for node in graph.node if node.op_type == "Constant" for o in node.output}
    values = {i.name: i for i in graph.initializer}
    values |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    inputs = {v.name for v in graph.input}
    problems = []
    for node in graph.node:
        what = f"node '{node.name}' ({node.op_type})"
        if node.domain not in ("", "ai.onnx"):
            problems.append(f"{what}: operators of the domain '{node.domain}' are not in the table")
            continue
        allowed = _table().get(node.op_type)
        if allowed is None:
            problems.append(f"{what}: TensorRT has no such operator")
            continue
        for value in _typed_values(node, model.opset_import[0].version):
            dtype = _NAMES.get(types.get(value, 0))
            if types.get(value, 0) == TensorProto.DOUBLE and "FP32" in allowed:
                continue  # the parser takes float64 as FP32
            if types.get(value, 0) and dtype not in allowed:
                name = dtype or TensorProto.DataType.Name(types[value])
                problems.append(f"{what}: '{value}' is {name}, allowed are {', '.join(allowed)}")
        if node.op_type != "Cast" or not inputs.issuperset(node.input):
            problems += [
                f"{what}: '{value}' is UINT8, which is for network inputs only and must be cast at once"
                for value in (*node.input, *node.output)
                if types.get(value, 0) == TensorProto.UINT8
            ]
        if node.op_type in _LITERAL_AXES and len(node.input) > 1 and node.input[1] not in constants:
            problems.append(f"{what}: its axes '{node.input[1]}' must be a constant")
        problems += [f"{what}: {problem}" for problem in _refused_settings(node, types, values)]
        if node.op_type == "LayerNormalization" and len([o for o in node.output if o]) > 1:
            problems.append(f"{what}: only the first output of LayerNormalization is supported")
    return problems


def _refused_settings(
    node: onnx.NodeProto, types: Mapping[str, int], values: Mapping[str, onnx.TensorProto]
) -> Iterator[str]:
    """What TensorRT does not do of an operator that it has. The parser takes some of it, and the builder fails."""
    settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Resize":
        if settings.get("antialias"):
            yield "antialias is not supported"
        if settings.get("mode", b"nearest") == b"cubic":
            yield "mode cubic is not supported"
    elif node.op_type == "TopK" and len(node.input) > 1 and node.input[1] in values:
        count = int(numpy_helper.to_array(values[node.input[1]]).reshape(-1)[0])
        if count >= TOP_K:
            yield f"K is {count}, and must be less than {TOP_K}"
    elif node.op_type == "Attention" and types.get(node.input[0]) in (TensorProto.FLOAT, TensorProto.DOUBLE):
        yield "Attention is built in FP16 or BF16 only, not in FP32"
    elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2]:
        zero = values.get(node.input[2])
        if zero is None or numpy_helper.to_array(zero).any():
            yield "its zero point must be a constant 0"


def _typed_values(node: onnx.NodeProto, opset: int) -> list[str]:
    """The inputs and outputs that the table's dtypes speak of: not indices, axes, shapes or conditions."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    variables = {parameter.type_str for parameter in schema.inputs}
    if node.op_type == "Cast":
        typed = {"T1", "T2"}
    elif node.op_type == "ConstantOfShape":
        typed = {"T2"}
    else:
        typed = {"T"} if "T" in variables else {"T1"}
    values = []
    for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            # The last formal parameter of a variadic operator stands for all that follow.
            parameter = parameters[min(index, len(parameters) - 1)]
            if name and parameter.type_str in typed:
                values.append(name)
    return values


def check_operators(model: onnx.ModelProto, name: str) -> None:
    """
    Raises:
        UserError: TensorRT would refuse the graph; every offending node is named.
    """
    problems = unsupported_nodes(model)
    if problems:
        raise UserError(f"{name}: TensorRT would refuse this graph: {'; '.join(problems)}")
