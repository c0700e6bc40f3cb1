"""Which bundles and engines the commands that compare several of them work on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.cli.common import FOLDER
from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.verification.agreement import GATES

__all__ = ["chosen_bundles", "chosen_engines", "subject_options"]

F = TypeVar("F", bound=Callable[..., Any])


def subject_options(function: F) -> F:
    """``[BUNDLE]...``, ``--engine NAME``, ``--engines A,B`` and ``--precisions A,B``."""
    function = click.option(
        "--precisions",
        metavar="A,B",
        help=f"Take the bundles BUNDLE-<precision> that lie beside BUNDLE: {', '.join(GATES)}.",
    )(function)
    function = click.option("--engines", "engine_list", metavar="A,B", help="The same, several at once.")(
        function
    )
    function = click.option(
        "--engine",
        "engines",
        multiple=True,
        metavar="NAME",
        help=f"Back end that runs the network; several are compared.  [default: {DEFAULT_BACKEND}]",
    )(function)
    return click.argument("bundles", nargs=-1, type=FOLDER, metavar="[BUNDLE]...")(function)


def chosen_engines(
    engines: Sequence[str], engine_list: str | None, others: Collection[str] = ()
) -> list[str]:
    """The engines asked for, each once, or the default one.

    Args:
        others: names that are allowed besides the back ends'.

    Raises:
        UsageError: there is no engine of that name, or the list names none.
    """
    if engine_list is not None and not _words(engine_list):
        raise UsageError(f"--engines names none; engines are {', '.join([*BACKENDS, *others])}")
    asked = [*engines, *_words(engine_list)]
    known = [*BACKENDS, *others]
    for name in asked:
        if name not in known:
            raise UsageError(f"there is no engine {name!r}; engines are {', '.join(known)}")
    return list(dict.fromkeys(asked)) or [DEFAULT_BACKEND]


def chosen_bundles(paths: Sequence[Path], precisions: str | None) -> list[Bundle]:
    """The bundles named (the shipped one if none is), or their siblings of the precisions asked for.

    Raises:
        UsageError: there is no such precision, or the list names none.
        UserError: a bundle cannot be opened, or a sibling is missing: the line has the command that makes it.
    """
    named = [open_bundle(path) for path in paths or (None,)]
    if precisions is None:
        return named
    if not _words(precisions):
        raise UsageError(f"--precisions names none; precisions are {', '.join(GATES)}")
    found = []
    for precision in dict.fromkeys(_words(precisions)):
        if precision not in GATES:
            raise UsageError(f"there is no precision {precision!r}; precisions are {', '.join(GATES)}")
        found += [_sibling(bundle, precision) for bundle in named]
    return found


def _sibling(bundle: Bundle, precision: str) -> Bundle:
    if bundle.manifest.precision.get("name") == precision:
        return bundle
    path = bundle.path.with_name(f"{bundle.path.name}-{precision}")
    if not path.is_dir():
        make = f"sttrack-convert {shlex.quote(str(bundle.path))} --precision {precision}"
        raise UserError(f"there is no {precision} bundle {path}; make it with: {make}")
    return open_bundle(path)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
