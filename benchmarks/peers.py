"""OpenCV's trackers on annotated sequences: the same data, metrics and timing as ``sttrack-eval``.

They live in ``opencv-contrib-python<5``, which excludes the ``opencv-python`` that this project installs.
So give them an environment of their own, and run this from the repository's root::

    python -m venv peers
    peers/bin/pip install "opencv-contrib-python<5" numpy click rich
    peers/bin/python -m benchmarks.peers --data DIR --nanotrack DIR --out peers
    sttrack-eval --data DIR --bundle export/sttrack-nano --results peers --html report.html
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.cli.common import command, json_option, say
from sttrack_deploy.cli.data import data_options, dataset_title, load_sequences
from sttrack_deploy.cli.evaluate_outcome import emit_json, report_document, show
from sttrack_deploy.cli.tracker_evaluation import Evaluation, evaluate_tracker, exit_by
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.layouts import DEFAULT_LAYOUT
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL
from sttrack_deploy.evaluation.results import ResultFolder
from sttrack_deploy.files import sha256_of
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


def identity(name: str, nanotrack: Path | None) -> dict[str, Any]:
    """What decides a peer's boxes."""
    facts: dict[str, Any] = {"tracker": name, "opencv": cv2.__version__}
    if name == "NanoTrack v2" and nanotrack is not None:
        facts["files"] = [sha256_of(nanotrack / file) for file in NANOTRACK_FILES]
    return facts


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@data_options
@click.option("--nanotrack", type=click.Path(path_type=Path), help="Folder of NanoTrack v2's two ONNX files.")
@click.option("--trackers", metavar="A,B", help="Only these, by name.  [default: all]")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write result files here as sequences end; the same command goes on where it stopped.",
)
@click.option("--restart", is_flag=True, help="Run finished sequences again.")
@json_option
@command
def main(
    dataset: str,
    data: Path | None,
    sequences: str | None,
    partial: bool,
    nanotrack: Path | None,
    trackers: str | None,
    threads: int,
    out: Path | None,
    restart: bool,
    json_path: Path | None,
) -> None:
    """Measure OpenCV's KCF, CSRT and NanoTrack v2 exactly as sttrack-eval measures a bundle."""
    makers = peers(nanotrack)
    names = list(makers) if trackers is None else [name.strip() for name in trackers.split(",")]
    if unknown := [name for name in names if name not in makers]:
        raise UserError(f"there is no tracker {unknown[0]!r}; there are {', '.join(makers)}")
    chosen, title = load_sequences(dataset, data, sequences, partial), dataset_title(dataset, data)
    cv2.setNumThreads(threads)
    evaluations = []
    for name in names:
        tracker = OpenCVTracker(makers[name])
        facts = identity(name, nanotrack)
        evaluation = Evaluation(name, title, chosen, (DEFAULT_PROTOCOL,), {**facts, "threads": threads})
        store = None
        if out is not None:
            folder = DEFAULT_LAYOUT.run_folder(out, "opencv", name.replace(" ", "_"), title)
            store = ResultFolder(folder, DEFAULT_LAYOUT, facts)
        evaluations.append(
            evaluate_tracker(lambda tracker=tracker: tracker, evaluation, store=store, restart=restart)  # type: ignore[misc]
        )
        if evaluation.interrupted:
            break
    show(evaluations)
    emit_json(report_document(evaluations, title), json_path)
    words = ["sttrack-eval", "--threads", str(threads)] + ([] if data is None else ["--data", str(data)])
    words += [] if dataset == "folder" else ["--dataset", dataset]
    words += [] if out is None else ["--bundle", "export/sttrack-nano", "--results", str(out)]
    say(f"next, the same for a bundle: {shlex.join(words)}")
    exit_by(evaluations)


if __name__ == "__main__":
    main()
