"""The process that the VOT toolkit starts: ``python -m sttrack_deploy.cli.trax_server``.

Speaks TraX on standard input and output. The toolkit's ``traxpython`` protocol runs a module without
arguments, so each option is also read from the environment: ``--bundle`` from ``STTRACK_BUNDLE``,
``--lost-below`` from ``STTRACK_LOST_BELOW`` and so on.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

import click

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines import registry
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.evaluation.vot import ENVIRONMENT_PREFIX, IMAGE_FORMATS, serve
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.terminal.help import GroupedCommand
from sttrack_deploy.terminal.options import bundle_option, engine_options, tracking_options
from sttrack_deploy.terminal.program import command

__all__ = ["INSTALL", "main"]

INSTALL = "pip install vot-trax"


@click.command(cls=GroupedCommand, context_settings={"auto_envvar_prefix": ENVIRONMENT_PREFIX})
@bundle_option
@engine_options
@tracking_options
@command
def main(
    bundle: Path | None,
    engine: str,
    threads: int | None,
    changes: PolicyChanges,
) -> None:
    """Serve the tracker to a TraX client, such as the VOT toolkit, on standard input and output.

    Every option is also read from the environment: STTRACK_BUNDLE, STTRACK_ENGINE and so on.
    """
    trax = _import_trax()
    try:
        opened = open_bundle(bundle)
        policy = opened.manifest.tracking.override(changes)
        runner = registry.load_engine(engine, opened, threads)
    except UserError as error:
        # The client learns why only over a connection; without one it would just see this process end.
        with contextlib.suppress(trax.TraxException):
            _connect(trax).quit(str(error))
        raise
    client = _connect(trax, opened.manifest.title, f"sttrack-deploy, {runner.name}")
    try:
        serve(client, lambda: Tracker(opened, runner, policy), trax.Rectangle.create)
    except UserError as error:
        client.quit(str(error))
        raise
    except trax.TraxException as error:
        raise UserError(f"the TraX client is gone ({error}); start this from the VOT toolkit") from error
    client.quit()


def _import_trax() -> Any:
    """TraX's bindings.

    Raises:
        MissingDependencyError: they are not installed or do not load, or another package has their name.
    """
    try:
        trax = importlib.import_module("trax")
        _ = trax.Server, trax.Rectangle, trax.TraxException
    except (ImportError, OSError, AttributeError) as error:
        raise MissingDependencyError("trax", "the TraX server", INSTALL) from error
    return trax


def _connect(trax: Any, name: str = "", description: str = "") -> Any:
    """Shake hands with the client."""
    return trax.Server(
        ["rectangle"],
        list(IMAGE_FORMATS),
        ["color"],
        tracker_name=name,
        tracker_description=description,
        tracker_family="STTrack",
        multiobject=True,
    )


if __name__ == "__main__":
    main()
