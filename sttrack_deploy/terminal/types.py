"""What an option's value may be: whole numbers, numbers and paths, each refused in one line."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import click

from sttrack_deploy.records import parse_integer

__all__ = ["FILE", "FOLDER", "MOST_FRAMES", "PATH", "THREADS", "Integer", "NamedPath", "Number"]

MOST_FRAMES = 10**9
"""Upper limit of options that count frames: no video is as long."""


def _range(least: float | None, most: float | None, above: bool) -> str:
    """In words, in the help and in errors; a limit that nobody reaches is not said."""
    assert least is not None
    assert most is not None
    low, high = f"{least:.15g}", f"{most:.15g}"
    if most >= MOST_FRAMES:
        return f"above {low}" if above else f"{low} or more"
    return f"above {low}, at most {high}" if above else f"{low} to {high}"


class Integer(click.IntRange):
    """A whole number within a range, in plain digits.

    Python also reads ``1_000``, other scripts' digits and spaces around them; in a command these are typing errors.
    """

    name = "N"

    def _describe_range(self) -> str:
        return _range(self.min, self.max, self.min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = parse_integer(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(f"{error}: write digits only, such as 1000.", param, ctx)
        return super().convert(number, param, ctx)


class Number(click.FloatRange):
    """A finite number within a range, in plain digits: NaN passes every comparison, and infinity is no setting."""

    name = "X"

    def _describe_range(self) -> str:
        return _range(self.min, self.max, self.min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        plain = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
        if isinstance(value, str) and re.fullmatch(plain, value) is None:
            self.fail(f"{value!r} is not a number: write it as 1000, 0.25 or 1e-3.", param, ctx)
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Threads(Integer):
    """A number of threads, cut to those that can be of use: a thousand on a few cores only wait for each other."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return min(super().convert(value, param, ctx), max(16, os.cpu_count() or 1))


class NamedPath(click.Path):
    """A path that has a name: an empty one would be the current folder, which nobody means."""

    def __init__(
        self,
        *,
        exists: bool = False,
        dir_okay: bool = True,
        file_okay: bool = True,
        allow_dash: bool = False,
    ) -> None:
        super().__init__(
            path_type=Path, exists=exists, dir_okay=dir_okay, file_okay=file_okay, allow_dash=allow_dash
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip() or "\0" in str(value):
            self.fail("the name is empty.", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except OSError as error:  # a name that is too long
            self.fail(f"{value!r}: {error.strerror}.", param, ctx)


FILE = NamedPath(dir_okay=False)
FOLDER = NamedPath(file_okay=False)
PATH = NamedPath()
THREADS = Threads(1, 1024)
