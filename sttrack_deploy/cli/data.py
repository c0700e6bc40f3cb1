"""Which annotated sequences a command works on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sttrack_deploy.cli.common import PATH
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.sequences.datasets.locations import locate
from sttrack_deploy.sequences.sequence import VideoSequence, select

__all__ = ["data_options", "dataset_title", "load_sequences"]

F = TypeVar("F", bound=Callable[..., Any])


def data_options(function: F) -> F:
    """``--dataset NAME``, ``--data DIR``, ``--sequences GLOB`` and ``--partial``: which annotated sequences."""
    function = click.option(
        "--partial",
        is_flag=True,
        help="Take what is there of a data set that is not complete; its numbers are of that part only.",
    )(function)
    function = click.option("--sequences", metavar="GLOB", help="Only these, for example 'otb_*' or 'a,b'.")(
        function
    )
    function = click.option(
        "--data",
        type=PATH,
        help="The data set's folder, or the one that holds it.  [default: as the environment or "
        "sttrack-datasets.toml has it, see --write-config]",
    )(function)
    return click.option(
        "--dataset",
        type=click.Choice(list(DATASETS)),
        default="folder",
        show_default=True,
        help="Layout of the data; folder: <name>.mp4 (or a folder of images) and <name>.txt, one x,y,w,h line "
        "a frame.",
    )(function)


def load_sequences(
    dataset: str, data: Path | None, pattern: str | None, partial: bool
) -> list[VideoSequence]:
    """The sequences that :func:`data_options` name.

    Raises:
        UserError: the data set is not there, not complete, or no sequence matches.
    """
    sequences = DATASETS[dataset].read(locate(dataset, data), partial)
    return select(sequences, pattern)


def dataset_title(dataset: str, data: Path | None) -> str:
    """What tables and result folders call it: its own name, or the plain folder's."""
    return data.resolve().name if dataset == "folder" and data is not None else dataset
