"""Ray: a list of videos over several machines, one task a video."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any

from sttrack_deploy.errors import MissingDependencyError, UserError, one_line
from sttrack_deploy.runtime.multi_tracker import MultiTracker
from sttrack_deploy.runtime.video_list import ListSettings, VideoJob, VideoReport, track_video

__all__ = ["LOCAL", "track_on_ray"]

LOCAL = "local"
"""Address that means a cluster of this machine's own, for the time of the call."""


def track_on_ray(
    jobs: Sequence[VideoJob],
    settings: ListSettings,
    address: str,
    workers: int | None = None,
    heard: Callable[[int], None] | None = None,
) -> Generator[VideoReport, None, None]:
    """Track every video in a task of its own, giving each report as soon as it is there.

    Sources, outputs, bundle and this package must be there under the same names on every machine (a shared folder).

    Args:
        address: of a cluster's head (``10.0.0.1:6379``, ``ray://…``, ``auto``), or :data:`LOCAL`.
        workers: tasks at once; ``None``: what the cluster has CPUs for.
        heard: told the frames of the videos that are done.

    Raises:
        MissingDependencyError: Ray is not installed.
        UserError: there is no cluster at that address.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependencyError("ray", "--ray", "pip install 'sttrack-deploy[ray]'") from error
    settings.make_tracker()  # what fails for all fails once, and before any task starts
    if settings.bundle is not None:
        settings = dataclasses.replace(settings, bundle=settings.bundle.absolute())
    shared = {"ignore_reinit_error": True, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(num_cpus=workers, include_dashboard=False, **shared)
        else:
            ray.init(address=address, **shared)
    except Exception as error:  # Ray's own, gRPC's, the system's
        reason = one_line(error, 200)
        raise UserError(
            f"cannot reach a Ray cluster at {address}: {reason}; start one with: ray start --head"
        ) from error
    try:
        cpus = {} if settings.threads is None else {"num_cpus": settings.threads}
        task = ray.remote(max_retries=1, **cpus)(_track)
        waiting = [job.absolute() for job in jobs]
        running: dict[Any, VideoJob] = {}
        most = workers or len(jobs)
        frames = 0
        while waiting or running:
            while waiting and len(running) < most:
                job = waiting.pop(0)
                running[task.remote(settings, job)] = job
            done, _ = ray.wait(list(running), num_returns=1)
            job = running.pop(done[0])
            try:
                report = ray.get(done[0])
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                report = VideoReport(job.line, job.source, error=f"its Ray task failed: {reason}")
            frames += report.frames
            if heard is not None:
                heard(frames)
            yield report
    finally:
        ray.shutdown()  # of a cluster that was there before, only the connection


@functools.lru_cache(maxsize=1)
def _tracker(settings: ListSettings) -> MultiTracker:
    """Made once in each of Ray's processes."""
    return settings.make_tracker()


def _track(settings: ListSettings, job: VideoJob) -> VideoReport:
    try:
        tracker = _tracker(settings)
    except UserError as error:
        return VideoReport(job.line, job.source, error=f"on this machine: {error}")
    return track_video(tracker, job, settings.rules)
