"""``sttrack-doctor``: what is installed, what is missing and how to install it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from sttrack_deploy import __version__
from sttrack_deploy.bundle import default_bundle_path, open_bundle
from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import bundle_option
from sttrack_deploy.terminal.program import command, console, say
from sttrack_deploy.terminal.types import PATH

__all__ = ["main"]

PROBE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class _Tool:
    """An optional package: what imports it, the names it is installed under, what it is for."""

    name: str
    module: str
    distributions: tuple[str, ...]
    purpose: str
    install: str


def _of_engine(name: str, purpose: str) -> _Tool:
    backend = BACKENDS[name]
    return _Tool(name, backend.package, backend.distributions, purpose, backend.install)


TOOLS = (
    _Tool("opencv", "cv2", ("opencv-python", "opencv-python-headless"), "video, images, windows",
          "pip install opencv-python"),
    _of_engine("openvino", "inference on CPUs"),
    _of_engine("tensorrt", "engines for NVIDIA GPUs"),
    _of_engine("tensorrt-rtx", "engines for GeForce RTX, built without a GPU"),
    _Tool("cuda-python", "cuda", ("cuda-python", "cuda-bindings"), "memory and streams on NVIDIA GPUs",
          "pip install cuda-python"),
    _Tool("pycuda", "pycuda", ("pycuda",), "the same, alternatively", "pip install pycuda"),
    _Tool("polygraphy", "polygraphy", ("polygraphy",), "comparing engines layer by layer",
          "pip install polygraphy"),
    _Tool("onnx", "onnx", ("onnx",), "sttrack-export", "pip install onnx"),
    _Tool("onnxslim", "onnxslim", ("onnxslim",), "sttrack-export", "pip install onnxslim"),
    _Tool("safetensors", "safetensors", ("safetensors",), "weights", "pip install safetensors"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    """A back end or a tool as found; ``note`` says what it is for or what is wrong with it."""

    name: str
    version: str | None
    devices: list[str]
    note: str
    install: str | None


@click.command(cls=GroupedCommand)
@heading("Checks")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output instead of tables.")
@click.option("--gpu-acceptance", is_flag=True, help="Build, gate and time every precision on the GPU here.")
@click.option("--data", type=PATH, help="With it: folder of annotated videos.  [default: demo]")
@bundle_option
@command
def main(as_json: bool, gpu_acceptance: bool, data: Path | None, bundle: Path | None) -> None:
    """Show versions, devices and what to install for what is missing.

    Exit code 0 if the default engine runs the shipped bundle.
    """
    if gpu_acceptance:
        _accept(bundle, data, as_json=as_json)
        return
    if data is not None or bundle is not None:
        raise UsageError("--data and --bundle belong to --gpu-acceptance")
    engines = [_engine(name) for name in BACKENDS]
    tools = [_tool(tool) for tool in TOOLS]
    shipped = _bundle()
    run = _default_run() if shipped["ok"] else {"ok": False, "note": shipped["note"]}
    report: dict[str, Any] = {
        "system": _system(),
        "engines": [asdict(entry) for entry in engines],
        "tools": [asdict(entry) for entry in tools],
        "bundle": shipped,
        "default_engine": {"name": DEFAULT_BACKEND, **run},
        "warnings": _warnings(),
    }
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        _print(report, engines, tools)
    if not run["ok"]:
        raise UserError(f"the default engine '{DEFAULT_BACKEND}' cannot run: {run['note']}")


def _system() -> dict[str, str]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "sttrack-deploy": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu threads": f"{affinity} usable of {os.cpu_count()}",
    }


def _installed(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _engine(name: str) -> _Entry:
    backend = BACKENDS[name]
    if not backend.available:
        return _Entry(name, None, [], "not installed", backend.install)
    code = (
        "import json; from sttrack_deploy.engines.registry import BACKENDS; "
        f"print(json.dumps(BACKENDS[{name!r}].devices()))"
    )
    answer, problem = _probe(code)
    devices = [str(device) for device in answer] if isinstance(answer, list) else []
    note = "default" if name == DEFAULT_BACKEND else ""
    return _Entry(
        name,
        backend.installed_version or "unknown",
        devices,
        problem or note,
        backend.install if problem else None,
    )


def _tool(tool: _Tool) -> _Entry:
    # find_spec does not import: some of these start drivers when they are imported.
    if importlib.util.find_spec(tool.module) is None:
        return _Entry(tool.name, None, [], tool.purpose, tool.install)
    return _Entry(tool.name, _installed(tool.distributions) or "unknown", [], tool.purpose, None)


def _bundle() -> dict[str, Any]:
    try:
        path = default_bundle_path()
        bundle = open_bundle(path)
    except UserError as error:
        return {"ok": False, "note": str(error)}
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return {"ok": True, "path": str(path), "name": bundle.manifest.title, "bytes": size, "note": "hashes ok"}


def _default_run() -> dict[str, Any]:
    """Track two frames of noise with the default engine and the shipped bundle."""
    code = """
import json, time
import numpy as np
from sttrack_deploy.runtime.tracker import Tracker
frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
tracker = Tracker.from_bundle()
tracker.init(frame, (100, 80, 60, 60))
tracker.update(frame)
start = time.perf_counter()
for _ in range(5):
    tracker.update(frame)
print(json.dumps((time.perf_counter() - start) / 5))
"""
    answer, problem = _probe(code)
    if problem or not isinstance(answer, float):
        return {"ok": False, "note": problem}
    return {"ok": True, "note": f"{1e3 * answer:.1f} ms a frame", "seconds": answer}


def _probe(code: str) -> tuple[Any, str]:
    """Run code in a process of its own, so that a broken driver cannot take this one along.

    Returns:
        what the code printed last, as JSON, or None; and what went wrong, or an empty string.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer in {PROBE_SECONDS} s"
    except OSError as error:
        return None, f"cannot start Python: {error}"
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with code {done.returncode}"]
        return None, last[0].strip()
    try:
        return json.loads(done.stdout.strip().splitlines()[-1]), ""
    except (IndexError, json.JSONDecodeError):
        return None, "no answer"


def _warnings() -> list[str]:
    warnings = []
    if _installed(("onnxruntime",)) and _installed(("onnxruntime-gpu",)):
        warnings.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want"
        )
    if _installed(("opencv-python",)) and _installed(("opencv-python-headless",)):
        warnings.append(
            "opencv-python and opencv-python-headless are both installed and overwrite each other's files: "
            "pip uninstall -y opencv-python opencv-python-headless, then pip install the one you want"
        )
    return warnings


def _print(report: dict[str, Any], engines: list[_Entry], tools: list[_Entry]) -> None:
    for name, value in report["system"].items():
        console.print(f"{name}: {escape(value)}", soft_wrap=True)
    for title, entries in (("engines", engines), ("optional packages", tools)):
        table = Table("name", "version", "devices", "note", title=title, title_justify="left")
        for entry in entries:
            shown = entry.version or "[yellow]missing[/]"
            table.add_row(entry.name, shown, escape(", ".join(entry.devices)), escape(entry.note))
        console.print(table)
    wanted: dict[str, str] = {}
    for entry in (*engines, *tools):  # an engine's line, which has versions, before that of its package
        if entry.install:
            wanted.setdefault(entry.name, entry.install)
    for name, install in wanted.items():  # on lines of their own, to be copied
        console.print(f"to get {name}: {escape(install)}", soft_wrap=True)
    bundle, run = report["bundle"], report["default_engine"]
    if bundle["ok"]:
        console.print(
            f"bundle: {bundle['name']}, {bundle['bytes'] / 1e6:.1f} MB, {bundle['note']}, in {escape(bundle['path'])}",
            soft_wrap=True,
        )
    if run["ok"]:
        console.print(f"default engine: {run['name']} runs it, {run['note']}")
        console.print("next: sttrack-run --demo")
    for warning in report["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


def _accept(bundle: Path | None, data: Path | None, *, as_json: bool) -> None:
    """Run everything on the GPU, print the table (or JSON) on standard output.

    Raises:
        UserError: a row failed, or not one could be run.
    """
    from sttrack_deploy.cli.build_engine import BuildBar
    from sttrack_deploy.sequences.datasets import DATASETS
    from sttrack_deploy.terminal.program import progress_bar
    from sttrack_deploy.verification.closed_loop import demo_sequence
    from sttrack_deploy.verification.gpu_acceptance import accept, markdown

    with contextlib.ExitStack() as stack:
        if data is None:
            say("gated on the demo clip only; name a folder of annotated videos with --data")
            sequences, name = [stack.enter_context(demo_sequence())], "demo clip"
        else:
            sequences, name = DATASETS["folder"].read(data, False), data.resolve().name
        bar = stack.enter_context(progress_bar())
        document, rows = accept(open_bundle(bundle), sequences, name, bar, BuildBar)
    click.echo(json.dumps(document, indent=1) if as_json else markdown(document, rows))
    if failed := [row for row in rows if row.status == "failed"]:
        raise UserError(f"{len(failed)} of {len(rows)} rows failed; the first: {failed[0].reason}")
    if all(row.status == "not run" for row in rows):
        raise UserError(f"nothing could be run on a GPU: {rows[0].reason}")
    say("next: sttrack-parity and sttrack-bench have the details")
