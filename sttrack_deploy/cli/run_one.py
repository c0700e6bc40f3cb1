"""One run of ``sttrack-run``: a source, its targets, the bar, and what is said at the end, finished or not."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import rich.progress
from rich.markup import escape

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.errors import UsageError
from sttrack_deploy.files import is_special
from sttrack_deploy.geometry import Box, iou
from sttrack_deploy.terminal.program import console, say

if TYPE_CHECKING:  # imported when a run starts: a missing libGL must become one line, not a traceback
    from sttrack_deploy.output_file import OutputFile
    from sttrack_deploy.runtime.demo import DemoClip
    from sttrack_deploy.runtime.detections import DetectedTargets, DetectionRules, Detections
    from sttrack_deploy.runtime.display import Window
    from sttrack_deploy.runtime.multi_tracker import MultiTracker
    from sttrack_deploy.runtime.results import FrameResult
    from sttrack_deploy.runtime.run_files import RunFiles
    from sttrack_deploy.runtime.session import BoxChooser, Image, Session
    from sttrack_deploy.video.frames import FrameSource

__all__ = ["RunJob", "run_one"]


@dataclass(frozen=True, slots=True)
class RunJob:
    """What to track and what to write.

    Attributes:
        source: None for the demo.
        given: the targets' boxes; none for the demo, and where the mouse draws them or a detector says them.
        drawn: number of targets that the mouse draws.
        detections: where targets start and start again, as ``rules`` say.
    """

    source: str | None
    given: tuple[Box, ...]
    drawn: int
    show: bool
    start: int
    end: int | None
    fps: float | None
    reconnect: float
    every_frame: bool
    hardware: str | None
    files: RunFiles
    detections: Detections | None
    rules: DetectionRules

    @property
    def targets(self) -> int:
        return max(1, len(self.given) + self.drawn)


def _say_calls(job: RunJob, bundle: Bundle) -> None:
    """Say once where several targets do not fit into one call of the engine."""
    from sttrack_deploy.runtime.multi_tracker import calls_for

    calls = calls_for(bundle, job.targets)
    if calls > 1:
        say(
            f"note: this bundle takes {bundle.manifest.batch} target(s) a call, {job.targets} targets take {calls} "
            "calls a frame; a bundle of sttrack-export --batch dynamic takes them in one"
        )


def run_one(job: RunJob, tracker: MultiTracker) -> None:
    """Track, write, and say what there is."""
    from sttrack_deploy.runtime import display
    from sttrack_deploy.runtime.demo import DemoClip
    from sttrack_deploy.runtime.results import ResultCollector
    from sttrack_deploy.runtime.session import Session
    from sttrack_deploy.runtime.video_list import detected_targets

    if job.show or job.drawn:
        display.require_display()
    _say_calls(job, tracker.bundle)
    clip = DemoClip() if job.source is None else None
    collected = ResultCollector()
    detected: DetectedTargets | None = None
    if job.detections is not None:
        detected = detected_targets(tracker, job.detections, job.rules)
        detected.check(job.start, job.end)
    session = Session(tracker)
    files: list[OutputFile] = []
    finished = False
    source: FrameSource | None = None
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(_open(job, clip))
            window = stack.enter_context(display.Window()) if job.show or job.drawn else None
            draw = None if window is None else _drawn(window, job.targets)
            choose: BoxChooser | DetectedTargets
            if detected is not None:
                choose = detected
            elif clip is not None:
                choose = _given([clip.truth[job.start]])
            elif job.given:
                choose = _given(job.given)
            else:
                assert draw is not None
                choose = draw
            outputs = stack.enter_context(job.files.open(source.info, files, say))
            outputs = replace(
                outputs,
                writers=[*([collected] if clip else []), *outputs.writers],
                window=window if job.show else None,
                truth=clip.truth if clip else None,
                reselect=draw,
            )
            with _progress(source.info.frames) as advance:
                session.run(source, choose, outputs, advance)
        finished = True
    finally:
        # Reached by errors and Ctrl-C too, when the files are already closed: say what there is.
        dropped = 0 if source is None else source.dropped
        _summarise(session, files, tracker, finished=finished, dropped=dropped)
        if detected is not None and detected.turned_away:
            say(
                f"{detected.turned_away} detections started no target, because {job.rules.most} were there; "
                "see --max-targets"
            )
    if clip is not None:
        _report_truth(clip.truth, collected.results)
    _suggest_next(job.source, session.boxes if job.drawn else ())


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


def _open(job: RunJob, clip: DemoClip | None) -> FrameSource:
    from sttrack_deploy.video import source
    from sttrack_deploy.video.frames import SourceInfo, ThreadedSource
    from sttrack_deploy.video.live import LiveOptions

    if clip is None:
        assert job.source is not None
        live = LiveOptions(reconnect=job.reconnect, every_frame=job.every_frame)
        return source.open_source(
            job.source, job.start, job.end, job.fps, live=live, hardware=job.hardware, note=say
        )
    frames = range(len(clip.truth))[job.start : job.end]
    if not frames:
        raise UsageError(f"the demo has {len(clip.truth)} frames; --start {job.start} is past its end")
    if math.isnan(clip.truth[job.start][0]):
        raise UsageError(f"the demo's target is hidden on frame {job.start}; choose another --start")
    return ThreadedSource(SourceInfo("demo", "demo", len(frames), job.fps or clip.fps), clip.frames(frames))


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


def _summarise(
    session: Session, files: Sequence[OutputFile], tracker: MultiTracker, *, finished: bool, dropped: int
) -> None:
    """Print frames, speed and the files that are there, to standard error; ``dropped`` by a live source."""
    if session.stats.frames:
        _say_speed(session, tracker, finished=finished)
    if dropped:
        _say(f"dropped {dropped} frames that came while others were tracked; --every-frame tracks them too")
    written = "wrote" if finished else "kept"
    for file in files:
        if file.kept:
            size = "" if is_special(file.path) else f", {_size(file.path.stat().st_size)}"
            _say(f"{written} {escape(str(file.path))}: {file.frames} frames{size}")


def _say_speed(session: Session, tracker: MultiTracker, *, finished: bool) -> None:
    stats, name = session.stats, tracker.bundle.manifest.title
    facts = tracker.engine.describe().items()
    engine = ", ".join(f"{key} {value}" for key, value in facts if value != tracker.engine.name)
    targets = "" if len(stats.lost) == 1 else f" of {len(stats.lost)} targets"
    _say(
        f"{'tracked' if finished else 'stopped early after'} [bold]{stats.frames}[/] frames{targets}, "
        f"[bold]{stats.fps:.1f}[/] fps end to end, lost on {_lost(stats.lost)}; "
        f"model {escape(name)}, {tracker.engine.name} ({escape(engine)})"
    )
    medians = stats.medians_ms()
    if medians:
        _say("median ms: " + ", ".join(f"{part} {value:.2f}" for part, value in medians.items()))


def _lost(counts: Mapping[int, int]) -> str:
    """Frames on which each target was lost: ``3``, or ``3 (target 1), 0 (target 2)``, of at most eight."""
    if list(counts) == [1]:
        return str(counts[1])
    shown = ", ".join(f"{count} (target {number})" for number, count in list(counts.items())[:8])
    return shown if len(counts) <= 8 else f"{shown}, … {sum(counts.values())} in all"


def _report_truth(truth: Sequence[Box], results: Sequence[FrameResult]) -> None:
    """Print the mean IoU of results against the demo's exact boxes, and how absence was seen."""
    followed = results[1:]  # the first box was given
    if not followed:
        return
    exact = np.array([truth[result.frame] for result in followed])
    overlap = iou([result.box for result in followed], exact)
    visible = ~np.isnan(exact).any(axis=1)
    lost = np.array([result.lost for result in followed])
    if visible.any():
        _say(
            f"mean IoU with the exact truth [bold]{overlap[visible].mean():.3f}[/] "
            f"(lowest {overlap[visible].min():.3f}) on the {visible.sum()} frames that show the target"
        )
    if (~visible).any():
        _say(
            f"said LOST on {(lost & ~visible).sum()} of the {(~visible).sum()} frames that hide it, "
            f"and on {(lost & visible).sum()} of the others"
        )


def _suggest_next(source: str | None, selected: Sequence[Box]) -> None:
    """Print the next command to type, after the demo or after boxes were drawn with the mouse."""
    if source is None:
        _say("next: sttrack-run YOUR_VIDEO.mp4 --select   (without a display: --init-box X,Y,W,H)")
    elif selected:
        boxes = (",".join(f"{value:g}" for value in box) for box in selected)
        options = " ".join(f"--init-box {box}" for box in boxes)
        _say(f"again without the mouse: sttrack-run {escape(shlex.quote(source))} {options}")
    else:
        _say("next, with videos whose boxes are known: sttrack-eval --dataset folder --data DIR")


def _say(line: str) -> None:
    """One line with markup, however long: what people copy must not be broken."""
    console.print(line, soft_wrap=True)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
