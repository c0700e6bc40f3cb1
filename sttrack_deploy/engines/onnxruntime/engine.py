"""ONNX Runtime on the CPU, the default back end: its sessions, and optimized graphs kept in the engine cache.

Keeping them saves little (20 of 40 ms for sttrack-nano, 60 of 280 ms for sttrack-r50, of processor time), so it is done
when asked for (``sttrack-build-engine --target onnxruntime``) and never on its own.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
    GraphSpec,
)
from sttrack_deploy.engines.base import (
    Arrays,
    BoolArray,
    EngineState,
    Operator,
    Prediction,
    UInt8Array,
    check_interface,
    graph_inputs,
    typical,
)
from sttrack_deploy.engines.building import (
    SIDECAR,
    BuildOptions,
    BuildReport,
    BuiltEngine,
    cache_of,
    fits,
    folder_of,
    kept_in,
)
from sttrack_deploy.errors import UserError, one_line

__all__ = [
    "CPU",
    "OnnxRuntimeEngine",
    "Provider",
    "build",
    "create",
    "devices",
    "open_session",
    "optimized_graphs",
    "session_options",
]

# Some of its builds (1.32 for Linux is one) report what they run to their maker; nothing here asks the user about it.
onnxruntime.disable_telemetry_events()

CPU = "CPUExecutionProvider"
Provider = str | tuple[str, dict[str, Any]]
"""An execution provider's name, or the name and its options."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(int64)": "int64",
}


def session_options(threads: int | None, bundle: Bundle | None = None) -> onnxruntime.SessionOptions:
    """Options of every session; ``threads`` for one inference, ``None`` for all.

    Q/DQ pairs with FP16 scales stay as they are: ONNX Runtime 1.32 fuses them on the CPU into something else (boxes of
    ``sttrack-nano`` in int8-fp16 were off by eight times as much as without).

    Left as they are, because changing them was measured and gained nothing: the memory arena and memory
    patterns; the thread pools of the two sessions (one global pool was not faster). Idle threads of a pool
    spin between the nodes of a graph: without that, two threads are no faster than one on small graphs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Attention to what is far off underflows; arithmetic on such numbers is many times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # x86 without VNNI adds pairs of INT8 products in 16 bits, where they saturate; ONNX Runtime then takes UINT8
    # weights, which do not. Other CPUs are not concerned.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if bundle is not None and (bundle.layout or bundle.manifest.precision.get("name") == "int8-fp16"):
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    path: Path,
    spec: GraphSpec,
    options: onnxruntime.SessionOptions,
    providers: Sequence[Provider] = (CPU,),
) -> onnxruntime.InferenceSession:
    """Open a graph and hold its interface against the manifest.

    Raises:
        UserError: ONNX Runtime cannot load the file, or its inputs or outputs are not the manifest's.
    """
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        reason = one_line(error)
        raise UserError(f"ONNX Runtime cannot load {path}: {reason}; export the bundle again") from error
    inputs, outputs = (
        {port.name: (_DTYPES.get(port.type, port.type), tuple(port.shape)) for port in side}
        for side in (session.get_inputs(), session.get_outputs())
    )
    check_interface(path, spec, inputs, outputs)
    return session


FOLDER = "onnxruntime"
GRAPHS = ("template.onnx", "search.onnx")


def build(bundle: Bundle, options: BuildOptions, report: BuildReport) -> BuiltEngine:
    """Write both graphs as ONNX Runtime optimizes them for this CPU.

    Threads and the batch do not matter: the files are good for all of them.

    Raises:
        UserError: ONNX Runtime cannot load a graph, or the folder cannot be written.
    """
    bundle = bundle.for_engine("onnxruntime")
    folder, facts = folder_of(bundle, options) / FOLDER, _made_by(bundle)
    files = tuple(folder / name for name in (*GRAPHS, SIDECAR))
    if not options.force and fits(folder, facts, GRAPHS):
        return BuiltEngine(files, {**facts, "reused": True})
    report.phase("optimize", None, len(GRAPHS))
    with kept_in(folder, facts) as partial:
        sources = (bundle.template_path, bundle.search_path)
        specs = (bundle.template, bundle.search)
        for done, (name, source, spec) in enumerate(zip(GRAPHS, sources, specs, strict=True), 1):
            session = session_options(1, bundle)
            session.optimized_model_filepath = str(partial / name)
            open_session(source, spec, session)
            report.step("optimize", done)
    report.finish("optimize")
    return BuiltEngine(files, {**facts, "reused": False})


def optimized_graphs(bundle: Bundle) -> tuple[Path, Path] | None:
    """Template and search graph from the engine cache, or ``None`` where there are none that fit."""
    folder = cache_of(bundle) / FOLDER
    if not fits(folder, _made_by(bundle), GRAPHS):
        return None
    return folder / GRAPHS[0], folder / GRAPHS[1]


def _made_by(bundle: Bundle) -> dict[str, str]:
    """What an optimized graph is good for: weights are laid out for one version and one kind of CPU.

    On another kind they would be read in another order, without an error.
    """
    import onnxruntime

    return {
        "onnxruntime": onnxruntime.__version__,
        "cpu": _cpu(),
        "source": f"{bundle.template.sha256} {bundle.search.sha256}",
    }


def _cpu() -> str:
    """The processor's name and a hash of the instructions it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = dict(line.partition(":")[::2] for line in text.split("\n\n")[0].splitlines())
    known = {key.strip(): value.strip() for key, value in lines.items()}
    name = known.get("model name") or platform.processor() or platform.machine()
    flags = known.get("flags") or known.get("Features") or ""
    return f"{name} {hashlib.sha256(' '.join(sorted(flags.split())).encode()).hexdigest()[:12]}"


class OnnxRuntimeEngine:
    """Runs both graphs in ONNX Runtime sessions; a track's state is a dictionary of arrays.

    Binding inputs and outputs (IO binding) was measured and gained nothing on the CPU: arrays are given to the
    graph and taken from it without a copy as it is, and the state is a few kilobytes.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._threads = threads
        self._bundle = bundle
        self._spec = bundle.manifest.state
        ready = optimized_graphs(bundle)
        options = session_options(threads, bundle)
        if ready is not None:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._optimized = ready is not None
        template, search = ready or (bundle.template_path, bundle.search_path)
        self._template = open_session(template, bundle.template, options)
        self._search = open_session(search, bundle.search, self._counting(options))
        self._recurrent = tuple(s for s in self._spec if s.output is not None)
        self._initial = [s.initial for s in self._spec]
        self._outputs = [BOX, CONFIDENCE, *(s.output for s in self._recurrent if s.output)]

    def _counting(self, options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
        """What the search graph's session is opened with."""
        return options

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        values = self._template.run(self._initial, {TEMPLATE_IMAGE: template, TEMPLATE_MASK: mask})
        return {spec.input: value for spec, value in zip(self._spec, values, strict=True)}

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        feeds: dict[str, npt.NDArray[np.generic]] = {SEARCH_IMAGE: search, SEARCH_MASK: mask, **state}
        box, confidence, *after = self._search.run(self._outputs, feeds)
        changed = {spec.input: value for spec, value in zip(self._recurrent, after, strict=True)}
        return Prediction(box, confidence), {**state, **changed}

    def export_state(self, state: EngineState) -> Arrays:
        return {spec.name: np.array(state[spec.input]) for spec in self._spec}

    def import_state(self, arrays: Arrays) -> EngineState:
        return {name: np.array(value) for name, value in graph_inputs(self._bundle, arrays).items()}

    def describe(self) -> dict[str, str]:
        facts = {
            "engine": self.name,
            "version": onnxruntime.__version__,
            "providers": ", ".join(self._search.get_providers()),
            "threads": "default" if self._threads is None else str(self._threads),
        }
        return {**facts, "graphs": "optimized beforehand"} if self._optimized else facts


class ProfiledOnnxRuntimeEngine(OnnxRuntimeEngine):
    """The same, with ONNX Runtime's profile of the search graph."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sttrack-profile-")
        super().__init__(bundle, threads)

    def _counting(self, options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "search")
        return options

    def operators(self) -> list[Operator]:
        """See :class:`sttrack_deploy.engines.base.ProfiledEngine`."""
        events = json.loads(Path(self._search.end_profiling()).read_text(encoding="utf-8"))
        self._folder.cleanup()
        runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
        steps: list[dict[tuple[str, str, str], float]] = [{} for _ in runs]
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                facts = event["args"]
                types = dict.fromkeys(name for one in facts.get("input_type_shape", ()) for name in one)
                key = (event["name"].removesuffix("_kernel_time"), facts["op_name"], ", ".join(types))
                step = steps[bisect.bisect_right(runs, event["ts"]) - 1]
                step[key] = step.get(key, 0.0) + event["dur"] / 1e6
        return typical(steps)


def create(bundle: Bundle, threads: int | None) -> OnnxRuntimeEngine:
    """See :func:`sttrack_deploy.engines.registry.load_engine`."""
    return OnnxRuntimeEngine(bundle, threads)


def create_profiled(bundle: Bundle, threads: int | None) -> ProfiledOnnxRuntimeEngine:
    """See :func:`sttrack_deploy.engines.registry.load_profiled`."""
    return ProfiledOnnxRuntimeEngine(bundle, threads)


def devices() -> list[str]:
    """Execution providers of the installed ONNX Runtime."""
    return list(onnxruntime.get_available_providers())
