"""``sttrack-eval merge`` and ``sttrack-eval pack``: result files put together, and packed for a test server."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from sttrack_deploy.errors import UsageError
from sttrack_deploy.evaluation.results import find_results
from sttrack_deploy.evaluation.shards import merge_results
from sttrack_deploy.evaluation.submission import FORMATS, pack
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import check_reports, load_sequences, overwrite_option
from sttrack_deploy.terminal.program import command, console, progress_bar, say
from sttrack_deploy.terminal.types import FILE, FOLDER, PATH

__all__ = ["merge_command", "pack_command"]


@click.command("merge", cls=GroupedCommand)
@click.argument("parts", nargs=-1, required=True, type=PATH)
@heading("Output")
@click.option("--out", type=FOLDER, required=True, help="Folder for the merged results.")
@command
def merge_command(parts: tuple[Path, ...], out: Path) -> None:
    """Put the result files of several machines (sttrack-eval --shard I/N --out PART) into one folder.

    Parts that wrote into one shared folder need no merge. A file that two parts have must be the same.
    """
    merged = merge_results(parts, out)
    say(f"made {out}: {merged.copied} files from {len(parts)} parts, {merged.same} were there already")
    say(f"next, score them: {shlex.join(['sttrack-eval', '--results', str(out), '--data', 'DIR'])}")


@click.command("pack", cls=GroupedCommand)
@click.argument("results", type=PATH)
@heading("Submission")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="The evaluation server it is for.",
)
@click.option("--data", type=PATH, help="The test set's folder, to check against.")
@click.option("--tracker", metavar="LABEL", help="Tracker to take, if RESULTS holds several.")
@click.option(
    "--zip",
    "archive",
    type=FILE,
    help="The archive.  [default: <format>_submission.zip]",
)
@overwrite_option
@command
def pack_command(
    results: Path,
    format_name: str,
    data: Path | None,
    tracker: str | None,
    archive: Path | None,
    overwrite: bool,
) -> None:
    """Make the archive that a test set's server scores, from the result files in RESULTS.

    Names, number and lengths of the results are compared with the data set, and their values with what
    the server takes, before anything is written.
    """
    submission = FORMATS[format_name]
    archive = archive or Path(f"{format_name}_submission.zip")
    check_reports((archive,), overwrite=overwrite, data=(results, data))
    sequences = load_sequences(submission.dataset, data, None, False)
    found = find_results(results, sequences, submission.dataset)
    if tracker is None and len(found) > 1:
        raise UsageError(
            f"{results} holds several trackers; choose one with --tracker: {', '.join(sorted(found))}"
        )
    label = tracker or next(iter(found))
    if label not in found:
        raise UsageError(f"{results} has no tracker {label!r}; it has {', '.join(sorted(found))}")
    folder, layout = found[label]
    with progress_bar() as bar:
        bar.stage("checking", sum(len(s) for s in sequences))
        files = pack(folder, layout, sequences, submission, archive, bar)
    say(
        f"made {archive}: {files} files of {len(sequences)} sequences of {label}, "
        f"{archive.stat().st_size / 2**20:.1f} MiB"
    )
    console.print(f"next: upload it to the {format_name} server")
