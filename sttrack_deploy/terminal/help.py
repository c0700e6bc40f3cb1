"""A command's help: options under headings, those that most need first, all with ``--help-all``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import click

__all__ = ["GENERAL", "GroupedCommand", "GroupedGroup", "heading", "heading_of", "under"]

F = TypeVar("F", bound=Callable[..., Any])

GENERAL = "General"
"""The last heading: what every command has."""


@dataclass(frozen=True, slots=True)
class _Heading:
    name: str
    more: bool


_HEADINGS: WeakKeyDictionary[click.Parameter, _Heading] = WeakKeyDictionary()
"""Where each option stands in the help."""


def heading(name: str, *, more: bool = False) -> Callable[[F], F]:
    """The options below, down to the next heading, stand under this one in the help.

    Args:
        more: only ``--help-all`` shows them.
    """

    def mark(function: F) -> F:
        for param in getattr(function, "__click_params__", ()):
            _HEADINGS.setdefault(param, _Heading(name, more))
        return function

    return mark


def under(name: str, *options: Callable[[F], F], more: bool = False) -> Callable[[F], F]:
    """These options, under a heading of their own: for options that several commands share."""

    def add(function: F) -> F:
        for option in reversed(options):
            above = set(getattr(function, "__click_params__", ()))
            function = option(function)
            for param in getattr(function, "__click_params__", ()):
                if param not in above:
                    _HEADINGS[param] = _Heading(name, more)
        return function

    return add


def heading_of(param: click.Parameter) -> tuple[str, bool] | None:
    """Name of an option's heading, and whether only ``--help-all`` shows it; None without one."""
    found = _HEADINGS.get(param)
    return None if found is None else (found.name, found.more)


_SHOW_ALL = f"{__name__}.show_all"


def _help_all(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.meta[_SHOW_ALL] = True
        click.echo(context.get_help())
        context.exit()


class GroupedCommand(click.Command):
    """A command whose help lists its options under headings: see :func:`heading`.

    ``--help`` shows those that most need; ``--help-all``, which is there where more are, shows every one.
    """

    def __init__(self, **options: Any) -> None:
        given = options.pop("context_settings", None) or {}
        super().__init__(context_settings={"help_option_names": ["-h", "--help"], **given}, **options)
        self._has_more = any(place[1] for place in map(heading_of, self.params) if place)
        if self._has_more:
            self.params.append(
                click.Option(
                    ["--help-all"],
                    is_flag=True,
                    expose_value=False,
                    is_eager=True,
                    callback=_help_all,
                    help="Show every option and exit.",
                )
            )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading, and name those that are left out."""
        everything = not self._has_more or ctx.meta.get(_SHOW_ALL, False)
        shown: dict[str, list[tuple[str, str]]] = {}
        left_out: dict[str, None] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if (
                record is None
            ):  # a hidden option, or an argument: the usage line and the text above tell of these
                continue
            name, more = heading_of(param) or (GENERAL, False)
            if more and not everything:
                left_out[name] = None
            else:
                shown.setdefault(name, []).append(record)
        general = shown.pop(GENERAL)
        for name, records in [*shown.items(), (GENERAL, general)]:
            with formatter.section(name):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(f"More with --help-all: {', '.join(left_out)}.")


class GroupedGroup(GroupedCommand, click.Group):
    """The same for a command with commands of its own."""
