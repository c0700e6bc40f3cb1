"""Plans in the engine cache: two plain files and the manifest beside them, and whether they may be run here."""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.building import BatchRange, altered, cache_of
from sttrack_deploy.engines.tensorrt.toolkit import TENSORRT, Flavor, Platform, Toolkit, release_of
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.records import fill, parse_json, read_text, show

__all__ = [
    "PLANS",
    "PlanFile",
    "PlanManifest",
    "UnfitPlanError",
    "build_command",
    "check_header",
    "host_system",
    "open_plans",
    "plan_folder",
    "read_manifest",
    "write_manifest",
]

PLANS = "plans.json"
SCHEMA = 1
VERSION_BYTES = slice(24, 28)
"""Where a plan holds major, minor, patch and build number of the TensorRT that made it."""
AMPERE = (8, 0)


class UnfitPlanError(UserError):
    """The plans are missing or are not for this bundle, TensorRT or GPU; building them again helps."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One plan.

    Attributes:
        file: its name in the folder.
        sha256, bytes: of the file.
        onnx_sha256: of the graph that it was built from.
        inputs, outputs: names, dtypes and shapes, as in the bundle's manifest.
        workspace_bytes: device memory that each inference needs besides inputs and outputs.
        kernels: what it computes with, where the builder says so: see ``kernels.kernel_facts``.
    """

    file: str
    sha256: str
    bytes: int
    onnx_sha256: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    workspace_bytes: int
    kernels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanManifest:
    """Everything known about a pair of plans.

    Attributes:
        tensorrt: version that built them and, unless ``version_compatible``, the only one that runs them.
        gpu, capability, cuda, driver: of the GPU they were built on; empty where they were built without one.
        targets: compute capabilities they were built for, where they were built without a GPU.
        asked_for: those of them that the user asked for; none: the library's own choice.
        hardware: name of the hardware compatibility level (``NONE``: this GPU only).
        system: operating system and processor, as ``Linux x86_64``.
        batch: numbers of targets they take.
        flags: names of the builder's flags, in order.
        state: the bundle's state pairs.
        precision, opset, tools: the bundle's.
        timing_cache: SHA-256 of the timing cache after the build; empty if none was used.
        gate: closed-loop comparison after the build; empty if there was none.
        library: name of the flavor that made them.
    """

    template: PlanFile
    search: PlanFile
    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    capability: tuple[int, int]
    hardware: str
    version_compatible: bool
    system: str
    batch: BatchRange
    flags: list[str]
    workspace_mib: int | None
    optimization_level: int | None
    bundle: str
    precision: Mapping[str, Any]
    state: list[dict[str, Any]]
    opset: int
    tools: Mapping[str, str]
    timing_cache: str = ""
    gate: Mapping[str, Any] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    asked_for: list[str] = field(default_factory=list)
    library: str = TENSORRT.name
    schema: int = SCHEMA


def plan_folder(bundle: Bundle, flavor: Flavor = TENSORRT, root: Path | None = None) -> Path:
    """The folder in the engine cache (or another one) where the engine looks for this bundle's plans."""
    return cache_of(bundle, root) / flavor.name


def build_command(bundle: Bundle, flavor: Flavor, batch: BatchRange | None = None) -> str:
    """What to type to build the plans again."""
    numbers = f" --batch {batch.least},{batch.best},{batch.most}" if batch and not batch.fixed else ""
    return f"sttrack-build-engine {shlex.quote(str(bundle.path))} --target {flavor.name}{numbers} --rebuild"


def host_system() -> str:
    """Operating system and processor: a plan runs on no other."""
    return f"{platform.system()} {platform.machine()}"


def write_manifest(folder: Path, manifest: PlanManifest) -> Path:
    """Write ``plans.json``; the plans must lie there already."""
    with atomic_path(folder / PLANS) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True) + "\n")
    return folder / PLANS


def read_manifest(folder: Path, fix: str) -> PlanManifest:
    """Read ``plans.json``; ``fix`` is the command that an error names.

    Raises:
        UnfitPlanError: it is missing, or of another schema or form.
    """
    path = folder / PLANS
    if not path.is_file():
        raise UnfitPlanError(f"there are no plans in {folder}; build them: {fix}")
    try:
        data = parse_json(read_text(path, "the list of plans"), "it")
        schema = data.get("schema") if isinstance(data, dict) else None
        if type(schema) is not int or schema != SCHEMA:
            raise UserError(f"it has schema {show(schema)}, this version reads {SCHEMA}")
        return fill(PlanManifest, data, "it")
    except UserError as error:
        raise UnfitPlanError(f"{path} cannot be used ({error}); build the plans again: {fix}") from error


def open_plans(folder: Path, bundle: Bundle, here: Toolkit) -> PlanManifest:
    """The manifest of plans that may be run here; their bytes are checked.

    No call of TensorRT says beforehand whether a plan fits, and it does not always survive one that does not.

    Raises:
        UnfitPlanError: they are missing, incomplete, altered, or made for another bundle, TensorRT, GPU or system.
    """
    manifest = read_manifest(folder, build_command(bundle, here.flavor))
    fix = build_command(bundle, here.flavor, manifest.batch)
    if problem := _problem(manifest, bundle, here):
        raise UnfitPlanError(f"the {here.flavor.title} plans in {folder} {problem}; build them again: {fix}")
    for plan in (manifest.template, manifest.search):
        path = folder / plan.file
        if not path.is_file():
            raise UnfitPlanError(f"{path} is missing; build the plans again: {fix}")
        check_header(here, path, manifest.tensorrt, fix)
        if altered(folder, {plan.file: plan.sha256}):
            raise UnfitPlanError(f"{path} was altered or cut short; build the plans again: {fix}")
    return manifest


def check_header(here: Toolkit, path: Path, version: str, fix: str) -> None:
    """Is this a plan, and of that version?

    Raises:
        UnfitPlanError: it is not.
    """
    with path.open("rb") as file:
        head = file.read(VERSION_BYTES.stop)
    if len(head) < VERSION_BYTES.stop or not head.startswith(here.flavor.magic):
        raise UnfitPlanError(
            f"{path} is not a plan of {here.flavor.title} (it starts with {head[:4]!r}); build it again: {fix}"
        )
    found, expected = tuple(head[VERSION_BYTES][:3]), release_of(version)
    if found != expected:
        dotted = ".".join(map(str, found))
        raise UnfitPlanError(
            f"{path} was made by {here.flavor.title} {dotted}, not {version}; build it again: {fix}"
        )


def _problem(made: PlanManifest, bundle: Bundle, here: Toolkit) -> str | None:
    """Why plans cannot be used here; ``None`` if they can."""
    for plan, graph in ((made.template, bundle.template), (made.search, bundle.search)):
        if plan.onnx_sha256 != graph.sha256:
            return f"were built from another {graph.file} than this bundle's"
    if made.library != here.flavor.name:
        return f"were made by {made.library}"
    if here.flavor.portable:
        # Whether it runs on this GPU, TensorRT for RTX says itself when it is shown the plan's header.
        return (
            None
            if made.tensorrt == here.version
            else f"are for its version {made.tensorrt}, this is {here.version}"
        )
    if made.system != host_system():
        return f"are for {made.system}, this is {host_system()}"
    if made.version_compatible:
        if release_of(here.version) < release_of(made.tensorrt):
            return f"need TensorRT {made.tensorrt} or later, this is {here.version}"
    elif made.tensorrt != here.version:
        return f"are for TensorRT {made.tensorrt}, this is {here.version}"
    assert isinstance(here, Platform)  # only a portable flavor is asked without a GPU
    gpu = f"are for {made.gpu} (compute capability {_dotted(made.capability)})"
    this = f"this is {here.device.name} ({_dotted(here.device.capability)})"
    if made.hardware == "AMPERE_PLUS":
        fits = here.device.capability >= AMPERE
    elif made.hardware == "SAME_COMPUTE_CAPABILITY":
        fits = here.device.capability == made.capability
    else:
        fits = (here.device.name, here.device.capability) == (made.gpu, made.capability)
    return None if fits else f"{gpu}, {this}"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
