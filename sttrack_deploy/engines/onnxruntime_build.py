"""Graphs as ONNX Runtime's optimiser leaves them, kept on the shelf so that a start need not optimise again.

It saves little (20 of 40 ms for sttrack-nano, 60 of 280 ms for sttrack-r50, of processor time), so it is done when
asked for (``sttrack-build-engine --target onnxruntime``) and never on its own.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.building import BuildOptions, BuildReport, BuiltEngine, folder_of
from sttrack_deploy.engines.shelf import shelf_of
from sttrack_deploy.files import atomic_directory, sha256_of

__all__ = ["build", "optimized_graphs"]

FOLDER = "onnxruntime"
SIDECAR = "manifest.json"
GRAPHS = ("template.onnx", "search.onnx")


def build(bundle: Bundle, options: BuildOptions, report: BuildReport) -> BuiltEngine:
    """Write both graphs as ONNX Runtime optimises them for this CPU.

    Threads and the batch do not matter: the files are good for all of them.

    Raises:
        UserError: ONNX Runtime cannot load a graph, or the folder cannot be written.
    """
    from sttrack_deploy.engines.onnxruntime_session import open_session, session_options

    folder, facts = folder_of(bundle, options) / FOLDER, _made_by(bundle)
    files = tuple(folder / name for name in (*GRAPHS, SIDECAR))
    if not options.force and _fits(folder, facts):
        return BuiltEngine(files, {**facts, "reused": True})
    report.phase("optimize", None, len(GRAPHS))
    with atomic_directory(folder) as partial:
        sources = (bundle.template_path, bundle.search_path)
        specs = (bundle.manifest.template, bundle.manifest.search)
        for done, (name, source, spec) in enumerate(zip(GRAPHS, sources, specs, strict=True), 1):
            session = session_options(1, bundle)
            session.optimized_model_filepath = str(partial / name)
            open_session(source, spec, session)
            report.step("optimize", done)
        digests = {name: sha256_of(partial / name) for name in GRAPHS}
        text = json.dumps({**facts, "sha256": digests}, indent=1, sort_keys=True)
        (partial / SIDECAR).write_text(text + "\n", encoding="utf-8")
    report.finish("optimize")
    return BuiltEngine(files, {**facts, "reused": False})


def optimized_graphs(bundle: Bundle) -> tuple[Path, Path] | None:
    """Template and search graph from the shelf, or ``None`` where there are none that fit."""
    folder = shelf_of(bundle) / FOLDER
    if not _fits(folder, _made_by(bundle)):
        return None
    return folder / GRAPHS[0], folder / GRAPHS[1]


def _fits(folder: Path, facts: dict[str, str]) -> bool:
    try:
        sidecar = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        same = {key: sidecar.get(key) for key in facts} == facts
        return same and all(sha256_of(folder / name) == sidecar["sha256"][name] for name in GRAPHS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _made_by(bundle: Bundle) -> dict[str, str]:
    """What an optimised graph is good for: weights are laid out for one version and one kind of CPU.

    On another kind they would be read in another order, without an error.
    """
    import onnxruntime

    return {
        "onnxruntime": onnxruntime.__version__,
        "cpu": _cpu(),
        "source": f"{bundle.manifest.template.sha256} {bundle.manifest.search.sha256}",
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
