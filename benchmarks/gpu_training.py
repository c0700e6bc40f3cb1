"""Train the tracker in closed loop on a machine that is lent for minutes: pack here, train there, go on.

The machine sees a copy of the working tree and nothing else, so the material is packed into one file that fits
what may be carried along. Run from the repository's root::

    python -m benchmarks.gpu_training pack --videos ../shared/videos/train/harvest --videos ../shared/videos/train/more
    python -m benchmarks.gpu_training train --minutes 9 --out "$OUT"            # there; carry models/runs/gpu

What comes back is ``weights.safetensors``, ``checkpoint.pt`` and ``log.csv``; put them into ``models/runs/gpu``
and call again. The last line tells the share of the time that crops took: where it is large, more processes must
make them.
"""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
import cv2
import numpy as np
import torch

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.video_clips import Track, load_tracks
from sttrack_deploy.models.training.closed_loop import following
from sttrack_deploy.models.training.closed_loop.run import frozen_part, network_to_train, read_closed_loop
from sttrack_deploy.models.training.closed_loop.training import CHECKPOINT, Material, train
from sttrack_deploy.models.weights import save_weights
from sttrack_deploy.terminal.program import command, say

P = ParamSpec("P")
T = TypeVar("T")

FOLDER = Path("models/runs/gpu")
BANK = "bank.pkl"
LIMIT_MB = 58
"""Of what may be carried along (64 MiB), less the code and the weights."""
SHORTER_SIDE = 240
"""Frames are shrunk to this: a target then still covers as many pixels as a crop shows of a usual one."""
QUALITY = 80
WORST, BEST = 0.02, 1.0


@click.group()
def main() -> None:
    """Train the tracker on a machine that is lent for minutes."""


@main.command()
@click.option("--videos", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--limit-mb", type=click.FloatRange(1, 64), default=LIMIT_MB, show_default=True)
@command
def pack(videos: tuple[Path, ...], out: Path, limit_mb: float) -> None:
    """Make the file of training tracks, as many frames as fit."""
    tracks = load_tracks(videos, "train")
    share = BEST
    while share > WORST:
        packed = [_packed(track, share) for track in tracks]
        data = pickle.dumps([p for p in packed if p is not None], protocol=4)
        if len(data) <= limit_mb * 1e6:
            break
        share *= 0.95 * limit_mb * 1e6 / len(data)
    else:
        raise UserError(f"{len(tracks)} tracks do not fit {limit_mb:g} MB; give fewer videos")
    out.mkdir(parents=True, exist_ok=True)
    (out / BANK).write_bytes(data)
    say(f"wrote {out / BANK} ({len(data) / 1e6:.0f} MB): {len(tracks)} tracks, {share:.0%} of their frames")
    say(f"next, there: python -m benchmarks.gpu_training train --minutes 9 --out OUT (carry {out})")


def _packed(track: Track, share: float) -> Track | None:
    """The first frames of a track, smaller."""
    count = max(12, round(len(track.frames) * share))
    frames, boxes = [], []
    for data, box in zip(track.frames[:count], track.boxes[:count], strict=True):
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if picture is None:
            return None
        scale = min(1.0, SHORTER_SIDE / min(picture.shape[:2]))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        coded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        frames.append(np.asarray(coded, np.uint8))
        boxes.append(box * scale)
    if len(frames) < 12:
        return None
    return Track(track.name, tuple(frames), track.number[:count], np.array(boxes))


@main.command("train")
@click.option(
    "--recipe", type=click.Path(path_type=Path), default=Path("models/sttrack-nano/closed-loop.toml")
)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Bank, checkpoint."
)
@click.option(
    "--init", type=click.Path(path_type=Path), default=Path("models/sttrack-nano/weights.safetensors")
)
@click.option("--minutes", type=click.FloatRange(0.05, 600), default=9.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--device", default=None, help="[default: cuda if there is one]")
@command
def train_there(
    recipe: Path, folder: Path, init: Path, minutes: float, out: Path, device: str | None
) -> None:
    """Train for some minutes and leave everything that the next call needs in OUT."""
    model, settings = read_closed_loop(recipe)
    tracks = pickle.loads((folder / BANK).read_bytes())
    weights = np.sqrt([min(len(t.frames), 150) for t in tracks])
    material = Material(tracks, weights / weights.sum(), None)
    network = network_to_train(model, init, None, settings.seed)
    network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out.mkdir(parents=True, exist_ok=True)
    if (folder / CHECKPOINT).is_file():
        shutil.copy(folder / CHECKPOINT, out / CHECKPOINT)
    clips = _Clock()
    began = time.monotonic()
    looked = following._look
    following._look = clips.timed(looked)
    try:
        trained = train(network, frozen_part(network, say), material, settings, out, 60 * minutes, say)
    finally:
        following._look = looked
    save_weights(out / "weights.safetensors", model, trained)
    total = time.monotonic() - began
    share = clips.seconds / max(total, 1e-9)
    say(f"wrote {out / 'weights.safetensors'}; making crops took {share:.0%} of {total:.0f} s")
    say(
        f"next: copy {out} to {folder} and call again, or sttrack-export --checkpoint {out / 'weights.safetensors'}"
    )


class _Clock:
    """Adds up the time that a function takes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[P, T]) -> Callable[P, T]:
        """The same function, with its time added to :attr:`seconds`."""

        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.monotonic() - began

        return wrapped


if __name__ == "__main__":
    main()
