"""Which tracking policy suits a network, and which network tracks best: side by side on training-side tracks.

Run from the repository's root::

    python -m benchmarks.tracking_policy --data videos/train/harvest --data videos/train/more --held-out 0.2 \\
        --setting recovery=true,max_growth=4 --setting size_smoothing=0.2

The first row is the bundle's own policy; ``--also`` adds other bundles with theirs. Score: success AUC over 21
thresholds, averaged over runs; frames where the truth is not known do not count, nor does the first one.

Most tracks are short and easy, so that nothing tells the settings apart. ``--every 1 --every 3 --every 6`` makes
targets faster (a run of each), and ``--back-and-forth 120`` lets the runs that leave frames out turn about at the
ends until they are that long: who is lost then has time to be found again, or to stay lost.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.training_tracks import TrainingTrack, held_out, read_tracks
from sttrack_deploy.bundle import TrackingPolicy, open_bundle
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.confidence import BAD_IOU, GOOD_IOU, on_target_auroc
from sttrack_deploy.evaluation.scores import without_nan
from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.terminal.options import bundle_option, engine_options, json_option
from sttrack_deploy.terminal.program import command, complain, console, progress_bar, say

SHORTEST = 8
"""Frames of a run; shorter ones say little."""
THRESHOLDS = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True)
class Run:
    """One track under one setting, where the truth is known, without the first frame."""

    overlap: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    lost: npt.NDArray[np.bool_]

    @property
    def auc(self) -> float:
        return float((self.overlap[:, None] > THRESHOLDS).mean())


def frames_of_run(length: int, every: int, at_least: int = 0) -> list[int]:
    """Which frames a run shows: every so many, there and back again until there are enough of them.

    >>> frames_of_run(8, 3, 7)
    [0, 3, 6, 3, 0, 3, 6]
    """
    one_way = list(range(0, length, every))
    if len(one_way) < 2:
        return one_way
    there_and_back = one_way + one_way[-2:0:-1]
    count = max(len(one_way), at_least)
    return [there_and_back[i % len(there_and_back)] for i in range(count)]


def follow(tracker: Tracker, frames: list[npt.NDArray[np.uint8]], truth: npt.NDArray[np.float64]) -> Run:
    """Track from the first true box to the end."""
    tracker.init(frames[0], (*(float(v) for v in truth[0]),))
    results = [tracker.update(frame) for frame in frames[1:]]
    overlap = iou(np.array([r.box for r in results]), truth[1:])
    known = np.isfinite(overlap)
    confidence, lost = (
        np.array([r.confidence for r in results]),
        np.array([r.lost for r in results], np.bool_),
    )
    return Run(overlap[known], confidence[known], lost[known])


def summarize(runs: list[Run], base: list[Run], sources: list[str]) -> dict[str, float]:
    """The figures of one setting; the interval of the difference is a bootstrap over repositories (95 %), NaN of one.

    Args:
        sources: of each run its repository; the runs of one are alike.
    """
    overlap, confidence, lost = (
        np.concatenate([getattr(run, name) for run in runs]) for name in ("overlap", "confidence", "lost")
    )
    gain = np.array([run.auc - other.auc for run, other in zip(runs, base, strict=True)])
    names, group = np.unique(sources, return_inverse=True)
    total, count = np.bincount(group, gain), np.bincount(group)
    low = high = math.nan  # one source says nothing of others
    if len(names) > 1:
        draws = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
        low, high = np.quantile(total[draws].sum(axis=1) / count[draws].sum(axis=1), (0.025, 0.975))
    off, on = overlap < BAD_IOU, overlap > GOOD_IOU
    return {
        "auc": float(np.mean([run.auc for run in runs])),
        "gain": float(gain.mean()),
        "gain_low": float(low),
        "gain_high": float(high),
        "off_target": float(off.mean()),
        "auroc": on_target_auroc(confidence, overlap),
        "lost_off_target": float(lost[off].mean()) if off.any() else float("nan"),
        "false_alarms": float(lost[on].mean()) if on.any() else float("nan"),
    }


def parse_setting(text: str, policy: TrackingPolicy) -> TrackingPolicy:
    """``field=value,field=value`` over a policy.

    Raises:
        UsageError: no such field, or not a value for it.
    """
    known = {field.name for field in dataclasses.fields(policy)}
    changes: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in known:
            raise UsageError(f"there is no setting {name!r}; there are {', '.join(sorted(known))}")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            raise UsageError(f"{part!r} is not NAME=VALUE with a number, true or false") from None
    return dataclasses.replace(policy, **changes)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data",
    "folders",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    required=True,
    help="Folder of annotated videos; several times for several.",
)
@click.option(
    "--held-out",
    "share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Only the tracks of this share of the repositories.",
)
@click.option(
    "--most", type=click.IntRange(min=1), default=4, show_default=True, help="Tracks of one repository."
)
@click.option("--longest", type=click.IntRange(min=2), default=150, show_default=True, help="Frames a track.")
@click.option(
    "--every",
    "strides",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Show every so many frames; several times for a run of each.",
)
@click.option(
    "--back-and-forth",
    "at_least",
    type=click.IntRange(min=0),
    default=0,
    help="Runs that leave frames out turn about at the ends until they have so many.",
)
@click.option(
    "--also",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Another bundle to compare with, under its own policy.",
)
@click.option("--setting", "settings", metavar="F=V,F=V", multiple=True, help="A policy to try.")
@bundle_option
@engine_options
@json_option
@command
def main(
    folders: tuple[Path, ...],
    share: float,
    most: int,
    longest: int,
    strides: tuple[int, ...],
    at_least: int,
    also: tuple[Path, ...],
    settings: tuple[str, ...],
    bundle: Path | None,
    engine: str,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Compare tracking policies on the tracks of training folders."""
    by_repository: dict[str, list[TrainingTrack]] = {}
    for track in read_tracks(folders, longest):
        if share >= 1 or held_out(track.repository, share):
            by_repository.setdefault(track.repository, []).append(track)
    tracks = [track for found in by_repository.values() for track in _spread(found, most)]
    if not tracks:
        raise UsageError(f"--held-out {share} leaves no track; take a larger share")
    opened = open_bundle(bundle)
    network, own = load_engine(engine, opened, threads), opened.manifest.tracking
    policies = {"as it is": own} | {text: parse_setting(text, own) for text in settings}
    trackers = {name: Tracker(opened, network, policy) for name, policy in policies.items()}
    for path in also:
        if str(path) in trackers:
            raise UsageError(f"--also {path}: there is a row of that name already")
        other = open_bundle(path)
        trackers[str(path)] = Tracker(other, load_engine(engine, other, threads))
    plans = [
        (track, frames_of_run(len(track.truth), every, at_least if every > 1 else 0))
        for track in tracks
        for every in dict.fromkeys(strides)
    ]
    plans = [(track, shown) for track, shown in plans if len(shown) >= SHORTEST]
    if not plans:
        raise UsageError(
            f"no track is long enough for --every {min(strides)} and --longest {longest}: a run has {SHORTEST} frames "
            "or more"
        )
    runs: dict[str, list[Run]] = {name: [] for name in trackers}
    with progress_bar() as bar:
        bar.stage("tracks", sum(len(shown) for _, shown in plans) * len(trackers))
        try:
            decoded: tuple[TrainingTrack | None, list[npt.NDArray[np.uint8]]] = None, []
            for track, shown in plans:
                if decoded[0] is not track:
                    decoded = track, list(track.frames())
                    if len(decoded[1]) < len(track.truth):
                        raise UserError(
                            f"{track.video} ends after {track.first + len(decoded[1])} frames, but {track.name}.txt "
                            f"has boxes up to line {track.first + len(track.truth)}"
                        )
                for name, tracker in trackers.items():
                    runs[name].append(follow(tracker, [decoded[1][i] for i in shown], track.truth[shown]))
                    bar.advance(len(shown))
        except KeyboardInterrupt:
            complain("interrupted: the table is of the runs that every setting has made")
    done = min(map(len, runs.values()))
    if not done:
        raise UserError("no track was finished, so there is nothing to compare")
    tracks, runs = [track for track, _ in plans[:done]], {name: found[:done] for name, found in runs.items()}
    sources = [track.repository for track in tracks]
    figures = {name: summarize(found, runs["as it is"], sources) for name, found in runs.items()}
    show(figures, tracks, sum(len(shown) - 1 for _, shown in plans[:done]))
    if json_path is not None:
        made = [{"track": track.name, "every": abs(shown[1] - shown[0])} for track, shown in plans[:done]]
        document = without_nan({"runs": made, "settings": figures})
        text = json.dumps(document, indent=1) + "\n"
        click.echo(text, nl=False) if str(json_path) == "-" else json_path.write_text(text, encoding="utf-8")
    say(
        "next, put what helps into the bundle's manifest.json under tracking, or give it to sttrack-eval as options"
    )


SHOWN = {"auroc": ".3f", "lost_off_target": ".1%", "false_alarms": ".2%"}


def _known(value: float, style: str) -> str:
    """A figure, or a dash where there are no such frames."""
    return "-" if math.isnan(value) else format(value, style)


def _spread(tracks: list[TrainingTrack], most: int) -> list[TrainingTrack]:
    """At most so many, evenly over the list."""
    step = max(1.0, len(tracks) / most)
    return [tracks[int(index * step)] for index in range(min(most, len(tracks)))]


def show(figures: dict[str, dict[str, float]], tracks: list[TrainingTrack], frames: int) -> None:
    """The table for people; of each run its track."""
    names, sources = {t.name for t in tracks}, {t.repository for t in tracks}
    table = Table(
        title=f"{len(tracks)} runs of {len(names)} tracks of {len(sources)} repositories, {frames} frames"
    )
    table.add_column("setting")
    for heading in ("AUC", "gain, points (95 %)", "off target", "AUROC", "LOST off target", "false alarms"):
        table.add_column(heading, justify="right")
    for name, f in figures.items():
        table.add_row(
            name,
            f"{f['auc']:.4f}",
            f"{100 * f['gain']:+.2f} "
            f"({_known(100 * f['gain_low'], '+.2f')} … {_known(100 * f['gain_high'], '+.2f')})",
            f"{f['off_target']:.1%}",
            *(_known(f[name], style) for name, style in SHOWN.items()),
        )
    console.print(table)


if __name__ == "__main__":
    main()
