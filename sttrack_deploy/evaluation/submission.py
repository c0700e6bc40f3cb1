"""Archives for the servers that score test sets, checked before they are written."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.results import LAYOUTS, Layout, box_lines, read_run
from sttrack_deploy.files import atomic_path
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

__all__ = ["FORMATS", "SubmissionFormat", "pack"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same results make the same archive


@dataclass(frozen=True, slots=True)
class SubmissionFormat:
    """What one server takes.

    Attributes:
        dataset: name in ``DATASETS`` of the set that it scores.
        sequences: how many there are.
        pattern: what their names look like, a regular expression; ``None``: not told by the name.
        layout: how the archive's files are named and written.
    """

    name: str
    dataset: str
    sequences: int
    pattern: str | None
    layout: Layout


FORMATS: dict[str, SubmissionFormat] = {
    f.name: f
    for f in (
        SubmissionFormat("got10k", "got10k_test", 180, r"GOT-10k_Test_\d{6}", LAYOUTS["got10k"]),
        SubmissionFormat("trackingnet", "trackingnet", 511, None, LAYOUTS["trackingnet"]),
    )
}


def pack(
    folder: Path,
    layout: Layout,
    sequences: list[VideoSequence],
    submission: SubmissionFormat,
    archive: Path,
    progress: Progress = SILENT,
) -> int:
    """Check a run's results and write the archive; returns its number of files.

    Args:
        folder, layout: where the results lie and how they are named there.
        sequences: of the whole test set.
        progress: its steps are frames.

    Raises:
        UserError: names, counts, lengths or values are not what the server takes; nothing is written.
    """
    _check_names(sequences, submission)
    missing = [s.name for s in sequences if not layout.has(folder, s)]
    if missing:
        raise UserError(
            f"{folder} lacks the results of {len(missing)} of {len(sequences)} sequences: {_few(missing)}; "
            "finish the evaluation first"
        )
    files: dict[str, str] = {}
    for sequence in sequences:
        run = read_run(folder, layout, sequence)
        _check_values(run, sequence)
        files |= _files(run, sequence, submission.layout)
        progress.advance(len(sequence))
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.comment = b"sttrack-deploy"  # ours: may be written again
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            zipped.writestr(entry, text)
    return len(files)


def _check_names(sequences: list[VideoSequence], submission: SubmissionFormat) -> None:
    if len(sequences) != submission.sequences:
        raise UserError(
            f"the {submission.name} server scores {submission.sequences} sequences, but the data set here has "
            f"{len(sequences)}; unpack all of it"
        )
    if submission.pattern is not None:
        wrong = [s.name for s in sequences if not re.fullmatch(submission.pattern, s.name)]
        if wrong:
            raise UserError(f"{len(wrong)} names are not of {submission.dataset}: {_few(wrong)}")


def _check_values(run: TrackRun, sequence: VideoSequence) -> None:
    """What a server would refuse, or score as a miss without a word."""
    bad = ~np.isfinite(run.boxes).all(axis=1) | (run.boxes[:, 2:] <= 0).any(axis=1)
    if bad.any():
        frame = int(np.argmax(bad))
        raise UserError(
            f"{run.name}: the box of frame {frame} is {run.boxes[frame].tolist()}; "
            "all must be finite with w and h above 0"
        )
    # Results may be rounded to whole pixels, or truncated.
    if np.abs(run.boxes[0] - sequence.truth[0]).max() > 1.0:
        raise UserError(
            f"{run.name}: the first box is {run.boxes[0].tolist()}, but tracking starts on "
            f"{sequence.truth[0].tolist()}; are these the results of this data set?"
        )
    if run.times is not None and (run.times < 0).any():
        raise UserError(f"{run.name}: frame {int(np.argmax(run.times < 0))} took less than no time")


def _files(run: TrackRun, sequence: VideoSequence, layout: Layout) -> dict[str, str]:
    root = Path()
    boxes = box_lines(run.boxes, layout.delimiter, layout.decimals)
    files = {layout.boxes_path(root, sequence).as_posix(): _text(boxes)}
    times_path = layout.times_path(root, sequence)
    if times_path is not None:
        if run.times is None:
            raise UserError(f"{run.name} has no times, which the {layout.name} server asks for; run it again")
        files[times_path.as_posix()] = _text([f"{value:.6f}" for value in run.times])
    return files


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
