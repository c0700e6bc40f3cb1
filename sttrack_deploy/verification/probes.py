"""Making a graph's intermediate tensors visible: as extra outputs for ONNX Runtime, as state for any engine.

Needs the package onnx, imported when it is used. With a tensor exposed an engine cannot fuse across it, so the
numbers are those of the graph's single operators.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import (
    MANIFEST,
    TEMPLATE_MASK,
    Bundle,
    GraphSpec,
    StateSpec,
    TensorSpec,
    open_bundle,
)
from sttrack_deploy.errors import MissingDependencyError
from sttrack_deploy.files import sha256_of

if TYPE_CHECKING:
    import onnx

__all__ = ["Exposed", "intermediates", "probe_bundle", "require_onnx"]

Arrays = dict[str, npt.NDArray[Any]]

_PROBE, _ZERO = "probe", "probe_zero"


@dataclass(frozen=True, slots=True)
class Exposed:
    """A graph's floating point tensors on one input.

    Attributes:
        values: by tensor name, in the order in which the nodes compute them; float32.
        operators: the operator that computes each.
    """

    values: Arrays
    operators: Mapping[str, str]


def require_onnx() -> ModuleType:
    """The package onnx.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", "the search for the first tensor", "pip install onnx") from error
    return onnx


def intermediates(path: Path, feeds: Mapping[str, npt.NDArray[Any]]) -> Exposed:
    """Every floating point tensor of a graph file, computed by ONNX Runtime on one thread.

    Args:
        feeds: all inputs of the graph.
    """
    onnx_package = require_onnx()
    import onnxruntime

    model = onnx_package.load(path)
    operators = _floating(model)
    declared = {output.name for output in model.graph.output}
    _expose(model, [name for name in operators if name not in declared])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = list(operators)
    values = session.run(names, dict(feeds))
    return Exposed({n: np.asarray(v, np.float32) for n, v in zip(names, values, strict=True)}, operators)


def probe_bundle(
    bundle: Bundle, tensors: Mapping[str, npt.NDArray[Any]], graph: str, batch: int, folder: Path
) -> tuple[Bundle, dict[str, str]]:
    """A copy of a bundle whose state also holds intermediate tensors, so that every engine hands them out.

    Args:
        tensors: those to expose, as :func:`intermediates` found them for this bundle (their shapes count).
        graph: ``"search"`` or ``"template"``: the graph they are in.
        batch: targets for each call; a dynamic batch becomes this fixed one.
        folder: an empty folder to write.

    Returns:
        the bundle, and the name of the tensor by the name of its state.
    """
    onnx_package = require_onnx()
    models = {
        name: onnx_package.load(path)
        for name, path in (("template", bundle.template_path), ("search", bundle.search_path))
    }
    for model in models.values():
        _fix_batch(model, batch)
    float32 = onnx_package.TensorProto.FLOAT
    helper = onnx_package.helper
    template, search = models["template"].graph, models["search"].graph
    if graph == "template":
        _add_zero(onnx_package, template)
    types = _types(models[graph])
    states, names = [], {}
    for index, (tensor, value) in enumerate(tensors.items()):
        state = f"{_PROBE}_{index:04d}"
        names[state] = tensor
        shape = list(value.shape)
        initial, given = f"{state}_initial", f"{state}_in"
        source = tensor
        if types[tensor] != float32:
            source = f"{state}_float"
            models[graph].graph.node.append(helper.make_node("Cast", [tensor], [source], to=float32))
        search.input.append(helper.make_tensor_value_info(given, float32, shape))
        template.output.append(helper.make_tensor_value_info(initial, float32, shape))
        if graph == "template":
            template.node.append(helper.make_node("Add", [source, _ZERO], [initial]))
            states.append(StateSpec(state, initial, given, None))
            continue
        size = f"{state}_shape"
        template.initializer.append(onnx_package.numpy_helper.from_array(np.array(shape, np.int64), size))
        template.node.append(helper.make_node("ConstantOfShape", [size], [initial]))
        search.node.append(helper.make_node("Add", [source, given], [f"{state}_out"]))
        search.output.append(helper.make_tensor_value_info(f"{state}_out", float32, shape))
        states.append(StateSpec(state, initial, given, f"{state}_out"))
    m = bundle.manifest
    manifest = dataclasses.replace(
        m,
        template=_written(onnx_package, models["template"], folder / m.template.file),
        search=_written(onnx_package, models["search"], folder / m.search.file),
        state=(*m.state, *states),
        batch=batch,
    )
    if bundle.weights_path.is_file():
        shutil.copy(bundle.weights_path, folder / bundle.weights_path.name)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(folder), names


def _add_zero(onnx_package: ModuleType, graph: onnx.GraphProto) -> None:
    """A zero that no optimizer can know to be one: min(greatest value of the mask, 0).

    Adding it to a tensor gives that tensor a name of its own; a mere copy is optimized away together with its name.
    """
    node = onnx_package.helper.make_node
    zero = onnx_package.numpy_helper.from_array(np.zeros((), np.float32), f"{_ZERO}_constant")
    graph.initializer.append(zero)
    graph.node.append(node("Cast", [TEMPLATE_MASK], [f"{_ZERO}_mask"], to=onnx_package.TensorProto.FLOAT))
    graph.node.append(node("ReduceMax", [f"{_ZERO}_mask"], [f"{_ZERO}_most"], keepdims=0))
    graph.node.append(node("Min", [f"{_ZERO}_most", zero.name], [_ZERO]))


def _floating(model: onnx.ModelProto) -> dict[str, str]:
    """Tensors that a node computes and that are known to be floating point, in order, with the operator."""
    onnx_package = require_onnx()
    floats = {onnx_package.TensorProto.FLOAT, onnx_package.TensorProto.FLOAT16}
    types = _types(model)
    return {
        output: node.op_type
        for node in model.graph.node
        for output in node.output
        if types.get(output) in floats and node.op_type != "Constant"
    }


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX element type of every tensor that inference knows."""
    inferred = require_onnx().shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}


def _expose(model: onnx.ModelProto, names: Iterable[str]) -> None:
    types, make = _types(model), require_onnx().helper.make_tensor_value_info
    model.graph.output.extend([make(name, types[name], None) for name in names])


def _fix_batch(model: onnx.ModelProto, batch: int) -> None:
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = batch


def _written(onnx_package: ModuleType, model: onnx.ModelProto, path: Path) -> GraphSpec:
    onnx_package.save(model, path)

    def specs(values: Iterable[Any]) -> tuple[TensorSpec, ...]:
        to_numpy = onnx_package.helper.tensor_dtype_to_np_dtype
        return tuple(
            TensorSpec(
                v.name,
                to_numpy(v.type.tensor_type.elem_type).name,
                tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in values
        )

    return GraphSpec(
        path.name, sha256_of(path), path.stat().st_size, specs(model.graph.input), specs(model.graph.output)
    )
