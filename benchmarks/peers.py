"""OpenCV's trackers on annotated sequences: the same data, metrics and timing as ``sttrack-eval``.

They live in ``opencv-contrib-python<5``, which excludes the ``opencv-python`` that this project installs.
So give them an environment of their own, and run this from the repository's root::

    python -m venv peers
    peers/bin/pip install "opencv-contrib-python<5" numpy click rich
    peers/bin/python -m benchmarks.peers --data DIR --nanotrack DIR --json peers.json
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.cli.common import INTERRUPTED, command, console
from sttrack_deploy.cli.evaluate import evaluate, show
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.dataset import DATASETS, select
from sttrack_deploy.evaluation.report import write_json
from sttrack_deploy.geometry import Box
from sttrack_deploy.runtime.tracker import TrackResult

opencv: Any = cv2  # the type stubs of OpenCV 5 lack what OpenCV 4 has

NANOTRACK_FILES = ("nanotrackv2_backbone.onnx", "nanotrackv2_head.onnx")


@dataclass
class OpenCVTracker:
    """One of OpenCV's trackers with this project's interface.

    Where it reports a failure, the last box it found stands, with confidence 0.
    """

    make: Callable[[], Any]
    inner: Any = None
    box: Box = (0.0, 0.0, 0.0, 0.0)

    def init(self, frame: npt.NDArray[np.uint8], box: Box) -> None:
        self.inner, self.box = self.make(), box  # these objects cannot be started twice
        x, y, w, h = (round(value) for value in box)  # they take whole pixels only
        self.inner.init(frame, (x, y, max(w, 1), max(h, 1)))

    def update(self, frame: npt.NDArray[np.uint8]) -> TrackResult:
        found, box = self.inner.update(frame)
        if found and box[2] > 0 and box[3] > 0:
            self.box = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        # Only the learned trackers have a score; the others say yes or no.
        score = getattr(self.inner, "getTrackingScore", lambda: 1.0)()
        return TrackResult(self.box, float(score) if found else 0.0, not found)


def peers(nanotrack: Path | None) -> dict[str, Callable[[], Any]]:
    """Makers of OpenCV's trackers by name; NanoTrack only if its files' folder is named.

    Raises:
        UserError: this OpenCV has no such trackers, or a file of NanoTrack is missing.
    """
    classes = {"KCF": "TrackerKCF", "CSRT": "TrackerCSRT", "NanoTrack v2": "TrackerNano"}
    if not all(hasattr(cv2, name) for name in classes.values()):
        raise MissingDependencyError(
            "opencv-contrib-python<5",
            f"comparing with OpenCV's trackers (this is OpenCV {cv2.__version__})",
            'in an environment of its own: pip install "opencv-contrib-python<5" numpy click rich',
        )
    makers: dict[str, Callable[[], Any]] = {
        name: getattr(opencv, classes[name]).create for name in ("KCF", "CSRT")
    }
    if nanotrack is not None:
        for file in NANOTRACK_FILES:
            if not (nanotrack / file).is_file():
                raise UserError(
                    f"NanoTrack's {file} is not in {nanotrack}; "
                    f"--nanotrack DIR must hold {' and '.join(NANOTRACK_FILES)}"
                )

        def make_nanotrack() -> Any:
            parameters = opencv.TrackerNano_Params()
            parameters.backbone, parameters.neckhead = (str(nanotrack / file) for file in NANOTRACK_FILES)
            return opencv.TrackerNano.create(parameters)

        makers["NanoTrack v2"] = make_nanotrack
    return makers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder of <name>.mp4 and <name>.txt."
)
@click.option("--dataset", type=click.Choice(list(DATASETS)), default="folder", show_default=True)
@click.option("--nanotrack", type=click.Path(path_type=Path), help="Folder of NanoTrack v2's two ONNX files.")
@click.option("--trackers", metavar="A,B", help="Only these, by name.  [default: all]")
@click.option("--sequences", metavar="GLOB", help="Only these, for example 'otb_*' or 'a,b'.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write a list with one report a tracker; - for standard output.",
)
@click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), help="A folder of boxes a tracker."
)
@command
def main(
    data: Path,
    dataset: str,
    nanotrack: Path | None,
    trackers: str | None,
    sequences: str | None,
    threads: int,
    json_path: Path | None,
    results: Path | None,
) -> None:
    """Measure OpenCV's KCF, CSRT and NanoTrack v2 exactly as sttrack-eval measures a bundle."""
    makers = peers(nanotrack)
    names = list(makers) if trackers is None else [name.strip() for name in trackers.split(",")]
    if unknown := [name for name in names if name not in makers]:
        raise UserError(f"there is no tracker {unknown[0]!r}; there are {', '.join(makers)}")
    chosen = select(DATASETS[dataset](data), sequences)
    cv2.setNumThreads(threads)
    reports, interrupted = [], False
    for name in names:
        tracker = OpenCVTracker(makers[name])
        report, interrupted = evaluate(
            lambda tracker=tracker: tracker,  # type: ignore[misc]
            chosen,
            label=name,
            dataset=data.name or str(data),
            subject={"tracker": name, "opencv": cv2.__version__, "threads": threads},
            results=None if results is None else results / name.replace(" ", "_"),
        )
        reports.append(report)
        show(report)
        if interrupted:
            break
    for report in reports:
        score = report.score
        console.print(
            f"{report.label:14}{report.protocol.columns[0]} {score.auc:.3f}  {report.protocol.columns[1]} "
            f"{score.precision:.3f}  {report.fps:.1f} FPS  ({report.protocol.name}, {threads} threads)",
            markup=False,
        )
    if json_path is not None:
        text = write_json([r.to_dict() for r in reports], None if str(json_path) == "-" else json_path)
        if str(json_path) == "-":
            click.echo(text, nl=False)
        else:
            console.print(f"made {json_path}", markup=False, soft_wrap=True)
    following = shlex.join(["sttrack-eval", "--data", str(data), "--threads", str(threads)])
    console.print(f"next, the same for a bundle: {following}", markup=False, soft_wrap=True)
    if interrupted:
        sys.exit(INTERRUPTED)
    if any(r.failures for r in reports):
        sys.exit(1)


if __name__ == "__main__":
    main()
