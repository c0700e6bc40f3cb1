"""``sttrack-run``: track an object in a video, a folder of images or a camera, or many videos of a list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sttrack_deploy.errors import UsageError
from sttrack_deploy.geometry import parse_box
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.runtime.track_formats import TRACK_FORMATS
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import TRACKING_NAMES, bundle_option, engine_options, tracking_options
from sttrack_deploy.terminal.program import command
from sttrack_deploy.terminal.types import FILE, MOST_FRAMES, PATH, Integer, NamedPath, Number
from sttrack_deploy.video.file_types import CODECS, CONTAINERS

if TYPE_CHECKING:  # imported when a run starts: a missing libGL must become one line, not a traceback
    from sttrack_deploy.cli.run_one import RunJob
    from sttrack_deploy.runtime.detections import DetectionRules

__all__ = ["main"]

DEMO_OUT = Path("sttrack_demo.mp4")

OF_A_LIST = {"video_list", "workers", "ray", "start_above", "max_targets", "codec", "quality", "keep_audio"}
OF_A_LIST |= {"overwrite", "bundle", "engine", "threads", *TRACKING_NAMES}
"""Parameters that ``--list`` can be given with."""


def _other_defaults() -> list[str]:
    """Containers whose default codec is not the first one, for the help."""
    return [f"{c.codecs[0]} in {suffix}" for suffix, c in CONTAINERS.items() if c.codecs[0] != CODECS[0]]


@click.command(cls=GroupedCommand)
@click.argument("source", required=False)
@heading("Target")
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
@heading("Targets of a detector", more=True)
@click.option(
    "--start-from",
    type=FILE,
    metavar="FILE",
    help="Start targets, and start lost ones again, on a detector's boxes: COCO (.json) or MOTChallenge (.txt, .csv).",
)
@click.option(
    "--start-above",
    type=Number(0, 1),
    default=0.5,
    show_default=True,
    help="Least score of a detection that counts.",
)
@click.option(
    "--max-targets",
    type=Integer(1, 1000),
    default=32,
    show_default=True,
    help="Most targets that detections start.",
)
@heading("Target")
@click.option("--demo", is_flag=True, help="Render a clip, track it, compare with its exact truth.")
@heading("Many videos", more=True)
@click.option(
    "--list",
    "video_list",
    type=FILE,
    metavar="FILE.csv",
    help="Track many videos: a table with the columns source, box and output. What is finished is skipped.",
)
@click.option(
    "--workers",
    type=Integer(1, 256),
    help="Videos of the list at once, a process each.  [default: 1; with --ray as many as fit]",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Track the list on a Ray cluster, a task each: its address, auto, or local for one on this machine.",
)
@heading("Source", more=True)
@click.option(
    "--start",
    type=Integer(0, MOST_FRAMES),
    default=0,
    show_default=True,
    help="First frame, counted from 0.",
)
@click.option("--end", type=Integer(1, MOST_FRAMES), help="Frame to stop before.  [default: all frames]")
@click.option("--fps", type=Number(0.1, 480), help="Frame rate, where the source's is missing or wrong.")
@click.option(
    "--decode-on",
    "hardware",
    metavar="DEVICE",
    help="Decode a video on hardware: cuda, vaapi, …  [default: CPU]",
)
@heading("Live source", more=True)
@click.option(
    "--reconnect",
    type=Number(0, 1e9),
    metavar="SECONDS",
    default=10,
    show_default=True,
    help="How long to try again after a live source stopped; 0 to end at once.",
)
@click.option(
    "--every-frame", is_flag=True, help="Track each frame of a live source, instead of always the newest."
)
@heading("Output")
@click.option(
    "--out",
    type=PATH,
    help="Annotated video to write.  [default: SOURCE's name with _tracked.mp4, in this folder]",
)
@click.option("--no-video", is_flag=True, help="Write no video.")
@heading("Video file", more=True)
@click.option(
    "--codec",
    type=click.Choice(CODECS),
    help=f"Codec of the video.  [default: {', '.join([CODECS[0], *_other_defaults()])}]",
)
@click.option("--quality", type=Integer(0, 100), default=75, show_default=True, help="Quality of the video.")
@click.option(
    "--keep-audio/--no-audio",
    default=True,
    show_default=True,
    help="Copy the source's sound, where the format allows it.",
)
@heading("Output")
@click.option("--show", is_flag=True, help="Preview: r re-selects, space pauses, q or Esc quits.")
@click.option(
    "--boxes",
    type=PATH,
    help="Write x,y,w,h a line, one for each frame; of several targets to FILE's name with _1, _2, …",
)
@click.option(
    "--json",
    "json_file",
    type=NamedPath(allow_dash=True),
    help="Write a JSON object a line for each target and frame; '-' prints them.",
)
@heading("Tracks for other tools", more=True)
@click.option(
    "--tracks",
    type=PATH,
    help=f"Write tracks: {', '.join(f'{form.title} ({form.suffix})' for form in TRACK_FORMATS.values())}.",
)
@click.option(
    "--tracks-format",
    type=click.Choice(list(TRACK_FORMATS)),
    help="Format of --tracks.  [default: by its suffix]",
)
@heading("Output")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@bundle_option
@engine_options
@tracking_options
@command
def main(
    source: str | None,
    init_boxes: tuple[str, ...],
    select: int,
    demo: bool,
    video_list: Path | None,
    workers: int | None,
    ray: str | None,
    bundle: Path | None,
    engine: str,
    threads: int | None,
    changes: PolicyChanges,
    **options: Any,
) -> None:
    """Track one object or several in SOURCE.

    SOURCE is a video, a folder of images, a pattern (%05d.jpg, '*.png'), a camera (0, /dev/video0), a URL
    (http, rtsp, udp, …) or - for standard input.

    The first frame's result is the box you gave, with confidence 1. Several targets run as one batch, if
    the bundle's batch is dynamic (sttrack-export --batch dynamic). Ctrl-C and errors keep every frame
    that was done: the files written are complete.

    \b
    sttrack-run --demo
    sttrack-run street.mp4 --init-box 120,80,64,48
    sttrack-run street.mp4 --init-box 120,80,64,48 --init-box 300,90,40,90
    sttrack-run street.mp4 --select --boxes street.txt
    sttrack-run street.mp4 --start-from detections.json --tracks street.xml
    sttrack-run --list videos.csv --workers 4
    sttrack-run 0 --select --show --no-video
    """
    _quieten_opencv()
    from sttrack_deploy.runtime.detections import DetectionRules

    rules = DetectionRules(options["start_above"], options["max_targets"])
    if video_list is not None:
        _check_list_options(click.get_current_context())
        from sttrack_deploy.cli.run_list import run_list
        from sttrack_deploy.runtime.video_list import ListSettings
        from sttrack_deploy.runtime.worker_pool import threads_each

        each = threads_each(threads, 1 if ray else workers or 1)
        kept = options["codec"], options["quality"], options["keep_audio"]
        settings = ListSettings(bundle, engine, each, changes, *kept, rules)
        run_list(video_list, settings, workers, ray, overwrite=options["overwrite"])
        return
    if workers is not None or ray is not None:
        raise UsageError("--workers and --ray are for many videos: name them with --list FILE.csv")
    _check_targets(source, init_boxes, select, demo, options)
    job = _job(source, init_boxes, select, rules, bundle, options)
    from sttrack_deploy.cli.run_one import run_one
    from sttrack_deploy.runtime.video_list import ListSettings

    run_one(job, ListSettings(bundle, engine, threads, changes).make_tracker())


def _check_list_options(context: click.Context) -> None:
    """Raises UsageError where an option was given that means nothing with a list."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in OF_A_LIST and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            shown = "SOURCE" if name == "source" else parameter.opts[0]
            raise UsageError(
                f"{shown} does not go with --list: the list names sources, boxes, frames and outputs"
            )


def _check_targets(
    source: str | None, init_boxes: tuple[str, ...], select: int, demo: bool, options: dict[str, Any]
) -> None:
    detector = options["start_from"] is not None
    if demo == (source is not None):
        raise UsageError(
            "name one SOURCE (a video, a folder of images or a camera index), a --list of them, or use --demo"
        )
    if demo and (init_boxes or select or detector):
        raise UsageError("--demo knows its target: leave --init-box, --select and --start-from out")
    if not demo and bool(init_boxes) + bool(select) + detector != 1:
        raise UsageError(
            "say what to track: either --init-box X,Y,W,H, or --select to draw it, or --start-from a detector's file"
        )
    if detector and options["boxes"] is not None:
        raise UsageError("--boxes is for targets that are given; with --start-from use --json or --tracks")
    if options["no_video"] and options["out"] is not None:
        raise UsageError("--out and --no-video exclude each other")
    start, end = options["start"], options["end"]
    if end is not None and end <= start:
        raise UsageError(f"--end {end} must be greater than --start {start}")


def _job(
    source: str | None,
    init_boxes: tuple[str, ...],
    select: int,
    rules: DetectionRules,
    bundle: Path | None,
    options: dict[str, Any],
) -> RunJob:
    from sttrack_deploy.cli.run_one import RunJob
    from sttrack_deploy.runtime.detections import read_detections
    from sttrack_deploy.runtime.run_files import RunFiles, boxes_files

    given = tuple(parse_box(text) for text in init_boxes)
    files = RunFiles(
        video=None if options["no_video"] else options["out"] or _default_out(source),
        codec=options["codec"],
        quality=options["quality"],
        sound=options["keep_audio"],
        boxes=boxes_files(options["boxes"], max(1, len(given) + select)),
        json=options["json_file"],
        tracks=options["tracks"],
        tracks_format=options["tracks_format"],
        overwrite=options["overwrite"],
    )
    # The demo's own file is written again by the next demo.
    detections = options["start_from"]
    files.check(source, ours=[DEMO_OUT] if source is None else (), further=(detections, bundle))
    return RunJob(
        source=source,
        given=given,
        drawn=select,
        files=files,
        detections=None if detections is None else read_detections(detections),
        rules=rules,
        **{
            name: options[name]
            for name in ("show", "start", "end", "fps", "reconnect", "every_frame", "hardware")
        },
    )


def _default_out(source: str | None) -> Path:
    from sttrack_deploy.video.source import source_stem

    return DEMO_OUT if source is None else Path(f"{source_stem(source)}_tracked.mp4")


def _quieten_opencv() -> None:
    """OpenCV and FFmpeg comment on every failure on standard error; the command says it in one line."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
