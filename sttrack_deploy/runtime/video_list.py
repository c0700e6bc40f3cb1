"""Many videos: a list of what to track and where to write it, read as a whole and worked off video by video."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines import registry
from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.geometry import Box, parse_box
from sttrack_deploy.output_file import OutputFile, check_outputs
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.records import read_text
from sttrack_deploy.runtime.batch import Batch
from sttrack_deploy.runtime.detections import DetectedTargets, DetectionRules, Detections, read_detections
from sttrack_deploy.runtime.multi_tracker import MultiTracker
from sttrack_deploy.runtime.run_files import RunFiles, files_by_suffix, source_paths
from sttrack_deploy.runtime.session import BoxChooser, Session
from sttrack_deploy.runtime.worker_pool import count_steps, in_workers
from sttrack_deploy.video.source import open_source

__all__ = ["ListSettings", "VideoJob", "VideoReport", "read_video_list", "track_video", "track_videos"]

COLUMNS = ("source", "box", "output", "start_from", "start", "end")
SHOWN_PROBLEMS = 10
STEP = 10  # frames between two signs of life
MOST_FRAMES = 10**9


@dataclass(frozen=True, slots=True)
class ListSettings:
    """What holds for every video of a list; plain values, to be sent to other processes.

    Attributes:
        bundle: folder; ``None`` for the shipped one.
        threads: of the engine, in each worker.
        codec, quality, sound: of annotated videos, see :class:`.RunFiles`.
        rules: for targets that a detector starts.
    """

    bundle: Path | None = None
    engine: str = DEFAULT_BACKEND
    threads: int | None = None
    changes: PolicyChanges = NO_CHANGES
    codec: str | None = None
    quality: int = 75
    sound: bool = True
    rules: DetectionRules = field(default_factory=DetectionRules)

    def make_tracker(self) -> MultiTracker:
        """A tracker as the settings say.

        Raises:
            UserError: bundle or engine cannot be used.
        """
        if self.threads is not None:
            cv2.setNumThreads(self.threads)
        bundle = open_bundle(self.bundle)
        policy = bundle.manifest.tracking.override(self.changes)
        return MultiTracker(bundle, registry.load_engine(self.engine, bundle, self.threads), policy)


@dataclass(frozen=True, slots=True)
class VideoJob:
    """One line of the list.

    Attributes:
        line: of the file, from 1 (its header).
        source: a video, a folder or pattern of images, or an http(s) URL.
        boxes: of the targets on the first frame tracked; none with ``start_from``.
        start_from: a file of detections instead.
        start, end: frames of the source, from 0; ``end`` is the first that is not tracked.
    """

    line: int
    source: str
    boxes: tuple[Box, ...]
    files: RunFiles
    start_from: Path | None = None
    start: int = 0
    end: int | None = None

    @property
    def finished(self) -> bool:
        """Every output is there: files get their name when they are complete."""
        return all(path.exists() for path in self.files.paths)

    def absolute(self) -> VideoJob:
        """The same for a process that works in another folder."""
        source = self.source if "://" in self.source else os.path.abspath(self.source)  # noqa: PTH100
        start_from = None if self.start_from is None else self.start_from.absolute()
        return dataclasses.replace(self, source=source, start_from=start_from, files=self.files.absolute())


@dataclass(frozen=True, slots=True)
class VideoReport:
    """What became of one line of the list.

    Attributes:
        frames: with results; seconds: it took, opening included.
        lost: frames on which each target was lost, by its number.
        error: why nothing was written; ``None`` where all is there.
    """

    line: int
    source: str
    frames: int = 0
    seconds: float = 0.0
    lost: tuple[tuple[int, int], ...] = ()
    error: str | None = None


def read_video_list(path: Path, settings: ListSettings, *, overwrite: bool = False) -> list[VideoJob]:
    """Read and check a list: CSV with a header.

    Columns: ``source``; ``box`` (``x,y,w,h`` in quotes, or ``x y w h``; several separated by ``;``) or ``start_from``
    (a file of detections); ``output`` (several separated by ``;``, by suffix, see :func:`.files_by_suffix`); and if
    they are there ``start`` and ``end``. Paths that are not absolute begin at the list's folder.

    Args:
        overwrite: outputs that exist may be replaced; else a line all of whose outputs exist is finished.

    Raises:
        UserError: the list cannot be read, or lines are wrong: all of them are told.
    """
    text = read_text(path, "the list of videos")
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline=""), strict=True)
    try:
        header = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = header
        lines = [(rows.line_num, row) for row in rows if any(isinstance(v, list) or v for v in row.values())]
    except csv.Error as error:
        raise UsageError(f"{path}, line {rows.line_num}: {error}") from error
    if (
        not {"source", "output"} <= set(header)
        or not {"box", "start_from"} & set(header)
        or len(set(header)) < len(header)
    ):
        raise UsageError(
            f"{path} begins with {','.join(header) or 'nothing'}; the first line names the columns: source,box,output "
            "(start_from instead of box for a detector's file; if needed start and end)"
        )
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise UsageError(f"{path} has a column {unknown[0]!r}; columns are {', '.join(COLUMNS)}")
    if not lines:
        raise UsageError(f"{path} names no video: there is nothing below its header")
    jobs, problems = [], []
    for number, row in lines:
        try:
            if None in row or None in row.values():
                raise UsageError(
                    f"it has not {len(header)} columns as the header; a box with commas needs quotes"
                )
            jobs.append(_job(number, {k: v.strip() for k, v in row.items()}, path.parent, settings))
        except UserError as error:
            problems.append(f"line {number}: {error}")
    problems += _clashes(jobs, [path, *filter(None, [settings.bundle])], overwrite)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        told = "; ".join(problems[:SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise UsageError(f"{path}: nothing was tracked, {len(problems)} problem(s): {told}")
    return jobs


def _job(line: int, row: dict[str, str], folder: Path, settings: ListSettings) -> VideoJob:
    boxes = tuple(parse_box(text) for text in row.get("box", "").split(";") if text.strip())
    detections = row.get("start_from", "")
    if bool(boxes) == bool(detections):
        raise UsageError("give either box or start_from")
    start_from = folder / detections if detections else None
    if start_from is not None:
        read_detections(start_from)
    start, end = _frame(row.get("start", ""), "start", 0), _frame(row.get("end", ""), "end", None)
    if end is not None and end <= (start or 0):
        raise UsageError(f"end {end} must be greater than start {start}")
    outputs = [folder / text.strip() for text in row["output"].split(";") if text.strip()]
    files = files_by_suffix(
        outputs,
        len(boxes) or None,
        codec=settings.codec,
        quality=settings.quality,
        sound=settings.sound,
    )
    files.check_formats()
    return VideoJob(line, _source(row["source"], folder), boxes, files, start_from, start or 0, end)


def _source(name: str, folder: Path) -> str:
    """The source's full name.

    Raises:
        UsageError: nothing is there, or it is a live source, which has no end.
    """
    if not name:
        raise UsageError("there is no source")
    if re.match(r"https?://", name, re.IGNORECASE):
        return name
    path = folder / name
    try:
        if not (path.exists() or (any(sign in path.name for sign in "%*?[") and path.parent.is_dir())):
            if "://" in name or name == "-" or name.isdecimal():
                raise UsageError(
                    f"{name.partition('://')[0]} is a live source; a list takes videos and images"
                )
            raise UsageError(f"there is no file or folder {path}")
        if not (path.is_file() or path.is_dir() or not path.exists()):
            raise UsageError(f"{path} is neither a file nor a folder")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return str(path)


def _frame(text: str, name: str, default: int | None) -> int | None:
    if not text:
        return default
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or int(text) > MOST_FRAMES:
        raise UsageError(f"{name} is {text[:40]!r}, not a whole number of frames")
    return int(text)


def _clashes(jobs: Sequence[VideoJob], further: Sequence[Path], overwrite: bool) -> Iterator[str]:
    """Outputs that would destroy something: a source, a file of another line, a file of unknown origin.

    Args:
        further: what else is read: the list itself, the bundle.
    """
    sources = [path for job in jobs for path in [*source_paths(job.source), *filter(None, [job.start_from])]]
    folders = {source for source in sources if source.is_dir()}
    files = {_resolved(source) for source in sources if source not in folders}
    taken: dict[Path, int] = {}
    for job in jobs:
        try:
            for path in job.files.paths:
                own = _resolved(path)
                if own in files:
                    raise UsageError(f"{path} is a source, and is never written over")
                if own in taken:
                    raise UsageError(f"{path} is an output of line {taken[own]} too")
                taken[own] = job.line
            check_outputs(job.files.paths, [*folders, *source_paths(job.source), *further], overwrite=True)
            there = [path for path in job.files.paths if path.exists()]
            if there and not overwrite and not job.finished:
                raise UsageError(
                    f"{there[0]} exists, but not every output of its line: remove it, or replace it with --overwrite"
                )
        except UserError as error:
            yield f"line {job.line}: {error}"


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def track_video(tracker: MultiTracker, job: VideoJob, rules: DetectionRules) -> VideoReport:
    """Track one video of a list and write its files: all of it or nothing.

    A failure is part of the report; a damaged video fails, since its files would be taken for finished ones.
    """
    begun = time.perf_counter()
    session = Session(tracker)
    error = None
    try:
        _track(session, tracker, job, rules)
    except UserError as failure:
        error = str(failure)
    except MemoryError:
        error = "out of memory; use fewer workers"
    except Exception as failure:  # a back end's own: one bad video must not cost the others
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    stats = session.stats
    lost = tuple(stats.lost.items())
    return VideoReport(job.line, job.source, stats.frames, time.perf_counter() - begun, lost, error)


def _track(session: Session, tracker: MultiTracker, job: VideoJob, rules: DetectionRules) -> None:
    choose: BoxChooser | DetectedTargets
    if job.start_from is None:
        choose = lambda _: job.boxes  # noqa: E731
    else:
        choose = detected_targets(tracker, read_detections(job.start_from), rules)
        choose.check(job.start, job.end)
    files: list[OutputFile] = []
    try:
        with (
            open_source(job.source, job.start, job.end) as source,
            job.files.open(source.info, files, None) as outputs,
        ):
            try:
                session.run(source, choose, outputs, lambda done: None if done % STEP else count_steps(STEP))
            except BaseException:
                for file in files:
                    file.abandon()
                raise
    except BaseException:
        for file in files:
            if file.kept:  # closed before another one could not be
                file.path.unlink(missing_ok=True)
        raise


def detected_targets(tracker: MultiTracker, detections: Detections, rules: DetectionRules) -> DetectedTargets:
    """Targets that a detector starts, on a tracker's engine and policy."""
    return DetectedTargets(Batch(tracker.bundle, tracker.engine, tracker.policy), detections, rules)


def track_videos(
    jobs: Sequence[VideoJob],
    settings: ListSettings,
    workers: int = 1,
    heard: Callable[[int], None] | None = None,
) -> Generator[VideoReport, None, None]:
    """Track every video, giving each report as soon as it is there; a failure does not end the rest.

    Args:
        workers: processes. Boxes do not depend on their number.
        heard: told the number of frames done so far, now and then.

    Raises:
        UserError: the tracker cannot be made.
    """
    settings.make_tracker()  # what fails for all fails once, and before any process starts
    work = functools.partial(_work, rules=settings.rules)
    yield from in_workers(settings.make_tracker, work, jobs, workers, lost=_killed, heard=heard)


def _work(tracker: MultiTracker, job: VideoJob, rules: DetectionRules) -> VideoReport:
    return track_video(tracker, job, rules)


def _killed(job: VideoJob) -> VideoReport:
    return VideoReport(
        job.line, job.source, error="its process was killed (out of memory?); try fewer --workers"
    )
