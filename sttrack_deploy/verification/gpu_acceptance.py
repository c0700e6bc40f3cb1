"""What no machine without a GPU can prove, in one command and one table.

For every precision: build, closed-loop gate, speed. The table is Markdown, made to be put into the README.
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from sttrack_deploy import __version__
from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.engines.building import (
    BUILDERS,
    BuildOptions,
    BuildReport,
    SilentReport,
    builder_of,
    engine_cache,
)
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence
from sttrack_deploy.verification.closed_loop import check_engine, run_engine

__all__ = ["ENGINES", "PRECISIONS", "Row", "accept", "markdown"]

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
    sequences: list[VideoSequence]
    data: str
    reference: str
    runs: list[TrackRun]


Reporter = Callable[[str], contextlib.AbstractContextManager[BuildReport]]
"""Shows a build under this title."""


def accept(
    bundle: Bundle,
    sequences: list[VideoSequence],
    data: str,
    progress: Progress = SILENT,
    reporter: Reporter = lambda _: contextlib.nullcontext(SilentReport()),
) -> tuple[dict[str, Any], list[Row]]:
    """Build, gate and time every precision on every GPU engine; one row must not cost the others.

    Args:
        bundle: the FP32 one; those of other precisions lie beside it as ``<bundle>-<precision>``.
        sequences: annotated videos to gate on; data: what to call them.
        progress: told of each row.

    Returns:
        Everything for programs, and the rows; :func:`markdown` makes the table of them.
    """
    pairs = [(engine, precision) for precision in PRECISIONS for engine in ENGINES]
    if missing := _no_gpu():  # then the reference is not worth its minutes
        trial = _Trial(bundle, sequences, data, "reference", [])
        rows = [Row(engine, precision, "not run", missing) for engine, precision in pairs]
    else:
        trial = _reference(bundle, sequences, data, progress)
        rows = [_row(trial, engine, precision, progress, reporter) for engine, precision in pairs]
    return _document(trial, rows), rows


def _reference(bundle: Bundle, sequences: list[VideoSequence], data: str, progress: Progress) -> _Trial:
    """Tracks of the network in PyTorch, or of ONNX Runtime where PyTorch is not installed."""
    try:
        name, engine = "torch", load_engine("torch", bundle)
    except UserError:
        name, engine = "onnxruntime", load_engine("onnxruntime", bundle)
    progress.stage(f"reference: {name} on the CPU", sum(len(sequence) for sequence in sequences))
    return _Trial(bundle, sequences, data, name, run_engine(bundle, engine, sequences, progress))


def _row(trial: _Trial, engine: str, precision: str, progress: Progress, reporter: Reporter) -> Row:
    try:
        bundle = _sibling(trial.bundle, precision, progress)
        return _measure(trial, bundle, engine, precision, progress, reporter)
    except (MissingDependencyError, NotRunError) as error:
        row = Row(engine, precision, "not run", str(error))
    except UserError as error:
        row = Row(engine, precision, "failed", str(error))
    except Exception as error:  # one row must not cost the others
        row = Row(engine, precision, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
    progress.note(f"{engine} {precision}: {row.status}: {row.reason}")
    return row


def _measure(
    trial: _Trial, bundle: Bundle, engine: str, precision: str, progress: Progress, reporter: Reporter
) -> Row:
    seconds = None
    if engine in BUILDERS:
        with reporter(f"{engine} {precision}") as report:
            started = time.monotonic()
            built = builder_of(engine)(bundle, BuildOptions(), report)
        seconds = None if built.facts.get("reused") else time.monotonic() - started
    ready = load_engine(engine, bundle)
    progress.stage(f"{engine} {precision}", sum(len(sequence) for sequence in trial.sequences))
    runs = run_engine(bundle, ready, trial.sequences, progress)
    check = check_engine(bundle, trial.sequences, trial.runs, runs)
    status = "passed" if check.verdict.passed else "failed"
    progress.note(f"{engine} {precision}: {status}: {check.verdict.detail}; {check.speed.p50:.2f} ms a frame")
    return Row(engine, precision, status, check.verdict.detail, check.facts(), seconds, ready.describe())


def _sibling(bundle: Bundle, precision: str, progress: Progress) -> Bundle:
    """The bundle of that precision: itself, the one beside it, or one made now.

    Raises:
        NotRunError: it is not there and cannot be made.
    """
    if bundle.manifest.precision["name"] == precision:
        return bundle
    beside = bundle.path.with_name(f"{bundle.path.name}-{precision}")
    made = engine_cache() / "acceptance" / f"{bundle.manifest.search.sha256[:12]}-{precision}"
    for path in (beside, made):
        if path.is_dir():
            return open_bundle(path)
    command = [str(bundle.path), "--precision", precision, "--out", str(made)]
    hint = f"make it with sttrack-convert {shlex.join(command[:3])}"
    lacking = [
        name
        for name in ("torch", "onnx", "onnxslim", "safetensors")
        if importlib.util.find_spec(name) is None
    ]
    if lacking:
        raise NotRunError(
            f"there is no bundle {beside}, and {', '.join(lacking)} to make it is not installed; {hint}"
        )
    code = "from sttrack_deploy.cli.convert import main; main()"
    progress.note(f"making the {precision} bundle with sttrack-convert")
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise NotRunError(f"there is no bundle {beside}, and the conversion failed ({last}); {hint}")
    return open_bundle(made)


def _no_gpu() -> str:
    """Why no row can be run on this machine; empty if there is a GPU."""
    from sttrack_deploy.engines.cuda import open_cuda

    try:
        open_cuda()
    except UserError as error:
        return str(error)
    return ""


def _document(trial: _Trial, rows: list[Row]) -> dict[str, Any]:
    described = next((row.described for row in rows if row.described), {})
    return {
        "sttrack-deploy": __version__,
        "bundle": trial.bundle.manifest.title,
        "system": f"{platform.system()} {platform.machine()}",
        "device": described.get("device"),
        "driver": described.get("driver"),
        "data": trial.data,
        "frames": sum(len(sequence) for sequence in trial.sequences),
        "reference": trial.reference,
        "rows": [asdict(row) for row in rows],
    }


def markdown(document: dict[str, Any], rows: list[Row]) -> str:
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
