"""A bundle's manifest: every fact that the runtime needs, validated as a whole when it is read.

No setting is repeated in code. Reading one needs neither torch nor onnx.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from sttrack_deploy.errors import UserError
from sttrack_deploy.onnx_header import Port
from sttrack_deploy.policy import TrackingPolicy
from sttrack_deploy.records import Matches, PlainName, Sha256, Within, fill, parse_json, show

__all__ = [
    "BOX",
    "CONFIDENCE",
    "LAYOUT_OF",
    "MANIFEST",
    "PRECISIONS",
    "SCHEMA",
    "SEARCH_IMAGE",
    "SEARCH_MASK",
    "TEMPLATE_IMAGE",
    "TEMPLATE_MASK",
    "CropSpec",
    "GraphSpec",
    "LayoutSpec",
    "Manifest",
    "StateSpec",
    "TensorSpec",
    "plain_name",
    "show_port",
]

SCHEMA = 1
MANIFEST = "manifest.json"

# Names of the graphs' fixed inputs and outputs; all others are state.
TEMPLATE_IMAGE, TEMPLATE_MASK = "template_image", "template_mask"
SEARCH_IMAGE, SEARCH_MASK = "search_image", "search_mask"
BOX, CONFIDENCE = "box", "confidence"

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-fp16")
"""What a bundle's numbers can be."""

LAYOUT_OF: Mapping[str, str] = {
    name: "tensorrt" for name in ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt")
}
"""Engines that want the graphs in a layout of their own, where a bundle has it, and that layout. All others run the
bundle's main graphs."""

TensorName = Annotated[str, Matches(r"[A-Za-z0-9_./:-]{1,200}", "a tensor's name of A-Z a-z 0-9 _ . / : -")]
Side = Annotated[int, Within(1, 4096)]
Factor = Annotated[float, Within(0, 64, open_low=True)]
Batch = Annotated[int, Within(1, 1024)] | Literal["dynamic"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph's input or output; ``shape`` holds ``"batch"`` where the axis is dynamic."""

    name: TensorName
    dtype: Annotated[str, Matches("u?int8|int32|int64|bool|float16|float32", "a tensor's type")]
    shape: tuple[Annotated[int, Within(1, 1 << 24)] | Literal["batch"], ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """An ONNX file of the bundle, its hash and its interface."""

    file: PlainName
    sha256: Sha256
    bytes: Annotated[int, Within(1)]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class LayoutSpec:
    """The same two graphs laid out for some engines; see :data:`LAYOUT_OF`."""

    template: GraphSpec
    search: GraphSpec


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One state tensor.

    Attributes:
        name: what it is.
        initial: output of the template graph that holds its first value.
        input: input of the search graph that takes it.
        output: output of the search graph with its next value; ``None`` if it never changes.
    """

    name: PlainName
    initial: TensorName
    input: TensorName
    output: TensorName | None


@dataclass(frozen=True, slots=True)
class CropSpec:
    """How crops are cut; sizes in pixels, factors are the crop's side over the size of the box (see ``context``).

    Attributes:
        search_grid: search crops lie on a grid of this part of their side, and boxes are mapped back through the crop
            as it was cut (``geometry.snapped_window``); 0: the published rule (``geometry.crop_window``).
        search_scale_step: step of the sides of such crops; 0: any whole number of pixels.
        context: the size of a box is ``sqrt((w + p) (h + p))`` with ``p = context * (w + h)``; 0, as published:
            ``sqrt(w * h)``.
    """

    template_size: Side
    template_factor: Factor
    search_size: Side
    search_factor: Factor
    stride: Side
    search_grid: Annotated[float, Within(0, 0.25)] = 0.0
    search_scale_step: Annotated[float, Within(0, 0.25)] = 0.0
    context: Annotated[float, Within(0, 2)] = 0.0

    @property
    def snapped(self) -> bool:
        """Whether search crops lie on a grid."""
        return self.search_grid > 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything known about a bundle; see the fields' own types.

    Attributes:
        model: the network's configuration (:class:`sttrack_deploy.models.config.ModelConfig` as a dict).
        batch: number of targets for each call, or ``"dynamic"``.
        precision: name and recipe of the numeric precision.
        layouts: further files with both graphs, for engines whose kernels want them otherwise (INT8); by layout.
        weights: file and hash of the weights the graphs were made from (what the torch engine runs).
        checkpoint: name and hash of the file that was exported.
        validation: parity that was measured at export.
        accuracy: measured accuracy, empty if none was.
        tools: versions of the packages that made it.
    """

    name: PlainName
    crop: CropSpec
    template: GraphSpec
    search: GraphSpec
    state: tuple[StateSpec, ...]
    model: Mapping[str, Any]
    batch: Batch
    opset: Annotated[int, Within(1, 1000)]
    tracking: TrackingPolicy = field(default_factory=TrackingPolicy)
    precision: Mapping[str, Any] = field(default_factory=lambda: {"name": "fp32"})
    layouts: Mapping[str, LayoutSpec] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    license: str = "Apache-2.0"
    schema: int = SCHEMA

    @property
    def title(self) -> str:
        """The name with the precision in it: what people read, and what results are filed under.

        A bundle of fp32, and one whose name says its precision already, are called by the name.
        """
        precision = str(self.precision.get("name", "fp32"))
        said = precision == "fp32" or precision in self.name.split("-") or self.name.endswith(f"-{precision}")
        return self.name if said else f"{self.name}-{precision}"

    @property
    def graphs(self) -> tuple[GraphSpec, ...]:
        """Every graph of the bundle, those of further layouts at the end."""
        others = (graph for layout in self.layouts.values() for graph in (layout.template, layout.search))
        return (self.template, self.search, *others)

    @property
    def smallest_batch(self) -> int:
        """Targets that a call must hold at least: the fixed batch, or 1."""
        return self.batch if isinstance(self.batch, int) else 1

    def to_json(self) -> str:
        """Indented JSON with a final newline, keys sorted."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """The reverse of :meth:`to_json`; ``where`` names the file in errors.

        Raises:
            UserError: not JSON, another schema, or a field is missing or malformed.
        """
        again = "export the bundle again"
        try:
            data = parse_json(text, where)
            schema = data.get("schema") if isinstance(data, dict) else None
            if type(schema) is int and schema > SCHEMA:
                again = "upgrade sttrack-deploy (pip install -U sttrack-deploy)"
            if type(schema) is not int or schema != SCHEMA:
                raise UserError(f"{where} has schema {show(schema)}; this version reads schema {SCHEMA}")
            manifest = fill(cls, data, where)
            if problem := next(_problems(manifest), None):
                raise UserError(f"{where}: {problem}")
        except UserError as error:
            raise UserError(f"{error}; {again}") from error
        return manifest


def plain_name(text: str) -> str:
    """The nearest name that is safe as a file name and in a command line: ``"My net (1)"`` is ``"My-net-1"``."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:100].lstrip(".-").rstrip("-")
    return plain or "unnamed"


def show_port(port: Port | None) -> str:
    """An input or output for an error message."""
    return "absent" if port is None else f"{port[0]} {list(port[1])}"


def _problems(m: Manifest) -> Iterator[str]:
    """What does not fit together in a manifest whose fields are all possible by themselves."""
    yield from _crop_problems(m)
    if m.tracking.found_above < m.tracking.lost_below:
        yield f"tracking.found_above {m.tracking.found_above} is below lost_below {m.tracking.lost_below}"
    if m.tracking.hold_below is not None and m.tracking.hold_below > m.tracking.lost_below:
        yield f"tracking.hold_below {m.tracking.hold_below} is above lost_below {m.tracking.lost_below}"
    if m.template.file == m.search.file:
        yield f"template.file and search.file are both {m.search.file}"
    yield from _layout_problems(m)
    if not isinstance(m.precision.get("name"), str):
        yield f"precision.name must be a text in quotes, not {show(m.precision.get('name'))}"
    elif m.precision["name"] not in PRECISIONS:
        yield f"precision.name is one of {', '.join(PRECISIONS)}, not {show(m.precision['name'])}"
    if m.weights:
        try:
            fill(_Weights, m.weights, "weights")
        except UserError as error:
            yield str(error)
    yield from _port_problems(m)


@dataclass(frozen=True, slots=True)
class _Weights:
    """What ``Manifest.weights`` holds, where there are any."""

    file: PlainName
    sha256: Sha256


def _layout_problems(m: Manifest) -> Iterator[str]:
    """Further layouts are files of their own with the main graphs' inputs and outputs."""
    known = sorted(set(LAYOUT_OF.values()))
    files = [m.template.file, m.search.file]
    for name, layout in m.layouts.items():
        if name not in known:
            yield f"layouts.{name} is not known; layouts are {', '.join(known)}"
        pairs = (("template", layout.template, m.template), ("search", layout.search, m.search))
        for graph, spec, main in pairs:
            if spec.file in files:
                yield f"layouts.{name}.{graph}.file is {spec.file}, which is another graph's"
            files.append(spec.file)
            if (spec.inputs, spec.outputs) != (main.inputs, main.outputs):
                yield f"layouts.{name}.{graph} has other inputs or outputs than {graph}"


def _crop_problems(m: Manifest) -> Iterator[str]:
    crop = m.crop
    for name in ("template_size", "search_size"):
        if getattr(crop, name) % crop.stride:
            yield f"crop.{name} {getattr(crop, name)} is not a multiple of the stride {crop.stride}"
    if crop.search_scale_step > 0 and crop.search_grid == 0:
        yield "crop.search_scale_step needs a search_grid above 0"
    for spec in dataclasses.fields(crop):
        mine = getattr(crop, spec.name)
        if spec.name in m.model and m.model[spec.name] != mine:
            yield f"crop.{spec.name} is {mine}, but model.{spec.name} is {show(m.model[spec.name])}"


def _port_problems(m: Manifest) -> Iterator[str]:
    """Graphs' inputs and outputs: the fixed ones as the crops say, all others exactly the state."""
    n, crop = ("batch" if m.batch == "dynamic" else m.batch), m.crop
    sides = {
        ("template", "inputs"): (
            m.template.inputs,
            _crop_ports(TEMPLATE_IMAGE, TEMPLATE_MASK, n, crop.template_size, crop),
        ),
        ("search", "inputs"): (
            m.search.inputs,
            _crop_ports(SEARCH_IMAGE, SEARCH_MASK, n, crop.search_size, crop),
        ),
        ("template", "outputs"): (m.template.outputs, {}),
        ("search", "outputs"): (m.search.outputs, {BOX: ("float32", (n, 4)), CONFIDENCE: ("float32", (n,))}),
    }
    ports: dict[tuple[str, str], dict[str, Port]] = {}
    for (graph, side), (specs, fixed) in sides.items():
        where = f"{graph}.{side}"
        found = ports[graph, side] = {spec.name: (spec.dtype, spec.shape) for spec in specs}
        if len(found) != len(specs):
            yield f"{where} holds a name twice"
        for name, (_, shape) in found.items():
            if not shape or shape[0] != n or "batch" in shape[1:]:
                yield f"{where}: '{name}' is {list(shape)}, but its first axis, and no other, is the batch ({n})"
        for name, wanted in fixed.items():
            if found.pop(name, None) != wanted:
                yield f"{where}: '{name}' must be {show_port(wanted)}"
    yield from _state_problems(m, ports)


def _crop_ports(image: str, mask: str, n: int | str, size: int, crop: CropSpec) -> dict[str, Port]:
    cells = size // crop.stride
    return {image: ("uint8", (n, size, size, 3)), mask: ("bool", (n, cells, cells))}


def _state_problems(m: Manifest, ports: Mapping[tuple[str, str], Mapping[str, Port]]) -> Iterator[str]:
    """``ports``: those that are not fixed, by graph and side."""
    used: dict[tuple[str, str], list[str]] = {
        ("template", "outputs"): [s.initial for s in m.state],
        ("search", "inputs"): [s.input for s in m.state],
        ("search", "outputs"): [s.output for s in m.state if s.output is not None],
    }
    used["template", "inputs"] = []
    for key, names in used.items():
        where = ".".join(key)
        for name in names:
            if name not in ports[key]:
                yield f"state: there is no '{name}' among {where}"
            if names.count(name) > 1:
                yield f"state: '{name}' of {where} belongs to two tensors"
        for name in ports[key]:
            if name not in names:
                yield f"'{name}' of {where} belongs to no state"
    if len({s.name for s in m.state}) != len(m.state):
        yield "state: a name stands twice"
    for s in m.state:
        first, given = ports["template", "outputs"][s.initial], ports["search", "inputs"][s.input]
        after = given if s.output is None else ports["search", "outputs"][s.output]
        if not first == given == after:
            seen = ", ".join(map(show_port, (first, given, after)))
            yield f"state '{s.name}' changes its dtype or shape: {seen}"
