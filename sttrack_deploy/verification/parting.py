"""Where a candidate parts from the reference: the first tensor, in the order in which the graph computes them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import SEARCH_IMAGE, SEARCH_MASK, TEMPLATE_IMAGE, TEMPLATE_MASK, Bundle
from sttrack_deploy.engines.registry import create_engine
from sttrack_deploy.engines.shelf import VARIABLE
from sttrack_deploy.verification.engine_state import given_state, read_state
from sttrack_deploy.verification.probes import Exposed, intermediates, probe_bundle
from sttrack_deploy.verification.recording import Recording
from sttrack_deploy.verification.tensor_errors import relative_error

__all__ = ["Parting", "TensorStep", "find_parting"]

Arrays = dict[str, npt.NDArray[Any]]

_ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True)
class TensorStep:
    """One tensor on the way through the graph, and its relative error there."""

    tensor: str
    operator: str
    relative: float


@dataclass(frozen=True, slots=True)
class Parting:
    """The bisect of one frame, on the reference's crop and state.

    Attributes:
        sequence, frame: 0 is the template's frame.
        graph: ``template`` or ``search``.
        compared_with: whose tensors the candidate's were held against.
        first: the first tensor beyond the tolerance; ``None``: every single one stays within it, so that the
            error came with the state that was carried.
        worst: the tensor with the greatest error.
        steps: all that were compared, in order.
        missing: tensors of the reference graph that the candidate's does not have by that name.
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


def find_parting(
    candidate: Bundle,
    engine_name: str,
    threads: int | None,
    reference: Bundle | None,
    recording: Recording,
    step: int | None,
    tolerance: float,
) -> Parting | None:
    """Compare all intermediate tensors of one frame.

    Args:
        reference: the fp32 bundle of the same weights; ``None``: the candidate's own graph is the reference.
        step: of the recording, 0 is frame 1; ``None``: the template graph.
        tolerance: relative error from which a tensor counts as parted.

    Returns:
        ``None`` if the engine does not compute this graph (PyTorch) or shows no state.

    Raises:
        MissingDependencyError: the package onnx is not installed.
    """
    if engine_name == "torch":
        return None
    graph = "template" if step is None else "search"
    base = reference or candidate
    expected = intermediates(_path(base, graph), _feeds(base, recording, step))
    own = intermediates(_path(candidate, graph), _feeds(candidate, recording, step))
    values: Arrays | None = own.values
    if engine_name != _ONNXRUNTIME:
        values = _through_engine(candidate, engine_name, threads, own, recording, step)
    if values is None:
        return None
    steps = _compare(expected, values)
    return Parting(
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
        return {TEMPLATE_IMAGE: recording.template, TEMPLATE_MASK: recording.template_mask}
    state = recording.state_before(step)
    crop = recording.steps[step]
    carried = {spec.input: state[spec.name] for spec in bundle.manifest.state}
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
) -> Arrays | None:
    """The tensors as the engine computes them; ``None`` if it does not show its state.

    An engine that takes no state is run from the template on, so that its tensors at ``step`` also hold what
    its own state brought along.
    """
    graph = "template" if step is None else "search"
    with tempfile.TemporaryDirectory(prefix="sttrack-probe-") as folder:
        probed, names = probe_bundle(bundle, own.values, graph, len(recording.template), Path(folder))
        with _shelf_in(Path(folder)):
            engine = create_engine(engine_name, probed, threads)
            state = engine.initial_state(recording.template, recording.template_mask)
            if step is not None:
                zeros = {name: np.zeros_like(own.values[tensor]) for name, tensor in names.items()}
                given = given_state(engine, probed, state, {**recording.state_before(step), **zeros})
                left = recording.steps[: step + 1] if given is None else recording.steps[step : step + 1]
                state = state if given is None else given
                for crop in left:
                    _, state = engine.step(crop.search, crop.mask, state)
            found = read_state(engine, probed, state)
        return None if found is None else {tensor: found[name] for name, tensor in names.items()}


@contextlib.contextmanager
def _shelf_in(folder: Path) -> Iterator[None]:
    """What engines cache of a bundle that lives for seconds does not belong on the user's shelf."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder / "engines")
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
