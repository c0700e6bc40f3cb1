"""Other trackers beside bundles, timed as sttrack-bench times engines: each in its own process, taking turns.

Run from the repository's root::

    python -m benchmarks.speed_peers export/sttrack-nano --peers DIR --engines onnxruntime,openvino

Other trackers do not tell their stages apart: all of ``update`` counts as "search". Medians over rounds are shown,
and each time over that of the first bundle.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.peer_trackers import available
from sttrack_deploy.terminal.options import (
    chosen_bundles,
    chosen_engines,
    emit_json,
    json_option,
    subject_options,
)
from sttrack_deploy.terminal.program import command, progress_bar, say
from sttrack_deploy.terminal.reports import show_bench, write_plot
from sttrack_deploy.terminal.types import FOLDER
from sttrack_deploy.verification.benchmark.report import bench_document
from sttrack_deploy.verification.benchmark.run import (
    BenchPlan,
    baseline_of,
    clip_of,
    engine_subjects,
    run_bench,
)
from sttrack_deploy.verification.benchmark.worker import Subject


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@subject_options
@click.option("--peers", type=FOLDER, help="Folder of the networks; without it OpenCV's trackers alone.")
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
    peers: Path | None,
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
    """Time other trackers and bundles on the same frames, taking turns."""
    makers = available(peers, trackers, threads)
    subjects = engine_subjects(
        chosen_bundles(bundles, precisions), chosen_engines(engines, engine_list), threads
    )
    subjects += [Subject(maker.name, maker, {"engine": maker.name, **maker.identity()}) for maker in makers]
    with clip_of(source, init_box, frames) as (clip, title):
        plan = BenchPlan(clip, rounds, threads, (), steps=1, long=0, seed=seed)
        with progress_bar(refresh=1.0) as bar:  # what is measured is not disturbed
            result = run_bench(subjects, plan, bar)
    base = baseline_of(result, subjects[0].label)
    show_bench(result, base, title)
    emit_json(bench_document(result, base, title), json_path)
    write_plot(result, base, title, plot)
    say("next, how well they track: python -m benchmarks.peers --data DIR --peers DIR")


if __name__ == "__main__":
    main()
