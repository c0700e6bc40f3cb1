"""``sttrack-run``: track an object in a video, a folder of images or a camera."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import rich.progress

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.cli.common import (
    bundle_option,
    command,
    console,
    engine_options,
    say,
    tracking_options,
)
from sttrack_deploy.cli.run_summary import report_truth, suggest_next, summarise
from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import Box, parse_box

if TYPE_CHECKING:  # imported when a run starts: a missing libGL must become one line, not a traceback
    from sttrack_deploy.runtime.demo import DemoClip
    from sttrack_deploy.runtime.display import Window
    from sttrack_deploy.runtime.multi_tracker import MultiTracker
    from sttrack_deploy.runtime.session import BoxChooser, Image, Outputs
    from sttrack_deploy.runtime.sink import AtomicFile, ResultCollector
    from sttrack_deploy.runtime.source import FrameSource

__all__ = ["main"]

DEMO_OUT = Path("sttrack_demo.mp4")


@dataclass(frozen=True, slots=True)
class _Job:
    """What to track and what to write.

    Attributes:
        source: None for the demo.
        given: the targets' boxes; none for the demo and where the mouse draws them.
        drawn: number of targets that the mouse draws.
        boxes: files of boxes, one for each target, or none.
    """

    source: str | None
    given: tuple[Box, ...]
    drawn: int
    show: bool
    start: int
    end: int | None
    fps: float | None
    video: Path | None
    boxes: tuple[Path, ...]
    json: str | None

    @property
    def demo(self) -> bool:
        return self.source is None

    @property
    def targets(self) -> int:
        return max(1, len(self.given) + self.drawn)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", required=False)
@click.option(
    "--init-box",
    "init_boxes",
    metavar="X,Y,W,H",
    multiple=True,
    help="The target on the first frame tracked, in pixels; several times for several targets.",
)
@click.option(
    "--select", count=True, help="Draw the target with the mouse; several times for several targets."
)
@click.option("--demo", is_flag=True, help="Render a clip, track it, compare with its exact truth.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Annotated video to write.  [default: SOURCE's name with _tracked.mp4, in this folder]",
)
@click.option("--no-video", is_flag=True, help="Write no video.")
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    help="Write x,y,w,h a line, one for each frame; of several targets to FILE's name with _1, _2, …",
)
@click.option(
    "--json", "json_file", metavar="FILE", help="Write a JSON object a line for each frame; '-' prints them."
)
@click.option("--show", is_flag=True, help="Preview: r re-selects, space pauses, q or Esc quits.")
@click.option(
    "--start", type=click.IntRange(min=0), default=0, show_default=True, help="First frame, counted from 0."
)
@click.option("--end", type=click.IntRange(min=1), help="Frame to stop before.  [default: all frames]")
@click.option(
    "--fps", type=click.FloatRange(0.1, 480), help="Frame rate, where the source's is missing or wrong."
)
@bundle_option
@engine_options
@tracking_options
@command
def main(
    source: str | None,
    init_boxes: tuple[str, ...],
    select: int,
    demo: bool,
    out: Path | None,
    no_video: bool,
    boxes: Path | None,
    json_file: str | None,
    show: bool,
    start: int,
    end: int | None,
    fps: float | None,
    bundle: Path | None,
    engine: str,
    threads: int | None,
    lost_below: float | None,
    recover: bool | None,
) -> None:
    """Track one object or several in SOURCE: a video, a folder of images, a camera's index (0) or a stream's URL.

    The first frame's result is the box you gave, with confidence 1. Several targets run as one batch, if
    the bundle's batch is dynamic (sttrack-export --batch dynamic). Ctrl-C and errors keep every frame
    that was done: the files written are complete.

    \b
    sttrack-run --demo
    sttrack-run street.mp4 --init-box 120,80,64,48
    sttrack-run street.mp4 --init-box 120,80,64,48 --init-box 300,90,40,90
    sttrack-run street.mp4 --select --boxes street.txt
    sttrack-run 0 --select --show --no-video
    """
    if demo == (source is not None):
        raise UsageError("name one SOURCE (a video, a folder of images or a camera index), or use --demo")
    if demo and (init_boxes or select):
        raise UsageError("--demo knows its target: leave --init-box and --select out")
    if not demo and bool(init_boxes) == bool(select):
        raise UsageError("say what to track: either --init-box X,Y,W,H, or --select to draw it")
    if no_video and out is not None:
        raise UsageError("--out and --no-video exclude each other")
    if end is not None and end <= start:
        raise UsageError(f"--end {end} must be greater than --start {start}")
    given = tuple(parse_box(text) for text in init_boxes)
    video = None if no_video else out or _default_out(source)
    files = _boxes_files(boxes, max(1, len(given) + select))
    job = _Job(source, given, select, show, start, end, fps, video, files, json_file)
    _check_names(job)
    _quieten_opencv()
    _track(job, _make_tracker(bundle, engine, threads, lost_below, recover))


def _default_out(source: str | None) -> Path:
    if source is None:
        return DEMO_OUT
    stem = f"camera{source}" if source.isdecimal() and not Path(source).exists() else Path(source).stem
    return Path(f"{stem or Path(source).resolve().name or 'stream'}_tracked.mp4")


def _boxes_files(path: Path | None, targets: int) -> tuple[Path, ...]:
    """``street.txt``, or ``street_1.txt``, ``street_2.txt``, … for several targets."""
    if path is None or targets == 1:
        return () if path is None else (path,)
    return tuple(path.with_name(f"{path.stem}_{number}{path.suffix}") for number in range(1, targets + 1))


def _check_names(job: _Job) -> None:
    """Raises UsageError where two files, or a file and the source, have one name."""
    json_path = None if job.json in (None, "-") else job.json
    named = [Path(name).resolve() for name in (job.source, job.video, *job.boxes, json_path) if name]
    for path in named:
        if named.count(path) > 1:
            raise UsageError(f"{path} is named twice: the source and each output need a name of their own")


def _quieten_opencv() -> None:
    """OpenCV and FFmpeg comment on every failure on standard error; the command says it in one line."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def _make_tracker(
    path: Path | None, engine: str, threads: int | None, lost_below: float | None, recover: bool | None
) -> MultiTracker:
    from sttrack_deploy.engines.registry import create_engine
    from sttrack_deploy.runtime.multi_tracker import MultiTracker

    bundle = open_bundle(path)
    policy = bundle.manifest.tracking.override(lost_below, recover)
    return MultiTracker(bundle, create_engine(engine, bundle, threads), policy)


def _say_calls(job: _Job, bundle: Bundle) -> None:
    """Say once where several targets do not fit into one call of the engine."""
    from sttrack_deploy.runtime.multi_tracker import calls_for

    calls = calls_for(bundle, job.targets)
    if calls > 1:
        say(
            f"note: this bundle takes {bundle.manifest.batch} target(s) a call, {job.targets} targets take {calls} "
            "calls a frame; a bundle of sttrack-export --batch dynamic takes them in one"
        )


def _track(job: _Job, tracker: MultiTracker) -> None:
    from sttrack_deploy.runtime import display
    from sttrack_deploy.runtime.demo import DemoClip
    from sttrack_deploy.runtime.session import Session
    from sttrack_deploy.runtime.sink import ResultCollector

    if job.show or job.drawn:
        display.require_display()
    _say_calls(job, tracker.bundle)
    clip = DemoClip() if job.demo else None
    collected = ResultCollector()
    session = Session(tracker)
    files: list[AtomicFile] = []
    finished = False
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(_open(job, clip))
            window = stack.enter_context(display.Window()) if job.show or job.drawn else None
            draw = None if window is None else _drawn(window, job.targets)
            choose: BoxChooser
            if clip is not None:
                choose = _given([clip.truth[job.start]])
            elif job.given:
                choose = _given(job.given)
            else:
                assert draw is not None
                choose = draw
            outputs = _open_outputs(job, source, stack, files, collected if clip else None)
            outputs = replace(
                outputs,
                window=window if job.show else None,
                truth=clip.truth if clip else None,
                reselect=draw,
            )
            with _progress(source.info.frames) as advance:
                session.run(source, choose, outputs, advance)
        finished = True
    finally:
        # Reached by errors and Ctrl-C too, when the files are already closed: say what there is.
        summarise(session, files, tracker, finished=finished)
    if clip is not None:
        report_truth(clip.truth, collected.results)
    suggest_next(job.source, session.boxes if job.drawn else ())


def _given(boxes: Sequence[Box]) -> BoxChooser:
    return lambda _: boxes


def _drawn(window: Window, targets: int) -> BoxChooser:
    """Each target drawn in turn; those that are drawn already are shown."""

    def choose(image: Image) -> list[Box]:
        from sttrack_deploy.runtime.overlay import draw_outline

        boxes: list[Box] = []
        canvas = image.copy()
        for number in range(targets):
            boxes.append(window.select(canvas))
            draw_outline(canvas, boxes[-1], number)
        return boxes

    return choose


def _open(job: _Job, clip: DemoClip | None) -> FrameSource:
    from sttrack_deploy.runtime.source import FrameSource, SourceInfo, open_source

    if clip is None:
        assert job.source is not None
        return open_source(job.source, job.start, job.end, job.fps)
    frames = range(len(clip.truth))[job.start : job.end]
    if not frames:
        raise UsageError(f"the demo has {len(clip.truth)} frames; --start {job.start} is past its end")
    if math.isnan(clip.truth[job.start][0]):
        raise UsageError(f"the demo's target is hidden on frame {job.start}; choose another --start")
    info = SourceInfo("demo", "demo", len(frames), job.fps or clip.fps)
    return FrameSource(info, clip.frames(frames))


def _open_outputs(
    job: _Job,
    source: FrameSource,
    stack: contextlib.ExitStack,
    files: list[AtomicFile],
    collected: ResultCollector | None,
) -> Outputs:
    """Open what is to be written; ``stack`` closes it, ``files`` gets it in the order of the options."""
    from sttrack_deploy.runtime import sink
    from sttrack_deploy.runtime.session import Outputs
    from sttrack_deploy.runtime.source import DEFAULT_FPS

    video = None
    writers: list[sink.ResultWriter] = [] if collected is None else [collected]
    if job.video is not None:
        video = stack.enter_context(sink.VideoWriter(job.video, source.info.fps or DEFAULT_FPS))
        files.append(video)
    for target, path in enumerate(job.boxes):
        boxes = stack.enter_context(sink.BoxesWriter(path, target))
        files.append(boxes)
        writers.append(boxes)
    if job.json == "-":
        writers.append(sink.JsonToStdout())
    elif job.json is not None:
        lines = stack.enter_context(sink.JsonWriter(Path(job.json)))
        files.append(lines)
        writers.append(lines)
    return Outputs(video, writers)


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where that is a terminal; yields the function that moves it."""
    columns = (
        rich.progress.TextColumn("tracking"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("tracking", total=total)
        yield lambda frames: bar.update(task, completed=frames)
