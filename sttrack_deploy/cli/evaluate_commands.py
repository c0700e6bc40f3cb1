"""Commands below ``sttrack-eval``: ``merge`` and ``pack`` result files, ``vot`` enters the official VOT toolkit."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click
from rich.markup import escape

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError
from sttrack_deploy.evaluation.results import find_results
from sttrack_deploy.evaluation.runner import merge_results
from sttrack_deploy.evaluation.submission import FORMATS, pack
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import (
    bundle_option,
    check_reports,
    engine_options,
    load_sequences,
    overwrite_option,
    tracking_options,
)
from sttrack_deploy.terminal.program import command, console, progress_bar, say
from sttrack_deploy.terminal.types import FILE, FOLDER, PATH

__all__ = ["merge_command", "pack_command", "vot_command"]


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


EXTRA = 'pip install "sttrack-deploy[vot]"'


@click.command("vot", cls=GroupedCommand)
@click.argument("workspace", type=FOLDER)
@bundle_option
@engine_options
@tracking_options
@heading("Workspace")
@click.option(
    "--label",
    metavar="NAME",
    help="The tracker's name in the toolkit.  [default: the bundle's name, with the engine's if it is not "
    f"{DEFAULT_BACKEND}]",
)
@click.option("--force", is_flag=True, help="Overwrite another tracker of that name.")
@command
def vot_command(
    workspace: Path,
    bundle: Path | None,
    engine: str,
    threads: int | None,
    changes: PolicyChanges,
    label: str | None,
    force: bool,
) -> None:
    """Enter the tracker in WORKSPACE/trackers.ini, for the official VOT toolkit.

    WORKSPACE is made if it does not exist; other trackers' sections are kept. The next commands, which
    are the toolkit's, are printed.
    """
    from sttrack_deploy.engines import registry
    from sttrack_deploy.evaluation.vot import TRACKERS, TrackerEntry, as_identifier, write_entry

    opened = open_bundle(bundle)
    # Whatever keeps the engine from running is said here, not in a log of the toolkit's.
    registry.load_engine(engine, opened, threads)
    if label is None:
        name = opened.manifest.title
        label = as_identifier(name if engine == DEFAULT_BACKEND else f"{name}-{engine}")
    entry = TrackerEntry(label, opened.path.resolve(), engine, threads, changes)
    change = write_entry(workspace, entry, force=force)
    _say(f"{workspace / TRACKERS}: [{label}] {change.value}")
    _suggest_next(workspace, label)


def _suggest_next(workspace: Path, label: str) -> None:
    from sttrack_deploy.evaluation.vot import CONFIG

    folder = shlex.quote(str(workspace))
    _say("next:")
    if not all(map(_installed, ("vot-toolkit", "vot-trax"))):
        _say(f"  {EXTRA}")
    _say(f"  vot --registry {folder} test {label}")
    if not (workspace / CONFIG).is_file():
        _say(f"  vot initialize tests/basic --workspace {folder}   (vot initialize alone lists the stacks)")
    _say(f"  vot evaluate --workspace {folder} {label}")
    _say(f"  vot analysis --workspace {folder} {label}")


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _say(line: str) -> None:
    """One line, however long: what people copy must not be broken."""
    console.print(escape(line), soft_wrap=True)
