"""Options under headings: what a reader of ``--help`` looks for stands together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["GroupedCommand"]


class GroupedCommand(click.Command):
    """A command whose help lists its options by group.

    ``@click.command(cls=GroupedCommand, groups={"Output": ("out", "codec")})``: parameters by their Python
    names; those of no group stand at the end, under ``Options``.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **options: Any) -> None:
        super().__init__(*args, **options)
        known = {param.name for param in self.params}
        unknown = [name for names in groups.values() for name in names if name not in known]
        assert not unknown, f"options that do not exist: {unknown}"
        self._groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        records = {
            param.name: record
            for param in self.get_params(ctx)
            if (record := param.get_help_record(ctx)) is not None
        }
        for heading, names in self._groups.items():
            with formatter.section(heading):
                formatter.write_dl([records.pop(name) for name in names])
        with formatter.section("Options"):
            formatter.write_dl(list(records.values()))
