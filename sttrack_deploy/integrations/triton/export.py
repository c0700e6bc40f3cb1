"""Writing the model repository."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sttrack_deploy.bundle import CONFIDENCE, Bundle
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.files import atomic_directory, check_only
from sttrack_deploy.integrations.triton.layout import (
    SEARCH,
    START,
    TEMPLATE,
    ServerOptions,
    given_name,
    kept_name,
    next_name,
    search_config,
    state_bytes,
    state_tensor,
    template_config,
    to_pbtxt,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["Repository", "export_repository", "stateful_search"]

_CLIENT = '''"""Track a video with the models on a Triton server: python client.py VIDEO X,Y,W,H [HOST:PORT]

Frames stay here; crops (110 kB for sttrack-nano) go to the server, boxes come back, the state stays there.
"""

import sys

from sttrack_deploy import Tracker, open_bundle
from sttrack_deploy.geometry import parse_box
from sttrack_deploy.integrations.triton.client import TritonEngine
from sttrack_deploy.video.source import open_source

video, box, url = [*sys.argv[1:], "localhost:8001"][:3]
bundle = open_bundle()  # or the folder of the bundle that this repository was made from
tracker = Tracker(bundle, TritonEngine.connect(bundle, url))
with open_source(video) as frames:
    for index, frame in enumerate(frames):
        if index == 0:
            tracker.init(frame.image, parse_box(box))
            continue
        (x, y, w, h), confidence, lost = tracker.update(frame.image)
        print(f"{frame.number} {x:.2f} {y:.2f} {w:.2f} {h:.2f} {confidence:.3f}{' LOST' if lost else ''}")
'''


@dataclass(frozen=True, slots=True)
class Repository:
    """What was written; ``state_bytes`` of each track are kept in the server."""

    path: Path
    bytes: int
    state_bytes: int


def export_repository(bundle: Bundle, out: Path, options: ServerOptions | None = None) -> Repository:
    """Write both models with their configurations, and a client.

    Args:
        out: a folder that is absent, empty, or such a repository, which is replaced.

    Raises:
        MissingDependencyError: onnx is not installed.
        UsageError: the bundle's batch is fixed above 1.
        UserError: ``out`` holds something else.
    """
    chosen = options or ServerOptions()
    bundle = bundle.for_engine("onnxruntime")
    manifest = bundle.manifest
    configs = {TEMPLATE: template_config(manifest, chosen), SEARCH: search_config(manifest, chosen)}
    known = all((out / name / "config.pbtxt").is_file() for name in configs)
    if out.exists() and not known and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not such a repository; choose another --out, or remove it")
    models = [f"{name}/{file}" for name in configs for file in ("config.pbtxt", "1/model.onnx")]
    check_only(out, ["client.py", *models], "such a repository")
    search = stateful_search(bundle)
    with atomic_directory(out) as partial:
        for name, config in configs.items():
            (partial / name / "1").mkdir(parents=True)
            (partial / name / "config.pbtxt").write_text(to_pbtxt(config), encoding="utf-8")
        shutil.copyfile(bundle.template_path, partial / TEMPLATE / "1" / "model.onnx")
        (partial / SEARCH / "1" / "model.onnx").write_bytes(search.SerializeToString(deterministic=True))
        (partial / "client.py").write_text(_CLIENT, encoding="utf-8")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Repository(out, size, state_bytes(manifest))


def stateful_search(bundle: Bundle) -> onnx.ModelProto:
    """The search graph with a choice in front of each state tensor: what is given where START is set, else kept.

    Constant state becomes an output as well, because a server keeps outputs only; the confidence gets an axis of its
    own where the batch is dynamic, because a server's tensors have one.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise MissingDependencyError("onnx", "sttrack-export-triton", "pip install onnx") from error
    manifest = bundle.manifest
    model = onnx.load(str(bundle.search_path))
    graph = model.graph
    before, after = [], []
    inputs = {port.name: port for port in graph.input}
    start = helper.make_tensor_value_info(START, TensorProto.BOOL, _start_shape(bundle))
    for spec in manifest.state:
        port = inputs[spec.input]
        rank = len(state_tensor(manifest, spec).shape)
        shape = f"{spec.name}_rank"
        graph.initializer.append(numpy_helper.from_array(np.array([-1] + [1] * (rank - 1), np.int64), shape))
        began = f"{spec.name}_start"
        before.append(helper.make_node("Reshape", [START, shape], [began]))
        if state_tensor(manifest, spec).dtype == "bool":  # for which ONNX Runtime has no Where
            before += [
                helper.make_node("And", [began, given_name(spec)], [f"{spec.name}_new"]),
                helper.make_node("Not", [began], [f"{spec.name}_continues"]),
                helper.make_node("And", [f"{spec.name}_continues", kept_name(spec)], [f"{spec.name}_old"]),
                helper.make_node("Or", [f"{spec.name}_new", f"{spec.name}_old"], [spec.input]),
            ]
        else:
            before.append(helper.make_node("Where", [began, given_name(spec), kept_name(spec)], [spec.input]))
        for name in (given_name(spec), kept_name(spec)):
            copy = graph.input.add()
            copy.CopyFrom(port)
            copy.name = name
        if spec.output is None:
            after.append(helper.make_node("Identity", [spec.input], [next_name(spec)]))
            output = graph.output.add()
            output.CopyFrom(port)
            output.name = next_name(spec)
    replaced = {spec.input for spec in manifest.state}
    kept = [port for port in graph.input if port.name not in replaced]
    del graph.input[:]
    graph.input.extend([*kept, start])
    if manifest.batch == "dynamic":
        _give_axis(graph, after)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *nodes, *after])
    onnx.checker.check_model(model, full_check=True)
    return model


def _start_shape(bundle: Bundle) -> list[str | int]:
    """A control tensor has one value a request; the batch comes in front of it."""
    return ["batch", 1] if bundle.manifest.batch == "dynamic" else [1]


def _give_axis(graph: onnx.GraphProto, after: list[onnx.NodeProto]) -> None:
    from onnx import helper, numpy_helper

    inner = f"{CONFIDENCE}_of_each"
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == CONFIDENCE:
                node.output[index] = inner
        for index, name in enumerate(node.input):
            if name == CONFIDENCE:
                node.input[index] = inner
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "confidence_axis"))
    after.append(helper.make_node("Unsqueeze", [inner, "confidence_axis"], [CONFIDENCE]))
    port = next(port for port in graph.output if port.name == CONFIDENCE)
    port.type.tensor_type.shape.dim.add().dim_value = 1
