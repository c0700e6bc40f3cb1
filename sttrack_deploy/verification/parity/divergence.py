"""Which tensor diverges first? Found by making a graph's intermediate tensors visible, on the frame that diverges.

They are made visible as extra outputs for ONNX Runtime, as state for any engine. With a tensor exposed an engine cannot
fuse across it, so the numbers are those of the graph's single operators. The package onnx is imported when it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import (
    MANIFEST,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
    GraphSpec,
    StateSpec,
    TensorSpec,
    open_bundle,
)
from sttrack_deploy.engines.base import Arrays
from sttrack_deploy.engines.building import VARIABLE
from sttrack_deploy.engines.recording import Recording
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import MissingDependencyError
from sttrack_deploy.files import sha256_of
from sttrack_deploy.verification.parity.tensor_errors import relative_error

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Divergence",
    "Exposed",
    "TensorStep",
    "find_divergence",
    "intermediates",
    "probe_bundle",
    "require_onnx",
]

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
        the bundle, and the name of the tensor by the name of its state. A tensor whose first axis is not the batch is
        handed out as ``(batch, -1)``; one that cannot be cut into as many parts is left out.
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
        if value.size % batch:
            continue
        state = f"{_PROBE}_{index:04d}"
        names[state] = tensor
        shape = list(value.shape)
        initial, given = f"{state}_initial", f"{state}_in"
        source = tensor
        if types[tensor] != float32:
            source = f"{state}_float"
            models[graph].graph.node.append(helper.make_node("Cast", [tensor], [source], to=float32))
        if shape[:1] != [batch]:  # the first axis of a state is the batch
            shape = [batch, value.size // batch]
            flat = onnx_package.numpy_helper.from_array(np.array(shape, np.int64), f"{state}_flat")
            models[graph].graph.initializer.append(flat)
            models[graph].graph.node.append(
                helper.make_node("Reshape", [source, flat.name], [f"{state}_flattened"])
            )
            source = f"{state}_flattened"
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
        layouts={},
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


_ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True)
class TensorStep:
    """One tensor on the way through the graph, and its relative error there."""

    tensor: str
    operator: str
    relative: float


@dataclass(frozen=True, slots=True)
class Divergence:
    """The bisect of one frame, on the reference's crop and state.

    Attributes:
        sequence, frame: 0 is the template's frame.
        graph: ``template`` or ``search``.
        compared_with: whose tensors the deployment's were held against.
        first: the first tensor beyond the tolerance; ``None``: every single one stays within it, so that the
            error came with the state that was carried.
        worst: the tensor with the greatest error.
        steps: all that were compared, in order.
        missing: tensors of the reference graph that the deployment's does not have by that name.
    """

    sequence: str
    frame: int
    graph: str
    compared_with: str
    tolerance: float
    first: TensorStep | None
    worst: TensorStep | None
    steps: tuple[TensorStep, ...]
    missing: int


def find_divergence(
    deployment: Bundle,
    engine_name: str,
    threads: int | None,
    reference: Bundle | None,
    recording: Recording,
    step: int | None,
    tolerance: float,
) -> Divergence | None:
    """Compare all intermediate tensors of one frame.

    Args:
        reference: the fp32 bundle of the same weights; ``None``: the deployment's own graph is the reference.
        step: of the recording, 0 is frame 1; ``None``: the template graph.
        tolerance: relative error from which a tensor counts as diverged.

    Returns:
        ``None`` if the engine does not compute this graph (PyTorch).

    Raises:
        MissingDependencyError: the package onnx is not installed.
    """
    if engine_name == "torch":
        return None
    graph = "template" if step is None else "search"
    deployment = deployment.for_engine(engine_name)
    base = reference or deployment
    expected = intermediates(_path(base, graph), _feeds(base, recording, step))
    own = intermediates(_path(deployment, graph), _feeds(deployment, recording, step))
    values = own.values
    if engine_name != _ONNXRUNTIME:
        values = _through_engine(deployment, engine_name, threads, own, recording, step)
    steps = _compare(expected, values)
    return Divergence(
        sequence=recording.sequence,
        frame=0 if step is None else step + 1,
        graph=graph,
        compared_with=f"{base.path.name} on {_ONNXRUNTIME}",
        tolerance=tolerance,
        first=next((s for s in steps if s.relative > tolerance), None),
        worst=max(steps, key=lambda s: s.relative, default=None),
        steps=tuple(steps),
        missing=len(expected.values) - len(steps),
    )


def _path(bundle: Bundle, graph: str) -> Path:
    return bundle.template_path if graph == "template" else bundle.search_path


def _feeds(bundle: Bundle, recording: Recording, step: int | None) -> Arrays:
    if step is None:
        return {TEMPLATE_IMAGE: recording.start.template, TEMPLATE_MASK: recording.start.mask}
    crop = recording.steps[step]
    carried = {spec.input: crop.before[spec.name] for spec in bundle.manifest.state}
    return {SEARCH_IMAGE: crop.search, SEARCH_MASK: crop.mask, **carried}


def _compare(expected: Exposed, values: Arrays) -> list[TensorStep]:
    return [
        TensorStep(name, expected.operators[name], relative_error(values[name], reference))
        for name, reference in expected.values.items()
        if name in values and values[name].shape == reference.shape
    ]


def _through_engine(
    bundle: Bundle,
    engine_name: str,
    threads: int | None,
    own: Exposed,
    recording: Recording,
    step: int | None,
) -> Arrays:
    """The tensors as the engine computes them."""
    graph = "template" if step is None else "search"
    with tempfile.TemporaryDirectory(prefix="sttrack-probe-") as folder:
        probed, names = probe_bundle(bundle, own.values, graph, len(recording.start.template), Path(folder))
        with _cache_in(Path(folder)):
            engine = load_engine(engine_name, probed, threads)
            if step is None:
                state = engine.initial_state(recording.start.template, recording.start.mask)
            else:
                crop = recording.steps[step]
                first = engine.export_state(
                    engine.initial_state(recording.start.template, recording.start.mask)
                )
                state = engine.import_state({**first, **crop.before})  # probes start from zero
                _, state = engine.step(crop.search, crop.mask, state)
            found = engine.export_state(state)
        return {tensor: found[name].reshape(own.values[tensor].shape) for name, tensor in names.items()}


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """What engines cache of a bundle that lives for seconds does not belong in the user's engine cache."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder / "engines")
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
