"""From a network to a bundle on disk, with the accuracy that sttrack-eval measured on exactly these graphs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from sttrack_deploy import __version__
from sttrack_deploy.bundle import (
    MANIFEST,
    SCHEMA,
    Bundle,
    CropSpec,
    GraphSpec,
    Manifest,
    TrackingPolicy,
    check_replaceable,
    open_bundle,
)
from sttrack_deploy.errors import UserError
from sttrack_deploy.export.graphs import (
    DEFAULT_OPSET,
    add_metadata,
    build_onnx,
    search_source,
    state_specs,
    template_source,
    tensor_specs,
)
from sttrack_deploy.export.operator_check import check_operators
from sttrack_deploy.export.validation import Check, ValidationClip, check_real_build, validate_bundle
from sttrack_deploy.files import atomic_directory, sha256_of
from sttrack_deploy.models.network import Network
from sttrack_deploy.models.weights import save_weights
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.records import parse_json, read_text

__all__ = ["ExportOptions", "accuracy_of", "export_bundle"]


_MACHINE_DEPENDENT = ("fps", "fps_median", "fps_end_to_end", "fps_end_to_end_median")


def accuracy_of(report_path: Path, manifest: Manifest) -> Mapping[str, Any]:
    """What a report says of a bundle, without its speed.

    Exports are deterministic, so a bundle that was measured can be exported again with its figures.

    Args:
        report_path: written by ``sttrack-eval --json``; it may hold other trackers too.
        manifest: of the bundle that the figures are for.

    Raises:
        UserError: not such a report, incomplete, or measured on other graphs or with another lost handling.
    """
    try:
        document = parse_json(read_text(report_path, "the report"), str(report_path))
        trackers = [tracker for tracker in document["trackers"] if "bundle" in tracker]
        graphs = manifest.template.sha256, manifest.search.sha256
        same = [
            tracker
            for tracker in trackers
            if (tracker["bundle"]["template_sha256"], tracker["bundle"]["search_sha256"]) == graphs
        ]
        if not same:
            raise UserError(
                f"the report {report_path} was measured on other graphs; evaluate this bundle first"
            )
        policy = dataclasses.asdict(manifest.tracking)
        usual = dataclasses.asdict(TrackingPolicy())  # of settings that the report is too old to know
        report = next((tracker for tracker in same if {**usual, **tracker["tracking"]} == policy), None)
        if report is None:
            raise UserError(
                f"the report {report_path} was measured with another lost handling: {same[0]['tracking']}"
            )
        if not report["complete"]:
            raise UserError(
                f"the report {report_path} is of an unfinished evaluation; run sttrack-eval again"
            )
        leading = document["protocol"]
        return {
            "dataset": document["dataset"],
            "protocol": leading,
            "engine": report["engine"]["name"],
            "overall": _without_speed(report["overall"]),
            "protocols": {
                name: {key: value for key, value in score.items() if key != "curves"}
                for name, score in report["protocols"].items()
            },
            "sequences": [
                {**_without_speed(sequence), "protocols": {leading: sequence["protocols"][leading]}}
                for sequence in report["sequences"]
            ],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{report_path} is not a report of sttrack-eval --json ({error!r})") from error


def _without_speed(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key not in _MACHINE_DEPENDENT}


WEIGHTS = "weights.safetensors"
DESCRIPTION = "STTrack single-object tracker; recurrent state in and out; uint8 RGB crops in"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What can be chosen about a bundle.

    Attributes:
        batch: targets for each call, or ``None`` for a dynamic batch.
        tracking: the runtime's defaults for lost targets.
        license: of the weights.
        real_build: let TensorRT for RTX parse and build the graphs as well, where it is installed and there is a
            validation.
        accuracy: report of ``sttrack-eval --json`` on these graphs, to record in the manifest.
    """

    opset: int = DEFAULT_OPSET
    batch: int | None = 1
    tracking: TrackingPolicy = field(default_factory=TrackingPolicy)
    license: str = "unknown"
    accuracy: Path | None = None
    real_build: bool = False


def export_bundle(
    network: Network,
    checkpoint: Path,
    out: Path,
    options: ExportOptions,
    clip: ValidationClip | None,
    report: Callable[[Check], None] = lambda _: None,
    progress: Progress = SILENT,
) -> Bundle:
    """Write a bundle; it appears under its name only once everything has passed.

    The weights go in as well: they are what the torch engine runs, so that anyone can repeat the
    comparison from the bundle alone, and what another precision is exported from.

    Args:
        checkpoint: the file the weights came from; its name and hash are recorded.
        clip: validate on this, or ``None`` to leave validation out.
        report: called with each line of the validation.
        progress: a step for each frame that is compared.

    Raises:
        UserError: a graph is invalid, TensorRT would refuse it, validation failed, or the folder cannot be
            written.
    """
    check_replaceable(out)
    network = network.eval()
    with atomic_directory(out) as folder:
        manifest = _write_files(network, checkpoint, folder, options, report)
        if options.accuracy is not None:
            manifest = replace(manifest, accuracy=accuracy_of(options.accuracy, manifest))
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        if clip is not None:
            checks = []
            for check in validate_bundle(open_bundle(folder), network, clip, progress):
                report(check)
                checks.append(check)
            if options.real_build and (built := check_real_build(open_bundle(folder))) is not None:
                # Told, and recorded where it passed: what this library refuses may serve every other engine.
                report(built)
                checks += [built] if built.passed else []
            failed = [check for check in checks if not check.passed]
            if failed:
                names = ", ".join(f"{c.name} ({c.detail})" for c in failed)
                raise UserError(f"the exported graphs do not pass: {names}; nothing was written to {out}")
            measured = {check.name: check.detail for check in checks}
            manifest = replace(manifest, validation={"clip": clip.name, "checks": measured})
            (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return open_bundle(out)


def _write_files(
    network: Network, checkpoint: Path, folder: Path, options: ExportOptions, report: Callable[[Check], None]
) -> Manifest:
    """Write graphs and weights; return the manifest without validation."""
    c = network.config
    crop = CropSpec(
        *(c.template_size, c.template_factor, c.search_size, c.search_factor, c.stride),
        *(c.search_grid, c.search_scale_step, c.crop_context),
    )
    # torch's exporter treats an example batch of 1 as a constant, so a dynamic one is shown 2.
    example = 2 if options.batch is None else options.batch
    facts = {
        "description": DESCRIPTION,
        "version": __version__,
        "schema": str(SCHEMA),
        "license": options.license,
        "model": c.to_json(),
        "crop": json.dumps(asdict(crop), sort_keys=True),
        "state": json.dumps([asdict(s) for s in state_specs(network)], sort_keys=True),
        "precision": "fp32",
        "checkpoint_sha256": sha256_of(checkpoint),
    }
    graphs: dict[str, GraphSpec] = {}
    for name, source in (
        ("template", template_source(network, example)),
        ("search", search_source(network, example)),
    ):
        model = build_onnx(source, options.opset, dynamic_batch=options.batch is None)
        check_operators(model, f"{name}.onnx")
        add_metadata(model, facts)
        path = folder / f"{name}.onnx"
        onnx.save(model, path)
        nodes = len(model.graph.node)
        report(Check(f"{name}.onnx", True, f"{nodes} nodes, valid ONNX, all operators in TensorRT's table"))
        graphs[name] = GraphSpec(
            path.name,
            sha256_of(path),
            path.stat().st_size,
            tensor_specs(list(model.graph.input)),
            tensor_specs(list(model.graph.output)),
        )
    save_weights(folder / WEIGHTS, c, network.state_dict())
    return Manifest(
        name=c.name,
        crop=crop,
        template=graphs["template"],
        search=graphs["search"],
        state=state_specs(network),
        model=c.to_dict(),
        batch="dynamic" if options.batch is None else options.batch,
        opset=options.opset,
        tracking=options.tracking,
        weights={"file": WEIGHTS, "sha256": sha256_of(folder / WEIGHTS)},
        checkpoint={"file": checkpoint.name, "sha256": facts["checkpoint_sha256"]},
        tools={"sttrack-deploy": __version__, **_versions("torch", "onnx", "onnxscript", "onnxslim")},
        license=options.license,
    )


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
