"""``sttrack-run --list``: many videos, with one bar and one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rich.box
import rich.table
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sttrack_deploy.terminal.program import complain, console, say

if TYPE_CHECKING:  # imported when a run starts: a missing libGL must become one line, not a traceback
    from collections.abc import Callable, Iterator, Sequence

    from sttrack_deploy.runtime.video_list import ListSettings, VideoJob, VideoReport

__all__ = ["run_list"]

SHOWN = 30  # videos that a table lists when all went well


def run_list(
    path: Path, settings: ListSettings, workers: int | None, ray: str | None, *, overwrite: bool
) -> None:
    """Track what a list names; ends with exit code 1 where a video failed.

    Args:
        workers: processes, or Ray tasks at once; ``None``: one, or what the cluster takes.
        ray: address of a cluster.
    """
    from sttrack_deploy.runtime.video_list import read_video_list

    jobs = read_video_list(path, settings, overwrite=overwrite)
    todo = [job for job in jobs if overwrite or not job.finished]
    if len(todo) < len(jobs):
        say(
            f"{len(jobs) - len(todo)} of {len(jobs)} videos are finished: their outputs exist; "
            "--overwrite tracks them again"
        )
    reports = _work(todo, settings, workers, ray) if todo else []
    failed = [report for report in reports if report.error is not None]
    _show(reports if len(reports) <= SHOWN else failed, {job.line: job for job in jobs})
    done = len(reports) - len(failed)
    frames = sum(report.frames for report in reports)
    console.print(f"tracked [bold]{done}[/] of {len(jobs)} videos now, {frames} frames", soft_wrap=True)
    if failed:
        complain(f"{len(failed)} failed; the same command tries them again and leaves alone what is finished")
        sys.exit(1)
    say(f"next: look at {todo[0].files.paths[0] if todo else jobs[0].files.paths[0]}")


def _work(
    jobs: Sequence[VideoJob], settings: ListSettings, workers: int | None, ray: str | None
) -> list[VideoReport]:
    """The reports of all videos, in the order of the list."""
    columns = (
        TextColumn("videos"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[frames]} frames"),
    )
    reports = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("videos", total=len(jobs), frames=0)
        heard: Callable[[int], None] = lambda frames: bar.update(task, frames=frames)  # noqa: E731
        try:
            for report in _reports(jobs, settings, workers, ray, heard):
                reports.append(report)
                bar.advance(task)
                if report.error is not None:
                    complain(f"line {report.line}, {report.source}: {report.error}")
        except KeyboardInterrupt:
            say(f"{len(reports)} of {len(jobs)} videos were done; the same command goes on with the others")
            raise
    return sorted(reports, key=lambda report: report.line)


def _reports(
    jobs: Sequence[VideoJob],
    settings: ListSettings,
    workers: int | None,
    ray: str | None,
    heard: Callable[[int], None],
) -> Iterator[VideoReport]:
    if ray is None:
        from sttrack_deploy.runtime.video_list import track_videos

        return track_videos(jobs, settings, workers or 1, heard)
    from sttrack_deploy.integrations.ray_cluster import track_on_ray

    return track_on_ray(jobs, settings, ray, workers, heard)


def _show(reports: Sequence[VideoReport], jobs: dict[int, VideoJob]) -> None:
    if not reports:
        return
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for name in ("line", "source", "frames", "fps", "lost on"):
        table.add_column(name, justify="left" if name == "source" else "right", overflow="fold")
    table.add_column("wrote", overflow="fold")
    for report in reports:
        outputs = ", ".join(str(path) for path in jobs[report.line].files.paths)
        fps = report.frames / report.seconds if report.seconds > 0 else 0.0
        wrote = escape(outputs) if report.error is None else f"[red]failed:[/] {escape(report.error)}"
        lost = ", ".join(str(count) for _, count in report.lost[:4]) + (" …" if len(report.lost) > 4 else "")
        table.add_row(str(report.line), escape(report.source), str(report.frames), f"{fps:.1f}", lost, wrote)
    console.print(table)
