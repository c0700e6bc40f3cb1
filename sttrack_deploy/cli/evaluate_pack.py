"""``sttrack-eval pack``: results of a test set as the archive that its server takes."""

from __future__ import annotations

from pathlib import Path

import click

from sttrack_deploy.cli.bar import progress_bar
from sttrack_deploy.cli.common import FILE, PATH, command, console, say
from sttrack_deploy.cli.data import load_sequences
from sttrack_deploy.errors import UsageError
from sttrack_deploy.evaluation.results import find_results
from sttrack_deploy.evaluation.submission import FORMATS, pack

__all__ = ["pack_command"]


@click.command("pack", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=PATH)
@click.option(
    "--format", "format_name", type=click.Choice(list(FORMATS)), required=True, help="The server it is for."
)
@click.option("--data", type=PATH, help="The test set's folder, to check against.")
@click.option("--tracker", metavar="LABEL", help="Which one, if RESULTS holds several.")
@click.option(
    "--zip",
    "archive",
    type=FILE,
    help="The archive.  [default: <format>_submission.zip]",
)
@command
def pack_command(
    results: Path, format_name: str, data: Path | None, tracker: str | None, archive: Path | None
) -> None:
    """Make the archive that a test set's server scores, from the result files in RESULTS.

    Names, number and lengths of the results are compared with the data set, and their values with what
    the server takes, before anything is written.
    """
    submission = FORMATS[format_name]
    archive = archive or Path(f"{format_name}_submission.zip")
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
