"""The buffers, contexts and graphs of one track, and of the template plan that starts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import BOX, CONFIDENCE, SEARCH_IMAGE, SEARCH_MASK, StateSpec, TensorSpec
from sttrack_deploy.engines.cuda.memory import ALIGNMENT, Graph, Stream, TensorGroup, when_gone
from sttrack_deploy.engines.tensorrt.plan import Plan, RuntimeCache, new_context, shape_for
from sttrack_deploy.engines.tensorrt.toolkit import Platform
from sttrack_deploy.errors import UsageError, UserError

__all__ = ["Shared", "TemplateStage", "Track"]

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass
class Shared:
    """What all tracks use in turn: the plans, the stream that orders everything, and the scratch memory.

    Attributes:
        kernels: where the kernels are compiled here (TensorRT for RTX), those that were.
    """

    here: Platform
    template: Plan
    search: Plan
    state: tuple[StateSpec, ...]
    kernels: RuntimeCache | None = None
    stream: Stream = field(init=False)
    _scratch: TensorGroup = field(init=False)

    def __post_init__(self) -> None:
        outputs = [spec.initial for spec in self.state]
        if len(set(outputs)) != len(outputs):
            raise UserError(
                "two state tensors start from one output of the template graph; export the bundle again"
            )
        size = max(self.template.workspace_bytes, self.search.workspace_bytes, ALIGNMENT)
        self._scratch = TensorGroup(self.here.cuda, {"scratch": ("uint8", (size,))})
        self.stream = self.here.cuda.stream()
        when_gone(self, self.here.cuda.free_stream, self.stream)

    def context(self, plan: Plan, batch: int) -> Any:
        workspace = self._scratch.address("scratch"), self._scratch.size
        settings = None if self.kernels is None else self.kernels.settings(plan)
        return new_context(self.here, plan, batch, workspace, self.stream, settings)

    def group(self, tensors: Iterable[TensorSpec], batch: int, *, staged: bool = False) -> TensorGroup:
        layout = {tensor.name: (tensor.dtype, shape_for(tensor, batch)) for tensor in tensors}
        return TensorGroup(self.here.cuda, layout, staged=staged)

    def synchronize(self) -> None:
        self.here.cuda.synchronize(self.stream)


class TemplateStage:
    """The template plan for one batch size; it writes straight into the buffers of the track it starts."""

    def __init__(self, shared: Shared, batch: int) -> None:
        self._shared = shared
        self._context = shared.context(shared.template, batch)
        self._inputs = shared.group(shared.template.spec.inputs, batch, staged=True)
        for tensor in shared.template.spec.inputs:
            _bind(self._context, tensor.name, self._inputs)

    def put(self, values: Arrays) -> None:
        _stage(self._inputs, values)

    def enqueue(self, track: Track) -> bool:
        """Compute a track's first state. False: TensorRT could not enqueue it."""
        for spec in self._shared.state:
            group = track.group_of(spec, 0)
            if not self._context.set_tensor_address(spec.initial, group.address(spec.input)):
                return False
        self._inputs.upload(self._shared.stream)
        return bool(self._context.execute_async_v3(self._shared.stream.handle))


class Track:
    """One track, or one batch of tracks.

    Attributes:
        batch: its number of targets.
        steps: counts up with every step, so that a state that was used up is recognized.
    """

    def __init__(self, shared: Shared, batch: int) -> None:
        self.batch = batch
        self.steps = 0
        self._shared = shared
        spec = shared.search.spec
        by_name = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        recurrent = [state for state in shared.state if state.output is not None]
        constant = [by_name[state.input] for state in shared.state if state.output is None]
        self._inputs = shared.group([by_name[SEARCH_IMAGE], by_name[SEARCH_MASK]], batch, staged=True)
        self._outputs = shared.group([by_name[BOX], by_name[CONFIDENCE]], batch, staged=True)
        self._constant = shared.group(constant, batch)
        # Both sides are laid out by the inputs' names, which is how they are read.
        self._sides = [shared.group([by_name[state.input] for state in recurrent], batch) for _ in range(2)]
        # A context for each direction: a graph is tied to the state of the context it was captured from.
        self._contexts = [shared.context(shared.search, batch) for _ in range(2)]
        self._graphs: list[Graph | None] = [None, None]
        for side, context in enumerate(self._contexts):
            for name in (SEARCH_IMAGE, SEARCH_MASK):
                _bind(context, name, self._inputs)
            for name in (BOX, CONFIDENCE):
                _bind(context, name, self._outputs)
            for tensor in constant:
                _bind(context, tensor.name, self._constant)
            for state in recurrent:
                assert state.output is not None
                _bind(context, state.input, self._sides[side])
                _bind(context, state.output, self._sides[1 - side], state.input)

    def group_of(self, spec: StateSpec, side: int) -> TensorGroup:
        """Where a state tensor lies."""
        return self._constant if spec.output is None else self._sides[side]

    def put(self, values: Arrays) -> None:
        """Stage the crop; nothing may be running that reads the last one."""
        _stage(self._inputs, values)

    def output(self, name: str) -> npt.NDArray[np.float32]:
        """A copy of a result of the last step."""
        return self._outputs.view(name).copy()

    def enqueue(self, side: int) -> bool:
        """Put one step into the stream. False: TensorRT could not enqueue it."""
        stream = self._shared.stream
        self._inputs.upload(stream)
        if not self._contexts[side].execute_async_v3(stream.handle):
            return False
        self._outputs.download(stream)
        return True

    def record(self, side: int) -> bool:
        """Capture a step as a graph; the same step must have run before, since TensorRT prepares itself then."""
        shared = self._shared
        if shared.here.flavor.portable and not self._contexts[side].is_stream_capturable(
            shared.stream.handle
        ):
            return False
        graph = shared.here.cuda.capture(shared.stream, lambda: self.enqueue(side))
        if graph is None:
            return False
        when_gone(self, shared.here.cuda.free_graph, graph)
        self._graphs[side] = graph
        return True

    def launch(self, side: int) -> bool:
        """Put one step into the stream as a graph. False: there is none."""
        graph = self._graphs[side]
        if graph is None:
            return False
        self._shared.here.cuda.launch(graph, self._shared.stream)
        return True

    def read(self, side: int) -> dict[str, npt.NDArray[Any]]:
        """Copies of all state tensors by the names of the search graph's inputs."""
        stream = self._shared.stream
        return {**self._constant.read(stream), **self._sides[side].read(stream)}

    def write(self, values: Arrays) -> None:
        """Set all state tensors of side 0."""
        for group in (self._constant, self._sides[0]):
            group.write(values, self._shared.stream)


def _bind(context: Any, name: str, group: TensorGroup, stored_as: str | None = None) -> None:
    if not context.set_tensor_address(name, group.address(stored_as or name)):
        raise UserError(f"TensorRT refuses the address of {name!r}; build the plans again with --rebuild")


def _stage(group: TensorGroup, values: Arrays) -> None:
    for name, value in values.items():
        view = group.view(name)
        if value.shape != view.shape or value.dtype != view.dtype:
            raise UsageError(
                f"{name} is {value.dtype} {list(value.shape)}, not {view.dtype} {list(view.shape)}"
            )
        view[...] = value
