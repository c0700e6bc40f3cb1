"""Writing the bundle of another precision: new graphs, the same interface, weights and settings."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from sttrack_deploy.bundle import MANIFEST, Bundle, GraphSpec, LayoutSpec, open_bundle
from sttrack_deploy.errors import UserError, one_line
from sttrack_deploy.export.graphs import add_metadata, tensor_specs
from sttrack_deploy.export.operator_check import check_operators
from sttrack_deploy.files import sha256_of

__all__ = ["Graphs", "check_graph", "load_graphs", "write_variant"]


@dataclass(frozen=True, slots=True)
class Graphs:
    """A bundle's two graphs, loaded."""

    template: onnx.ModelProto
    search: onnx.ModelProto


NO_LAYOUTS: Mapping[str, Graphs] = {}


def load_graphs(bundle: Bundle) -> Graphs:
    """Both graphs of a bundle.

    Raises:
        UserError: the bundle is not FP32: rounding twice is never better than once.
    """
    name = bundle.manifest.precision.get("name")
    if name != "fp32":
        raise UserError(f"the bundle {bundle.path} is {name}; convert the fp32 one that it was made from")
    return Graphs(onnx.load(bundle.template_path), onnx.load(bundle.search_path))


def check_graph(model: onnx.ModelProto, name: str, tensorrt: bool) -> None:
    """Is it valid ONNX in which every operator gets one type (strongly typed), and would TensorRT's parser take it?

    Args:
        tensorrt: whether TensorRT is meant to run it.

    Raises:
        UserError: no; the reason is in the message.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = one_line(error)
        raise UserError(f"the converted {name} is not valid ONNX: {reason}; report this") from error
    if tensorrt:
        check_operators(model, name)


def write_variant(
    folder: Path,
    source: Bundle,
    graphs: Graphs,
    precision: Mapping[str, Any],
    *,
    layouts: Mapping[str, Graphs] = NO_LAYOUTS,
    tensorrt: bool = True,
    weights: bool = True,
) -> Bundle:
    """Write graphs into a folder as a bundle that differs from ``source`` in its precision only.

    What was measured on ``source`` (validation, accuracy) is not true of it any more and is left out.

    Args:
        precision: of the manifest, ``name`` among it.
        layouts: the same graphs for engines that want them otherwise; see ``manifest.LAYOUT_OF``.
        tensorrt: whether TensorRT is meant to run ``graphs``.
        weights: copy them as well; a bundle that is only tried out does not need them.

    Raises:
        UserError: a graph is invalid, or its inputs and outputs are not those of ``source``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    m, name = source.manifest, str(precision["name"])
    main = _write_graphs(folder, source, graphs, name, "", tensorrt)
    others = {
        layout: _write_graphs(folder, source, there, name, f".{layout}", layout == "tensorrt")
        for layout, there in layouts.items()
    }
    if weights and m.weights:
        shutil.copyfile(source.weights_path, folder / str(m.weights["file"]))
    manifest = dataclasses.replace(
        m,
        template=main.template,
        search=main.search,
        layouts=others,
        precision=dict(precision),
        validation={},
        accuracy={},
        tools={**m.tools, **_versions("onnx", "onnx-ir", "onnxruntime")},
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(folder, verify=False)


def _write_graphs(
    folder: Path, source: Bundle, graphs: Graphs, precision: str, suffix: str, tensorrt: bool
) -> LayoutSpec:
    """Both graphs as files; ``suffix``: in their names, before ``.onnx``."""
    m = source.manifest
    specs = []
    for model, before in ((graphs.template, m.template), (graphs.search, m.search)):
        path = folder / Path(before.file).with_suffix(f"{suffix}.onnx")
        check_graph(model, path.name, tensorrt)
        facts = {p.key: p.value for p in model.metadata_props}
        add_metadata(model, {**facts, "precision": precision})
        onnx.save(model, path)
        spec = GraphSpec(
            path.name,
            sha256_of(path),
            path.stat().st_size,
            tensor_specs(list(model.graph.input)),
            tensor_specs(list(model.graph.output)),
        )
        if (spec.inputs, spec.outputs) != (before.inputs, before.outputs):
            raise UserError(
                f"the converted {path.name} lost its interface; report this with the command you typed"
            )
        specs.append(spec)
    return LayoutSpec(*specs)


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # onnxruntime-gpu, say
            continue
    return found
