"""``sttrack-eval merge``: the parts of a sharded evaluation as one."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from sttrack_deploy.cli.common import FOLDER, PATH, command, say
from sttrack_deploy.evaluation.shards import merge_results

__all__ = ["merge_command"]


@click.command("merge", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("parts", nargs=-1, required=True, type=PATH)
@click.option("--out", type=FOLDER, required=True, help="Where all results go.")
@command
def merge_command(parts: tuple[Path, ...], out: Path) -> None:
    """Put the result files of several machines (sttrack-eval --shard I/N --out PART) into one folder.

    Parts that wrote into one shared folder need no merge. A file that two parts have must be the same.
    """
    merged = merge_results(parts, out)
    say(f"made {out}: {merged.copied} files from {len(parts)} parts, {merged.same} were there already")
    say(f"next, score them: {shlex.join(['sttrack-eval', '--results', str(out), '--data', 'DIR'])}")
