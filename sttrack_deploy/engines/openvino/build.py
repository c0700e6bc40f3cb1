"""OpenVINO models compiled for this CPU, and kept in the engine cache: only the first start waits for the compiler.

The compiler itself may crash. OpenVINO 2026.4 ends the process with a segmentation fault where it compiles some graphs
with Q/DQ: in the pass that fuses operations ("snippets"; it is gone where that is switched off, at up to 15 % of the
speed). Which graphs cannot be told beforehand: it depends on the layers in INT8, the batch and the threads. So such
graphs are compiled in a process of its own, and once more without that pass where it dies.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttrack_deploy.bundle import Bundle, TensorSpec
from sttrack_deploy.engines.base import check_interface
from sttrack_deploy.engines.building import (
    SIDECAR,
    BuildOptions,
    BuildReport,
    BuiltEngine,
    batch_range,
    cache_of,
    child_environment,
    fits,
    kept_in,
)
from sttrack_deploy.engines.openvino.amx import has_amx, suited_to_amx
from sttrack_deploy.engines.openvino.saturation import int8_saturates, weights_within_7_bits
from sttrack_deploy.engines.registry import BACKENDS
from sttrack_deploy.errors import MissingDependencyError, UserError

if TYPE_CHECKING:
    import openvino

__all__ = ["PRECISIONS", "CompiledGraphs", "build", "compiled_blob", "compiled_graphs", "native", "the_core"]

COMPILE_THREADS = 2
"""For one thread more graphs crash. What was compiled for two runs on any number, and as fast on one."""
WITHOUT_SNIPPETS = {"SNIPPETS_MODE": "DISABLE"}


def compiled_blob(core: openvino.Core, path: Path, properties: Mapping[str, Any], batch: int) -> bytes:
    """The graph compiled for the CPU, as OpenVINO's ``import_model`` takes it.

    Args:
        properties: for ``compile_model``; the number of threads is chosen when the result is loaded.
        batch: targets for each call, where the graph's is dynamic.

    Raises:
        UserError: OpenVINO cannot read or compile the graph.
    """
    try:
        model = _read(core, path, batch)
        if any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
            blob = _compiled_apart(path, properties, batch)
            if blob is not None:
                return blob
            return _compiled(core, _suited(core, model, properties), {**properties, **WITHOUT_SNIPPETS})
        return _compiled(core, _suited(core, model, properties), properties)
    except Exception as error:  # OpenVINO raises RuntimeError and its own classes, over several lines
        raise UserError(
            f"OpenVINO cannot compile {path}: {_reason(error)}; "
            "export the bundle again, or use --engine onnxruntime"
        ) from error


def _read(core: openvino.Core, path: Path, batch: int) -> openvino.Model:
    model = core.read_model(str(path))
    shapes = {port.any_name: list(port.partial_shape) for port in model.inputs}
    if any(axis.is_dynamic for shape in shapes.values() for axis in shape):
        model.reshape({name: [batch, *shape[1:]] for name, shape in shapes.items()})
    return model


def _suited(core: openvino.Core, model: openvino.Model, properties: Mapping[str, Any]) -> openvino.Model:
    """A model whose INT8 sums do not saturate on this CPU, in kernels that are fast on it."""
    if has_amx():
        suited_to_amx(model, str(properties.get("INFERENCE_PRECISION_HINT")))
    elif int8_saturates(core) and any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        weights_within_7_bits(model)
    return model


def _compiled(core: openvino.Core, model: openvino.Model, properties: Mapping[str, Any]) -> bytes:
    blob = io.BytesIO()
    compiling = {**properties, "INFERENCE_NUM_THREADS": COMPILE_THREADS}
    core.compile_model(model, "CPU", compiling).export_model(blob)
    return blob.getvalue()


def _compiled_apart(path: Path, properties: Mapping[str, Any], batch: int) -> bytes | None:
    """The same in a process of its own, which also loads the result and runs it once; ``None`` if that fails."""
    with tempfile.TemporaryDirectory(prefix="sttrack-openvino-") as folder:
        out = Path(folder) / "blob"
        job = json.dumps({"path": str(path), "properties": dict(properties), "batch": batch, "out": str(out)})
        command = [sys.executable, "-m", __name__, job]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=child_environment()
            )
        except OSError:  # no process can be started here
            return None
        return out.read_bytes() if done.returncode == 0 and out.is_file() else None


def _child(job: Mapping[str, Any]) -> None:
    """What the process of its own does."""
    import openvino

    core = openvino.Core()
    properties = dict(job["properties"])
    model = _suited(core, _read(core, Path(job["path"]), int(job["batch"])), properties)
    blob = _compiled(core, model, properties)
    request = core.import_model(blob, "CPU", properties).create_infer_request()
    request.infer()
    Path(job["out"]).write_bytes(blob)


def _reason(error: Exception) -> str:
    """The line that says something, out of a trail of source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join((telling or lines or [type(error).__name__])[:2])[:300]


PRECISIONS = {"f32": "openvino", "bf16": "openvino-bf16"}
"""What floating-point arithmetic may be done in (OpenVINO's inference precision hint), and the engine's name."""
COMPILATION = "3"
"""Counts the ways in which graphs were changed for OpenVINO: what another one compiled is not reused."""
GRAPHS = ("template", "search")
BLOBS = tuple(f"{name}.blob" for name in GRAPHS)
_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "u8": "uint8",
    "boolean": "bool",
    "i64": "int64",
    "i32": "int32",
}


@dataclass(frozen=True, slots=True)
class CompiledGraphs:
    """Both graphs of a bundle, ready to run.

    Attributes:
        folder: where they are kept.
        reused: they were there already.
        kept: they are there now; an engine cache that cannot be written only costs the next start its time.
    """

    template: openvino.CompiledModel
    search: openvino.CompiledModel
    folder: Path
    reused: bool
    kept: bool

    @property
    def origin(self) -> str:
        """What became of the copy in the engine cache: ``reused``, ``kept`` or ``could not be kept``."""
        return "reused" if self.reused else "kept" if self.kept else "could not be kept"


def build(bundle: Bundle, options: BuildOptions, report: BuildReport) -> BuiltEngine:
    """Compile the bundle for this CPU, once for each precision that the CPU computes in.

    A bundle of a dynamic batch is compiled for ``options.batch.best`` targets; the engine compiles for other
    numbers when it meets them.

    Raises:
        UserError: OpenVINO is not installed or cannot read a graph, or the folder cannot be written.
    """
    core = _core(PRECISIONS["f32"])
    batch = batch_range(bundle, options.batch).best
    precisions = [p for p in PRECISIONS if p == "f32" or p.upper() in _capabilities(core)]
    if native(bundle) == "bf16":
        precisions = ["bf16"]
    files: list[Path] = []
    reused = []
    report.phase("compile", None, len(precisions))
    for done, precision in enumerate(precisions, 1):
        graphs = compiled_graphs(
            bundle,
            precision,
            options.threads,
            batch,
            root=options.out,
            force=options.force,
            must_keep=True,
        )
        files += [graphs.folder / name for name in (*BLOBS, SIDECAR)]
        reused.append(graphs.reused)
        report.step("compile", done)
    report.finish("compile")
    facts = {**_made_by(core), "precisions": ", ".join(precisions), "reused": all(reused)}
    return BuiltEngine(tuple(files), facts)


def compiled_graphs(
    bundle: Bundle,
    precision: str,
    threads: int | None,
    batch: int,
    *,
    root: Path | None = None,
    force: bool = False,
    must_keep: bool = False,
    counters: bool = False,
) -> CompiledGraphs:
    """The bundle's graphs for this CPU: from the engine cache where they fit, else compiled and put there.

    Args:
        precision: one of :data:`PRECISIONS`.
        threads: CPU threads for one inference; ``None`` for all.
        batch: targets for each call. Where the bundle's is dynamic, it is fixed to this: shapes that are known
            made eight targets 12% cheaper, and one 5%.
        root: another engine cache.
        force: compile although what is there fits.
        must_keep: fail where the folder cannot be written.
        counters: count the time of each operation; the files are the same.

    Raises:
        UserError: OpenVINO is not installed, cannot read a graph, or lacks the precision on this CPU; a graph
            does not match its manifest; or the folder cannot be written and ``must_keep``.
    """
    core = _core(PRECISIONS[precision])
    if precision != "f32" and precision.upper() not in _capabilities(core):
        raise UserError(
            f"this CPU does not compute in {precision} "
            f"(OpenVINO offers {', '.join(_capabilities(core))}); "
            f"{'use the fp32 bundle' if native(bundle) == 'bf16' else 'use --engine openvino'}"
        )
    folder = cache_of(bundle, root) / f"openvino-{precision}-b{batch}"
    properties = _properties(precision, threads)
    facts = {
        **_made_by(core),
        "compilation": COMPILATION,
        "precision": precision,
        "source": f"{bundle.template.sha256} {bundle.search.sha256}",
    }
    loading = {**properties, "PERF_COUNT": True} if counters else properties
    if not force and (found := _kept(core, bundle, batch, folder, facts, loading)) is not None:
        return found
    blobs = {name: compiled_blob(core, path, properties, batch) for name, path in _paths(bundle).items()}
    models = {name: core.import_model(blob, "CPU", loading) for name, blob in blobs.items()}
    _check(bundle, models, batch)
    kept = False
    with contextlib.nullcontext() if must_keep else contextlib.suppress(UserError):
        _keep(blobs, folder, facts)
        kept = True
    return CompiledGraphs(**models, folder=folder, reused=False, kept=kept)


def native(bundle: Bundle) -> str:
    """What the bundle is meant to be computed in, as one of :data:`PRECISIONS`."""
    return "bf16" if bundle.manifest.precision.get("name") == "bf16" else "f32"


@functools.cache
def the_core() -> openvino.Core:
    """The process's one ``Core``, never given up.

    Its CPU plugin sets the stack that signals are handled on (AMX needs a large one) and frees it when the last user
    of the plugin goes, while the system still has its address: the next Ctrl-C would end the process with a
    segmentation fault (seen with OpenVINO 2026.4).

    Raises:
        ImportError: OpenVINO is not installed.
    """
    import openvino

    return openvino.Core()


def _core(engine: str) -> openvino.Core:
    try:
        import openvino  # noqa: F401 (the cached core would hide that it is missing)
    except ImportError as error:
        raise MissingDependencyError(
            "openvino", f"the engine '{engine}'", BACKENDS["openvino"].install
        ) from error
    return the_core()


def _capabilities(core: openvino.Core) -> list[str]:
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _properties(precision: str, threads: int | None) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
        # Attention to what is far off underflows; arithmetic on such numbers is many times slower.
        "CPU_DENORMALS_OPTIMIZATION": True,
        # Pinned threads of several processes would all sit on the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    return properties


def _made_by(core: openvino.Core) -> dict[str, str]:
    """What a compiled model is good for: it runs with this version on this kind of CPU only."""
    import openvino

    return {
        "openvino": openvino.__version__,
        "device": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
        "capabilities": " ".join(sorted(_capabilities(core))),
    }


def _paths(bundle: Bundle) -> dict[str, Path]:
    return {"template": bundle.template_path, "search": bundle.search_path}


def _check(bundle: Bundle, models: Mapping[str, openvino.CompiledModel], batch: int) -> None:
    specs = {"template": bundle.template, "search": bundle.search}
    for name, model in models.items():
        inputs, outputs = (
            {_name(port, told): (_dtype(port), tuple(port.shape)) for port in side}
            for side, told in ((model.inputs, specs[name].inputs), (model.outputs, specs[name].outputs))
        )
        check_interface(_paths(bundle)[name], specs[name], inputs, outputs, batch)


def _name(port: Any, told: Sequence[TensorSpec]) -> str:
    """The port's name in the manifest: where a conversion was optimized away, it has that of the result too."""
    return next((spec.name for spec in told if spec.name in port.names), str(port.any_name))


def _dtype(port: Any) -> str:
    name = str(port.element_type.get_type_name())
    return _DTYPES.get(name, name)


def _kept(
    core: openvino.Core,
    bundle: Bundle,
    batch: int,
    folder: Path,
    facts: Mapping[str, str],
    properties: dict[str, Any],
) -> CompiledGraphs | None:
    """What lies in the folder, unless it is absent, another version's or CPU's, or damaged."""
    if not fits(folder, facts, BLOBS):
        return None
    try:
        models = {
            name: core.import_model((folder / blob).read_bytes(), "CPU", properties)
            for name, blob in zip(GRAPHS, BLOBS, strict=True)
        }
        _check(bundle, models, batch)
    except (OSError, RuntimeError, UserError):
        return None  # whatever is wrong with it, compiling again fixes it
    return CompiledGraphs(**models, folder=folder, reused=True, kept=True)


def _keep(blobs: Mapping[str, bytes], folder: Path, facts: Mapping[str, str]) -> None:
    with kept_in(folder, facts) as partial:
        for name, blob in blobs.items():
            (partial / f"{name}.blob").write_bytes(blob)


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
