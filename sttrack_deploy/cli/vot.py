"""``sttrack-eval vot``: enter the tracker in a workspace of the official VOT toolkit."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click
from rich.markup import escape

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import bundle_option, engine_options, tracking_options
from sttrack_deploy.terminal.program import command, console
from sttrack_deploy.terminal.types import FOLDER

__all__ = ["vot_command"]

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
