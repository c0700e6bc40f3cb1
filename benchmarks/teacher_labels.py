"""Labels for unannotated video: two trackers follow a seed both ways, and what they agree on is kept.

Run from the repository's root::

    python -m benchmarks.teacher_labels --videos DIR --seeds DIR_OR_CSV --peers DIR --out models/runs/labels

A seed is one box of one target: a line ``video,frame,x,y,w,h`` of a CSV file (frames count from 0), or the middle
known frame of each ``<video>__track<N>.txt`` (or ``<video>.txt``) of a folder. From it NanoTrack v3 and FEAR-XS track
forwards and backwards in time. A frame's label is the mean of their boxes where these agree; both must also find the
way back from the last such frame to the seed, over boxes that agree with the labels. Elsewhere the text says nan.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.peer_trackers import available
from benchmarks.training_tracks import read_track_text
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.runner import SingleTargetTracker
from sttrack_deploy.files import atomic_path
from sttrack_deploy.geometry import Box, clip_box, iou
from sttrack_deploy.sequences.sequence import frames_in, usable_truth
from sttrack_deploy.terminal.program import command, progress_bar, say
from sttrack_deploy.terminal.types import FOLDER, PATH
from sttrack_deploy.video.file_types import VIDEO_SUFFIXES

Frame = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

TEACHERS = "NanoTrack v3,FEAR-XS"
AGREE = 0.6
"""IoU of the two teachers' boxes on a frame that is labeled."""
RETURN = 0.5
"""IoU with the label of each teacher's box on the way back."""
PATIENCE = 10
"""Frames without agreement after which the target is given up."""
SHORTEST = 5
"""Labelled frames, the seed included, below which a track is not worth a file."""


@dataclass(frozen=True)
class Seed:
    """One known box.

    Attributes:
        video: stem of the video's file.
        frame: index in the video, from 0.
        box: x, y, w, h in pixels.
    """

    video: str
    frame: int
    box: Box


def label_track(
    frames: Sequence[Frame], seed: int, box: Box, teachers: Sequence[SingleTargetTracker]
) -> FloatArray:
    """Labels x, y, w, h of every frame ``(N, 4)``, NaN where the teachers do not agree.

    Args:
        frames: BGR uint8, of one size.
        seed: the frame whose box is known.
        box: x, y, w, h there.
        teachers: two or more.
    """
    labels = np.full((len(frames), 4), np.nan)
    labels[seed:] = _one_way(frames[seed:], box, teachers)
    labels[: seed + 1] = _one_way(frames[seed::-1], box, teachers)[::-1]
    return labels


def _one_way(frames: Sequence[Frame], box: Box, teachers: Sequence[SingleTargetTracker]) -> FloatArray:
    """Labels of frames in the order of tracking; the first is the seed."""
    height, width = frames[0].shape[:2]
    labels = np.full((len(frames), 4), np.nan)
    labels[0] = box
    there = _agreed(_follow(teachers, frames, box))
    last = len(frames) - 1
    while (end := _last_known(there[: last + 1])) >= 1:
        start: Box = tuple(there[end].tolist())
        back = _follow(teachers, frames[end::-1], clip_box(start, height, width))[:, ::-1]
        meets = np.all(iou(back, there[None, : end + 1]) >= RETURN, axis=0)  # NaN meets nothing
        if (iou(back[:, 0], np.array(box)) >= RETURN).all():
            labels[1 : end + 1] = np.where(meets[1:, None], there[1 : end + 1], np.nan)
            break
        # The end lies on something else; it is left where the two ways part.
        parted = np.flatnonzero(~meets & np.isfinite(there[: end + 1, 0]))
        last = min(end - 1, int(parted[-1]) if len(parted) else 0)
    return labels


def _follow(teachers: Sequence[SingleTargetTracker], frames: Sequence[Frame], box: Box) -> FloatArray:
    """Each teacher's box on each frame ``(teachers, N, 4)``; stops early, with NaN, where they part for long."""
    boxes = np.full((len(teachers), len(frames), 4), np.nan)
    boxes[:, 0] = box
    for teacher in teachers:
        teacher.init(frames[0], box)
    apart = 0
    for index in range(1, len(frames)):
        boxes[:, index] = [teacher.update(frames[index]).box for teacher in teachers]
        agree = bool((iou(boxes[1:, index], boxes[0, index]) >= AGREE).all())
        apart = 0 if agree else apart + 1
        if apart >= PATIENCE:
            break
    return boxes


def _agreed(boxes: FloatArray) -> FloatArray:
    """The mean box ``(N, 4)`` where all agree with the first, else NaN."""
    agree = np.all(iou(boxes[1:], boxes[:1]) >= AGREE, axis=0)
    return np.where(agree[:, None], boxes.mean(axis=0), np.nan)


def _last_known(labels: FloatArray) -> int:
    known = np.flatnonzero(np.isfinite(labels[:, 0]))
    return int(known[-1]) if len(known) else 0


def read_seeds(source: Path) -> list[Seed]:
    """The seeds of a CSV file or of a folder of annotation texts.

    Raises:
        UserError: there is none, or a line is malformed.
    """
    if source.is_dir():
        seeds = []
        for text in sorted(source.glob("*.txt")):
            truth = read_track_text(text)
            known = np.flatnonzero(usable_truth(truth))
            if len(known):
                middle = int(known[len(known) // 2])
                seeds.append(Seed(text.stem.partition("__track")[0], middle, tuple(truth[middle].tolist())))
    else:
        seeds = [_seed(row, f"{source}, line {n}") for n, row in enumerate(_rows(source), 1) if row]
    if not seeds:
        raise UserError(
            f"{source} holds no seed: give a CSV of video,frame,x,y,w,h, or a folder of annotation texts"
        )
    return seeds


def _rows(source: Path) -> list[list[str]]:
    try:
        return list(csv.reader(source.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {source}: {error}") from error


def _seed(row: list[str], where: str) -> Seed:
    try:
        name, frame, *box = (cell.strip() for cell in row)
        x, y, w, h = map(float, box)
        index = int(frame)
    except ValueError:
        raise UserError(f"{where} is not video,frame,x,y,w,h: {','.join(row)!r}") from None
    if index < 0 or not (np.isfinite([x, y, w, h]).all() and w > 0 and h > 0):
        raise UserError(
            f"{where}: the frame counts from 0 and the box has finite numbers and an area: {','.join(row)!r}"
        )
    return Seed(Path(name).stem if Path(name).suffix in VIDEO_SUFFIXES else name, index, (x, y, w, h))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--videos", type=FOLDER, required=True, help="Folder of the videos.")
@click.option(
    "--seeds", type=PATH, required=True, help="CSV of video,frame,x,y,w,h, or a folder of annotation texts."
)
@click.option("--peers", type=FOLDER, required=True, help="Folder of the teachers' networks.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option(
    "--longest",
    type=click.IntRange(2, 10_000),
    default=600,
    show_default=True,
    help="Frames of a video to use.",
)
@click.option(
    "--out", type=FOLDER, required=True, help="Texts and links to the videos; finished videos are left out."
)
@command
def main(videos: Path, seeds: Path, peers: Path, threads: int, longest: int, out: Path) -> None:
    """Track seeds with two teachers, both ways in time, and write what they agree on as annotation texts."""
    by_video: dict[str, list[Seed]] = {}
    for seed in read_seeds(seeds):
        by_video.setdefault(seed.video, []).append(seed)
    files = {path.stem: path for path in sorted(videos.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES}
    if lacking := sorted(set(by_video) - set(files)):
        say(f"{len(lacking)} videos of the seeds are not in {videos}: {', '.join(lacking[:5])}")
    makers = available(peers, TEACHERS, threads)
    teachers: list[SingleTargetTracker] = [maker() for maker in makers]
    out.mkdir(parents=True, exist_ok=True)
    tracks = frames_labeled = 0
    with progress_bar() as bar:
        todo = {name: found for name, found in by_video.items() if name in files}
        bar.stage("tracks", sum(map(len, todo.values())))
        for name, found in todo.items():
            record = out / f"{name}.json"
            if not record.is_file():
                entry = _label_video(files[name], found, teachers, longest, out, lambda: bar.advance(1))
                entry["teachers"] = [maker.identity() for maker in makers]
                with atomic_path(record) as temporary:
                    temporary.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
            else:
                bar.advance(len(found))
            done = json.loads(record.read_text(encoding="utf-8"))["tracks"]
            tracks += sum(track["file"] is not None for track in done)
            frames_labeled += sum(track["labeled"] for track in done if track["file"] is not None)
    say(f"made {tracks} tracks with {frames_labeled:,} labeled frames of {len(todo)} videos in {out}")
    say(f"next, look at some of them; then train on them: sttrack-train --videos {out}")


def _label_video(
    video: Path,
    seeds: Sequence[Seed],
    teachers: Sequence[SingleTargetTracker],
    longest: int,
    out: Path,
    done: Callable[[], object],
) -> dict[str, Any]:
    """Write the texts of one video and a link to it; what is known of each track."""
    frames = [frame for frame, _ in zip(frames_in(video, single=True), range(longest), strict=False)]
    entries: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        labels = np.full((len(frames), 4), np.nan)
        if seed.frame < len(frames):
            labels = label_track(frames, seed.frame, seed.box, teachers)
        count = int(np.isfinite(labels[:, 0]).sum())
        file = f"{video.stem}__track{number}.txt" if count >= SHORTEST else None
        if file is not None:
            with atomic_path(out / file) as temporary:
                np.savetxt(temporary, labels, fmt="%.2f", delimiter=",")
        entries.append(
            {"file": file, "seed": [seed.frame, *seed.box], "labeled": count, "frames": len(frames)}
        )
        done()
    link = out / video.name
    if any(entry["file"] for entry in entries) and not link.exists() and not link.is_symlink():
        link.symlink_to(os.path.relpath(video.resolve(), out.resolve()))
    return {"video": video.name, "tracks": entries}


if __name__ == "__main__":
    main()
