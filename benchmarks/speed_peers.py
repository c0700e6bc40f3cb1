#!/usr/bin/env python
"""OpenCV's trackers (KCF, CSRT, NanoTrack v2) beside the shipped bundle, timed as sttrack-bench times engines.

The trackers need an environment of their own, see peers.py; there is no PyTorch in it. PyTorch eager and
torch.compile are engines of sttrack-bench itself: sttrack-bench --engine torch --engine torch-compile.

    python benchmarks/speed_peers.py --nanotrack DIR --json speed.json

OpenCV's trackers do not tell their stages apart: all of ``update`` counts as "search".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
from peers import NANOTRACK_FILES, OpenCVTracker, identity, peers

from sttrack_deploy.cli.bench import baseline_of, clip_of, engine_subjects, measure
from sttrack_deploy.cli.bench_outcome import show, write_plot
from sttrack_deploy.cli.candidates import candidate_options, chosen_bundles, chosen_engines
from sttrack_deploy.cli.common import command, json_option, say
from sttrack_deploy.cli.evaluate_outcome import emit_json
from sttrack_deploy.errors import UserError
from sttrack_deploy.verification.bench_document import bench_document
from sttrack_deploy.verification.bench_run import BenchPlan
from sttrack_deploy.verification.bench_worker import Subject


@dataclass(frozen=True)
class PeerMaker:
    """Makes one of OpenCV's trackers in a worker process."""

    name: str
    nanotrack: Path | None

    def __call__(self) -> OpenCVTracker:
        return OpenCVTracker(peers(self.nanotrack)[self.name])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@candidate_options
@click.option(
    "--nanotrack", type=click.Path(path_type=Path), help=f"Folder of {' and '.join(NANOTRACK_FILES)}."
)
@click.option("--trackers", metavar="A,B", help="Only these, by name.  [default: all]")
@click.option("--source", type=click.Path(path_type=Path), help="Video.  [default: the demo clip]")
@click.option("--init-box", metavar="X,Y,W,H", help="Target on its first frame.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--frames", type=click.IntRange(min=10), default=60, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False))
@command
def main(
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    engine_list: str | None,
    precisions: str | None,
    nanotrack: Path | None,
    trackers: str | None,
    source: Path | None,
    init_box: str | None,
    threads: int,
    frames: int,
    rounds: int,
    seed: int,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Time OpenCV's trackers and bundles on the same frames, taking turns."""
    names = list(peers(nanotrack)) if trackers is None else [name.strip() for name in trackers.split(",")]
    if unknown := [name for name in names if name not in peers(nanotrack)]:
        raise UserError(f"there is no tracker {unknown[0]!r}; there are {', '.join(peers(nanotrack))}")
    subjects = engine_subjects(
        chosen_bundles(bundles, precisions), chosen_engines(engines, engine_list), threads
    )
    subjects += [
        Subject(name, PeerMaker(name, nanotrack), {"engine": name, **identity(name, nanotrack)})
        for name in names
    ]
    with clip_of(source, init_box, frames) as (clip, title):
        plan = BenchPlan(clip, rounds, threads, (), steps=1, long=0, seed=seed)
        result = measure(subjects, plan)
    base = baseline_of(result, subjects[0].label)
    show(result, base, title)
    emit_json(bench_document(result, base, title), json_path)
    write_plot(result, base, title, plot)
    say("next, how well they track: python benchmarks/peers.py --data DIR")


if __name__ == "__main__":
    main()
