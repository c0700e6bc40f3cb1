"""``sttrack-build-engine``: a bundle becomes what runs fastest on this machine, checked in closed loop."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.engines.building import (
    BUILDERS,
    VARIABLE,
    BatchRange,
    BuildOptions,
    BuiltEngine,
    batch_range,
    builder_of,
    folder_of,
)
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.locks import in_turn
from sttrack_deploy.records import parse_integer
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import check_reports, json_option, overwrite_option, threads_option
from sttrack_deploy.terminal.program import command, console, progress_bar, say
from sttrack_deploy.terminal.types import FOLDER, PATH, Integer

if TYPE_CHECKING:
    from sttrack_deploy.verification.closed_loop import EngineCheck

__all__ = ["BuildBar", "main", "progress_columns"]


@click.command(cls=GroupedCommand)
@click.argument("bundle_path", metavar="[BUNDLE]", required=False, type=PATH)
@heading("Engine")
@click.option("--target", type=click.Choice(list(BUILDERS)), required=True, help="What to build for.")
@click.option(
    "--out",
    type=FOLDER,
    help="Another engine cache to write into; STTRACK_ENGINES=DIR makes all commands look there.  "
    "[default: the one where they look]",
)
@click.option(
    "--batch",
    metavar="N|MIN,BEST,MAX",
    help="Targets for each call, if the bundle's batch is dynamic.  [default: 1]",
)
@heading("TensorRT", more=True)
@click.option(
    "--compute-capability",
    "capabilities",
    metavar="LIST",
    help="TensorRT for RTX: GPUs to build for, such as 8.9,12.0; 7.5 only by itself.  [default: 8.0,8.6,8.9,12.0]",
)
@click.option("--workspace", type=Integer(1, 1 << 24), metavar="MIB", help="TensorRT: most scratch memory.")
@click.option("--optimization-level", type=Integer(0, 5), help="TensorRT: 0 builds fast, 5 runs fast.")
@click.option("--tf32", is_flag=True, help="TensorRT: compute FP32 products with ten bits of mantissa.")
@click.option(
    "--hardware-compatible", is_flag=True, help="TensorRT: plans also run on other GPUs from Ampere on."
)
@click.option("--version-compatible", is_flag=True, help="TensorRT: plans also run with later versions.")
@click.option("--no-timing-cache", is_flag=True, help="TensorRT: measure every kernel anew.")
@heading("Checks")
@click.option("--rebuild", is_flag=True, help="Build although what is there fits.")
@click.option("--no-check", is_flag=True, help="Do not compare with ONNX Runtime on the demo clip.")
@click.option("--keep-failed", is_flag=True, help="Keep an engine that fails the comparison.")
@threads_option
@json_option
@overwrite_option
@command
def main(
    bundle_path: Path | None,
    target: str,
    out: Path | None,
    batch: str | None,
    capabilities: str | None,
    workspace: int | None,
    optimization_level: int | None,
    tf32: bool,
    hardware_compatible: bool,
    version_compatible: bool,
    no_timing_cache: bool,
    rebuild: bool,
    no_check: bool,
    keep_failed: bool,
    threads: int | None,
    json_path: Path | None,
    overwrite: bool,
) -> None:
    """Build the engine of a BUNDLE (default: the shipped sttrack-nano) for this machine.

    It is then compared in closed loop with ONNX Runtime on the same bundle; one that fails is removed.

    \b
    sttrack-build-engine --target openvino
    sttrack-build-engine export/sttrack-nano-fp16 --target tensorrt
    sttrack-build-engine export/many --target tensorrt --batch 1,4,8
    sttrack-build-engine export/sttrack-nano-fp16 --target tensorrt-rtx --compute-capability 8.9,12.0
    """
    _refuse_foreign_options(
        {
            "--compute-capability": capabilities,
            "--workspace": workspace,
            "--optimization-level": optimization_level,
            "--tf32": tf32,
            "--hardware-compatible": hardware_compatible,
            "--version-compatible": version_compatible,
            "--no-timing-cache": no_timing_cache,
        },
        target,
    )
    check_reports((json_path,), overwrite=overwrite, inputs=(bundle_path,))
    bundle = open_bundle(bundle_path)
    options = BuildOptions(
        out=out,
        batch=None if batch is None else _batch(batch),
        threads=threads,
        workspace_mib=workspace,
        optimization_level=optimization_level,
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        tf32=tf32,
        timing_cache=not no_timing_cache,
        compute_capabilities=() if capabilities is None else _capabilities(capabilities),
        force=rebuild,
    )
    batch_range(bundle, options.batch)  # a wrong one is said before anything is loaded
    with in_turn(folder_of(bundle, options) / target, _say_waiting):
        built = _build(bundle, target, options)
        check = None
        # In a folder of its own it is not what the engine would load.
        if out is None and not no_check:
            check = _checked(bundle, target, threads, built, keep_failed)
    if json_path is not None:
        _write_json(json_path, _document(bundle, target, built, check))
    if check is not None and not check.verdict.passed:
        raise UserError(
            f"the engine does not track what ONNX Runtime tracks: {check.verdict.detail}; {_fate(keep_failed)}"
        )
    _say_next(bundle, target, built, check, out)


def _say_waiting() -> None:
    say("another process builds this engine; waiting for it")


def _build(bundle: Bundle, target: str, options: BuildOptions) -> BuiltEngine:
    started = time.monotonic()
    with BuildBar(f"building for {target}") as report:
        built = builder_of(target)(bundle, options, report)
    _tell(bundle, target, built, time.monotonic() - started)
    return built


def _checked(
    bundle: Bundle, target: str, threads: int | None, built: BuiltEngine, keep_failed: bool
) -> EngineCheck | None:
    """The comparison with ONNX Runtime, where this machine can run the engine; one that does not pass is removed.

    Raises:
        UserError: the engine cannot be run at all.
    """
    if why_not := _why_not_here(target):
        say(f"  not compared with onnxruntime, since it cannot run on this machine: {why_not}")
        return None
    try:
        check = _check(bundle, target, threads)
    except UserError as error:
        if not keep_failed:
            _remove(built)
        raise UserError(
            f"the engine could not be compared with ONNX Runtime: {error}; {_fate(keep_failed)}"
        ) from error
    except BaseException:
        # Ctrl-C: what was not compared must not be loaded, unless it was there before.
        if not built.facts.get("reused"):
            _remove(built)
        raise
    if not check.verdict.passed and not keep_failed:
        _remove(built)
    return check


def _remove(built: BuiltEngine) -> None:
    for file in built.files:
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


def _fate(kept: bool) -> str:
    return "kept (--keep-failed)" if kept else "removed (--keep-failed would keep it)"


_RTX = "tensorrt-rtx"


def _refuse_foreign_options(options: dict[str, object], target: str) -> None:
    """Options of one target with another: said, not ignored."""
    owners: dict[str, tuple[str, ...]] = {name: ("tensorrt",) for name in options}
    owners |= {"--compute-capability": (_RTX,), "--workspace": ("tensorrt", _RTX)}
    for name, value in options.items():
        if value and target not in owners[name]:
            raise UsageError(
                f"{name} is for --target {' or '.join(owners[name])}; --target {target} has no such setting"
            )


def _capabilities(text: str) -> tuple[str, ...]:
    """``8.9,12.0``."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(r"[0-9]+\.[0-9]", part) for part in found) or len(set(found)) < len(found):
        raise UsageError(f"--compute-capability is a list of different ones, such as 8.9,12.0; not {text!r}")
    return found


def _batch(text: str) -> BatchRange:
    """``4`` or ``1,4,8``."""
    try:
        numbers = [parse_integer(part.strip()) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] >= 1:
        return BatchRange(numbers[0], numbers[0], numbers[0])
    if len(numbers) == 3 and 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        return BatchRange(*numbers)
    raise UsageError(f"--batch is a number, or MIN,BEST,MAX in order, such as 1,4,8; not {text!r}")


def _tell(bundle: Bundle, target: str, built: BuiltEngine, seconds: float) -> None:
    done = (
        "is built already and fits (--rebuild builds it again)"
        if built.facts.get("reused")
        else f"in {seconds:.0f} s"
    )
    facts = ", ".join(f"{k} {v}" for k, v in built.facts.items() if k not in ("reused", "seconds"))
    say(f"{target} engine of {bundle.manifest.title}: {done}: {facts}")
    for file in built.files:
        say(f"  {file}  {file.stat().st_size / 1e6:.1f} MB")


def _why_not_here(target: str) -> str:
    """Why this machine builds what it cannot run; empty where it can."""
    if target != _RTX:
        return ""
    from sttrack_deploy.engines.tensorrt.engine import why_not_here

    return why_not_here()


def _check(bundle: Bundle, target: str, threads: int | None) -> EngineCheck:
    """Track the demo clip with the new engine and with ONNX Runtime."""
    from sttrack_deploy.engines.registry import load_engine
    from sttrack_deploy.verification.closed_loop import check_engine, demo_sequence, run_engine

    with demo_sequence() as sequence, progress_bar() as bar:
        bar.stage("comparing with onnxruntime", 2 * len(sequence))
        runs = [
            run_engine(bundle, load_engine(name, bundle, threads), [sequence], bar)
            for name in ("onnxruntime", target)
        ]
        check = check_engine(bundle, [sequence], *runs)
    mark = "ok" if check.verdict.passed else "FAIL"
    say(
        f"  {mark}: beside onnxruntime on the same bundle: {check.verdict.detail}; {check.speed.p50:.2f} ms a frame"
    )
    say("  (on the demo clip only; sttrack-parity compares on your videos)")
    if target in ("tensorrt", _RTX):
        from sttrack_deploy.engines.tensorrt.plan_build import record_gate
        from sttrack_deploy.engines.tensorrt.toolkit import FLAVORS

        facts = {"data": "demo clip", "reference": "onnxruntime", **check.facts()}
        record_gate(bundle, facts, FLAVORS[target])
    return check


def _document(bundle: Bundle, target: str, built: BuiltEngine, check: EngineCheck | None) -> dict[str, Any]:
    return {
        "bundle": str(bundle.path),
        "target": target,
        "files": [str(file) for file in built.files],
        "bytes": built.bytes,
        "facts": dict(built.facts),
        "check": None if check is None else check.facts(),
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1)
    if str(path) == "-":
        click.echo(text)
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n")


def _say_next(
    bundle: Bundle, target: str, built: BuiltEngine, check: EngineCheck | None, out: Path | None
) -> None:
    if target == _RTX and check is None:
        say(
            f"next: take the bundle and {built.files[0].parent} to a machine with a GPU of those capabilities"
        )
    elif out is None:
        say(
            f"next: sttrack-run VIDEO --init-box X,Y,W,H --engine {target} --bundle {shlex.quote(str(bundle.path))}"
        )
    else:
        where = f"{VARIABLE}={shlex.quote(str(out))}"
        model = f"--engine {target} --bundle {shlex.quote(str(bundle.path))}"
        say(f"next: {where} sttrack-run VIDEO --init-box X,Y,W,H {model}")


def progress_columns() -> tuple[Any, ...]:
    """Name, bar, count and time of a step."""
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()


class BuildBar(contextlib.AbstractContextManager["BuildBar"]):
    """The bars of a build: one for each phase that is under way. Any thread may call it."""

    def __init__(self, title: str) -> None:
        self._bar = Progress(*progress_columns(), console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._title = title
        self._notes: list[str] = []

    def __enter__(self) -> BuildBar:
        self._bar.start()
        self._bar.add_task(self._title, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        for text in self._notes:
            say(f"note: {text}")

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        indent = "    " if parent else "  "
        self._tasks[name] = self._bar.add_task(indent + name, total=steps)

    def step(self, name: str, done: int) -> bool:
        if name in self._tasks:
            self._bar.update(self._tasks[name], completed=done)
        return True

    def finish(self, name: str) -> None:
        if name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))

    def note(self, text: str) -> None:
        self._notes.append(" ".join(text.split()))
