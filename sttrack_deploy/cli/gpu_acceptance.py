"""``sttrack-doctor --gpu-acceptance``: what no machine without a GPU can prove, in one command and one table.

For every precision: build, closed-loop gate, speed. The table is Markdown, made to be put into the README.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from sttrack_deploy import __version__
from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.cli.build_engine import BuildBar, progress_columns
from sttrack_deploy.cli.common import console, say
from sttrack_deploy.engines.building import BUILDERS, BuildOptions, builder_of
from sttrack_deploy.engines.registry import create_engine
from sttrack_deploy.engines.shelf import engines_shelf
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.datasets import DATASETS
from sttrack_deploy.evaluation.sequence import Sequence
from sttrack_deploy.evaluation.sequence_run import SequenceRun

__all__ = ["ENGINES", "PRECISIONS", "Row", "accept"]

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
ENGINES = ("tensorrt", "onnxruntime-tensorrt", "onnxruntime-cuda")


class NotRunError(UserError):
    """Something that a row needs is not here; the row says so and the others go on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        status: ``passed``, ``failed`` (the gate, or an error) or ``not run``.
        reason: of the gate, the error, or why it was not run.
        check: numbers of the comparison; empty unless it was made.
        build_seconds: ``None`` where nothing was built.
    """

    engine: str
    precision: str
    status: str
    reason: str
    check: dict[str, Any] = field(default_factory=dict)
    build_seconds: float | None = None
    described: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Trial:
    """What all rows are held against."""

    bundle: Bundle
    sequences: list[Sequence]
    data: str
    reference: str
    runs: list[SequenceRun]


def accept(bundle_path: Path | None, data: Path | None, *, as_json: bool) -> None:
    """Run everything, print the table (or JSON) on standard output.

    Args:
        bundle_path: the FP32 bundle; those of other precisions lie beside it as ``<bundle>-<precision>``.
        data: a folder of annotated videos; ``None`` for the demo clip.

    Raises:
        UserError: a row failed, or not one could be run.
    """
    bundle = open_bundle(bundle_path)
    with contextlib.ExitStack() as stack:
        sequences, name = _sequences(stack, data)
        pairs = [(engine, precision) for precision in PRECISIONS for engine in ENGINES]
        if missing := _no_gpu():  # then the reference is not worth its minutes
            trial = _Trial(bundle, sequences, name, "reference", [])
            rows = [Row(engine, precision, "not run", missing) for engine, precision in pairs]
        else:
            trial = _reference(bundle, sequences, name)
            rows = [_row(trial, engine, precision) for engine, precision in pairs]
    document = _document(trial, rows)
    click.echo(json.dumps(document, indent=1) if as_json else _markdown(document, rows))
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        raise UserError(f"{len(failed)} of {len(rows)} rows failed; the first: {failed[0].reason}")
    if all(row.status == "not run" for row in rows):
        raise UserError(f"nothing could be run on a GPU: {rows[0].reason}")
    say("next: put the table into the README; sttrack-parity and sttrack-bench have the details")


def _sequences(stack: contextlib.ExitStack, data: Path | None) -> tuple[list[Sequence], str]:
    from sttrack_deploy.verification.closed_loop import demo_sequence

    if data is None:
        say("gated on the demo clip only; name a folder of annotated videos with --data")
        return [stack.enter_context(demo_sequence())], "demo clip"
    return DATASETS["folder"].read(data, False), data.resolve().name


def _reference(bundle: Bundle, sequences: list[Sequence], data: str) -> _Trial:
    """Tracks of the network in PyTorch, or of ONNX Runtime where PyTorch is not installed."""
    try:
        name, engine = "torch", create_engine("torch", bundle)
    except UserError:
        name, engine = "onnxruntime", create_engine("onnxruntime", bundle)
    with _bar(f"reference: {name} on the CPU", sequences) as tick:
        from sttrack_deploy.verification.engine_check import run_engine

        return _Trial(bundle, sequences, data, name, run_engine(bundle, engine, sequences, tick))


def _row(trial: _Trial, engine: str, precision: str) -> Row:
    try:
        bundle = _sibling(trial.bundle, precision)
        return _measure(trial, bundle, engine, precision)
    except (MissingDependencyError, NotRunError) as error:
        row = Row(engine, precision, "not run", str(error))
    except UserError as error:
        row = Row(engine, precision, "failed", str(error))
    except Exception as error:  # one row must not cost the others
        row = Row(engine, precision, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
    say(f"{engine} {precision}: {row.status}: {row.reason}")
    return row


def _measure(trial: _Trial, bundle: Bundle, engine: str, precision: str) -> Row:
    from sttrack_deploy.verification.engine_check import check_engine, run_engine

    seconds = None
    if engine in BUILDERS:
        with BuildBar(f"{engine} {precision}") as report:
            started = time.monotonic()
            built = builder_of(engine)(bundle, BuildOptions(), report)
        seconds = None if built.facts.get("reused") else time.monotonic() - started
    ready = create_engine(engine, bundle)
    with _bar(f"{engine} {precision}", trial.sequences) as tick:
        check = check_engine(
            bundle, trial.sequences, trial.runs, run_engine(bundle, ready, trial.sequences, tick)
        )
    status = "passed" if check.verdict.passed else "failed"
    say(f"{engine} {precision}: {status}: {check.verdict.detail}; {check.speed.p50:.2f} ms a frame")
    return Row(engine, precision, status, check.verdict.detail, check.facts(), seconds, ready.describe())


def _sibling(bundle: Bundle, precision: str) -> Bundle:
    """The bundle of that precision: itself, the one beside it, or one made now.

    Raises:
        NotRunError: it is not there and cannot be made.
    """
    if bundle.manifest.precision["name"] == precision:
        return bundle
    beside = bundle.path.with_name(f"{bundle.path.name}-{precision}")
    made = engines_shelf() / "acceptance" / f"{bundle.manifest.search.sha256[:12]}-{precision}"
    for path in (beside, made):
        if path.is_dir():
            return open_bundle(path)
    command = ["--from", str(bundle.path), "--precision", precision, "--out", str(made)]
    hint = f"make it with sttrack-export {' '.join(command[:4])}"
    lacking = [
        name
        for name in ("torch", "onnx", "onnxslim", "safetensors")
        if importlib.util.find_spec(name) is None
    ]
    if lacking:
        raise NotRunError(
            f"there is no bundle {beside}, and {', '.join(lacking)} to make it is not installed; {hint}"
        )
    code = "from sttrack_deploy.cli.export import main; main()"
    say(f"making the {precision} bundle with sttrack-export")
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise NotRunError(f"there is no bundle {beside}, and the export failed ({last}); {hint}")
    return open_bundle(made)


def _no_gpu() -> str:
    """Why no row can be run on this machine; empty if there is a GPU."""
    from sttrack_deploy.engines.cuda.memory import open_cuda

    try:
        open_cuda()
    except UserError as error:
        return str(error)
    return ""


def _document(trial: _Trial, rows: list[Row]) -> dict[str, Any]:
    described = next((row.described for row in rows if row.described), {})
    return {
        "sttrack-deploy": __version__,
        "bundle": trial.bundle.manifest.name,
        "system": f"{platform.system()} {platform.machine()}",
        "device": described.get("device"),
        "driver": described.get("driver"),
        "data": trial.data,
        "frames": sum(len(sequence) for sequence in trial.sequences),
        "reference": trial.reference,
        "rows": [asdict(row) for row in rows],
    }


def _markdown(document: dict[str, Any], rows: list[Row]) -> str:
    where = f"{document['device'] or 'no GPU'}, driver {document['driver'] or 'none'}, {document['system']}"
    lines = [
        f"{document['bundle']} on {where}; {document['frames']} frames of the {document['data']}; time is crop, "
        "network and box for one frame, without decoding.",
        "",
        f"| precision | engine | version | mean IoU to {document['reference']} | AUC (reference) | gate "
        "| p50 / p95 / p99 ms | FPS | build |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row.check:
            status = "not run" if row.status == "not run" else "failed"
            reason = row.reason.replace("|", "\\|")
            lines.append(f"| {row.precision} | {row.engine} | - | {status}: {reason} | - | - | - | - | - |")
            continue
        c = row.check
        build = "-" if row.build_seconds is None else f"{row.build_seconds:.0f} s"
        lines.append(
            f"| {row.precision} | {row.engine} | {row.described.get('version', '-')} | {c['mean_iou']:.4f} "
            f"| {c['auc']:.4f} ({c['auc_reference']:.4f}) | {row.status} "
            f"| {c['ms_p50']:.2f} / {c['ms_p95']:.2f} / {c['ms_p99']:.2f} | {c['fps']:.0f} | {build} |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def _bar(title: str, sequences: list[Sequence]) -> Iterator[Any]:
    """A progress bar over all frames; gives the function that moves it."""
    with Progress(*progress_columns(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=sum(len(sequence) for sequence in sequences))
        yield lambda frames: bar.advance(task, frames)
