"""``sttrack-bench``: how fast are bundles on engines, and what is that beside PyTorch?"""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from itertools import islice
from pathlib import Path

import click
import cv2
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.cli.bench_outcome import show, write_plot
from sttrack_deploy.cli.candidates import candidate_options, chosen_bundles, chosen_engines
from sttrack_deploy.cli.common import command, console, json_option, say
from sttrack_deploy.cli.evaluate_outcome import emit_json
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.reporting.plot_style import drawing
from sttrack_deploy.geometry import parse_box
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.verification.bench_document import bench_document
from sttrack_deploy.verification.bench_run import BenchPlan, BenchResult, SubjectTimes, run_bench
from sttrack_deploy.verification.bench_worker import (
    BLOCK_WARM_UP,
    COMPILED,
    Clip,
    EngineMaker,
    Subject,
    decoded,
)
from sttrack_deploy.verification.parity import Candidate

__all__ = ["baseline_of", "clip_of", "engine_subjects", "main", "measure"]

DEMO_NAME = "the demo clip"
LEAST_FRAMES = BLOCK_WARM_UP + 3


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@candidate_options
@click.option(
    "--source", type=click.Path(path_type=Path), help="Video or folder of images.  [default: the demo clip]"
)
@click.option("--init-box", metavar="X,Y,W,H", help="Target on its first frame.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=2, show_default=True, help="For engine and OpenCV."
)
@click.option(
    "--frames", type=click.IntRange(min=LEAST_FRAMES), default=60, show_default=True, help="Frames of a turn."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Turns of each engine."
)
@click.option(
    "--targets", metavar="1,2,4,8", help="Also time the search step with so many targets in a batch."
)
@click.option("--long", "long_frames", type=click.IntRange(min=0), default=0, metavar="FRAMES",
              help="Also track this long, for cost and memory against the frame index (10000, say).")  # fmt: skip
@click.option(
    "--baseline", metavar="ENGINE", help="What ratios are to.  [default: torch if measured, else the first]"
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the order in which engines take turns."
)
@json_option
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the times (PNG).")
@command
def main(
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    engine_list: str | None,
    precisions: str | None,
    source: Path | None,
    init_box: str | None,
    threads: int,
    frames: int,
    rounds: int,
    targets: str | None,
    long_frames: int,
    baseline: str | None,
    seed: int,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Time bundles on engines, taking turns on the same frames, with ratios and their intervals.

    Engines are those of sttrack-run and torch-compile. Each has a process of its own that does nothing while
    another one is timed.
    """
    if plot is not None:
        with drawing():  # refuses now, and not after the measurement, where matplotlib is missing
            pass
    names = chosen_engines(engines, engine_list, (COMPILED,))
    subjects = engine_subjects(chosen_bundles(bundles, precisions), names, threads)
    if baseline is not None and not any(baseline in (s.label, s.facts["engine"]) for s in subjects):
        raise UsageError(
            f"the baseline {baseline!r} is not measured; measured are {', '.join(s.label for s in subjects)}"
        )
    with clip_of(source, init_box, frames) as (clip, title):
        batch = _numbers(targets)
        plan = BenchPlan(clip, rounds, threads, batch, steps=min(20, frames), long=long_frames, seed=seed)
        result = measure(subjects, plan)
    base = baseline_of(result, baseline)
    show(result, base, title)
    emit_json(bench_document(result, base, title), json_path)
    write_plot(result, base, title, plot)
    best = min(result.subjects, key=lambda s: float(s.frame.mean()))
    path, engine = best.subject.facts["bundle"], best.subject.facts["engine"]
    engine = "torch" if engine == COMPILED else engine  # not an engine that anything else runs
    say(
        f"fastest: {best.subject.label}; next: sttrack-parity {shlex.quote(path)} --engine {engine} --data DIR"
    )
    if result.failures:
        raise UserError(f"not measured: {', '.join(result.failures)}")


def measure(subjects: Seq[Subject], plan: BenchPlan) -> BenchResult:
    """Run the benchmark under a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("turns"))
    with _compiler_cache(), Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
        refresh_per_second=1,
    ) as bar:  # fmt: skip
        task = bar.add_task("start", total=plan.turns(len(subjects)))

        def tick(label: str) -> None:
            bar.update(task, advance=1, description=label)

        return run_bench(subjects, plan, tick)


@contextlib.contextmanager
def _compiler_cache() -> Iterator[None]:
    """torch.compile's files in a folder of this run: an interrupted one leaves half a library in the shared one."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="sttrack-compile-", ignore_cleanup_errors=True) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]


def baseline_of(result: BenchResult, asked: str | None) -> SubjectTimes:
    """The engine that was asked for, by its label or its name; else PyTorch; else the first.

    Raises:
        UserError: the one asked for could not be measured.
    """
    wanted = asked or "torch"
    for times in result.subjects:
        if wanted in (times.subject.label, times.subject.facts.get("engine")):
            return times
    if asked is not None:
        raise UserError(
            f"the baseline {asked!r} could not be measured: {'; '.join(result.failures.values())}"
        )
    return result.subjects[0]


@contextlib.contextmanager
def clip_of(source: Path | None, init_box: str | None, frames: int) -> Iterator[tuple[Clip, str]]:
    """What is tracked, and its name: the user's video, or the demo clip as a video file that goes away.

    Raises:
        UsageError: a video without a box, or a box without a video.
        UserError: the video cannot be read, or is too short.
    """
    if (source is None) != (init_box is None):
        raise UsageError("--source and --init-box go together")
    if source is not None and init_box is not None:
        if not source.exists():
            raise UserError(f"{source} does not exist; give a video or a folder of images with --source")
        count = sum(1 for _ in islice(decoded(source), frames))
        if count < LEAST_FRAMES:
            raise UserError(f"{source} has {count} frames; a benchmark needs at least {LEAST_FRAMES}")
        yield Clip(source, parse_box(init_box), count), source.name
        return
    demo = DemoClip()
    count = min(frames, len(demo.truth))
    with tempfile.TemporaryDirectory(prefix="sttrack-bench-") as folder:
        path = Path(folder) / "demo.mp4"
        height, width = demo.frame(0).shape[:2]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), demo.fps, (width, height))
        for frame in demo.frames(range(count)):
            writer.write(frame.image)
        writer.release()
        if sum(1 for _ in decoded(path)) < LEAST_FRAMES:
            raise UserError(
                f"cannot write the demo clip to {path}; name a video with --source and --init-box"
            )
        yield Clip(path, demo.truth[0], count), DEMO_NAME


def engine_subjects(bundles: Seq[Bundle], engines: Seq[str], threads: int) -> list[Subject]:
    """Every bundle on every engine; PyTorch, which runs the weights alone, once for bundles of the same weights."""
    seen: set[tuple[str, str]] = set()
    subjects: list[Subject] = []
    for engine in engines:
        for bundle in bundles:
            candidate = Candidate(bundle, engine)
            torch = engine in ("torch", COMPILED)
            key = (engine, str(bundle.manifest.weights.get("sha256")) if torch else str(bundle.path))
            if key in seen:
                continue
            seen.add(key)
            label = engine if torch else candidate.label
            if any(s.label == label for s in subjects):
                label = f"{label} {bundle.path.name}"
            if any(s.label == label for s in subjects):
                label = f"{label} {bundle.path}"
            facts = {
                "bundle": str(bundle.path),
                "name": bundle.manifest.name,
                "precision": "fp32" if torch else candidate.precision,
                "search_sha256": bundle.manifest.search.sha256,
                "batch": bundle.manifest.batch,
                "engine": engine,
            }
            subjects.append(Subject(label, EngineMaker(bundle.path.resolve(), engine, threads), facts))
    return subjects


def _numbers(text: str | None) -> tuple[int, ...]:
    """``1,2,4,8``; 1 is always among them, the others are compared with it."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 64 for word in words):
        raise UsageError(f"--targets is numbers from 1 to 64 such as 1,2,4,8, not {text!r}")
    return tuple(sorted({1, *map(int, words)}))
