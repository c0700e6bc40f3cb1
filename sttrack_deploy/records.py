"""Frozen dataclasses from JSON and TOML: keys, types and ranges checked, with one line for what is wrong."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from sttrack_deploy.errors import UserError, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Matches",
    "PlainName",
    "Sha256",
    "Within",
    "fill",
    "parse_integer",
    "parse_json",
    "parse_number",
    "parse_toml",
    "read_text",
    "show",
]

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""A text file to read as a whole; what is longer is not one of ours."""


@dataclass(frozen=True, slots=True)
class Within:
    """The range of a number, in ``Annotated[float, Within(0, 1)]``.

    Attributes:
        low, high: both belong to the range, except ``low`` where ``open_low`` says so.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.open_low else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        least = f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        if self.high == math.inf:
            return least
        return (
            f"{least} and at most {self.high:g}" if self.open_low else f"from {self.low:g} to {self.high:g}"
        )


@dataclass(frozen=True, slots=True)
class Matches:
    """The form of a text: it matches ``pattern`` as a whole, and ``form`` says so in words."""

    pattern: str
    form: str

    def holds(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.form


PlainName = Annotated[
    str,
    Matches(
        r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}",
        "a plain name: at most 100 of A-Z a-z 0-9 . _ -, not beginning with . or -",
    ),
]
"""A name that is safe as a file or folder name, in a table and in a command line."""

Sha256 = Annotated[str, Matches(r"[0-9a-f]{64}", "a SHA-256 of 64 hex digits")]


class _Shortened(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 6
        self.maxstring = self.maxother = self.maxlong = 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out integers of thousands of digits.
        return super().repr_int(x, level) if abs(x) < 10**60 else f"a number of {x.bit_length()} bits"


def show(value: object) -> str:
    """A value for an error message: ``repr``, cut to about 200 characters whatever it is."""
    text = _Shortened().repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def parse_integer(text: str) -> int:
    """A whole number in plain digits, as it stands in a command line.

    Raises:
        ValueError: it is none. Python also reads underscores, other scripts' digits and spaces; here they are none.
    """
    if re.fullmatch(r"[+-]?[0-9]{1,100}", text) is None:
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text)


def parse_number(text: str) -> float:
    """A number as it stands in a text file or a command line.

    Raises:
        ValueError: it is none. Python's own digits with underscores (``2_4``) and other scripts' digits are none
            either: in a file they are a damaged line.
    """
    if "_" in text or not text.isascii():
        raise ValueError(f"{text[:40]!r} is not a number")
    return float(text)


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file.

    Args:
        what: what it should be, for the errors: ``"the recipe"``.

    Raises:
        UserError: it cannot be read, is not text, or is longer than any such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {what} {path}: {reason}") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"cannot read {what} {path}: it is longer than {MOST_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {what} {path}: it is not UTF-8 text ({error.reason})") from error


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: no NaN, no infinity, no key twice, of which only one would count.

    Raises:
        UserError: it is not JSON; ``where`` names the file.
    """

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a JSON number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {show(next(n for n in names if names.count(n) > 1))} stands twice")
        return made

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({_reason(error)})") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """TOML.

    Raises:
        UserError: it is not TOML; ``where`` names the file.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a TOML file: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else one_line(error, 200)


def fill(kind: type[T], values: Any, where: str) -> T:
    """A dataclass from a table; the annotations of its fields say what each value must be.

    Annotations are plain types, ``X | None``, ``Literal``, ``tuple``, ``list``, ``Mapping[str, X]``, dataclasses, and
    any of these ``Annotated`` with :class:`Within` or :class:`Matches`.

    Args:
        values: as TOML or :mod:`json` has it; what is not there has its default. Dataclasses that are made already
            are taken as they are.
        where: file and table, for the errors.

    Raises:
        UserError: not a table, a key is unknown or missing, or a value is not possible.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a table, not {show(values)}")
    types_of, required = _fields_of(kind)  # type: ignore[arg-type]
    known = list(types_of)
    unknown = sorted(str(key) for key in values if key not in types_of)
    if unknown:
        raise UserError(f"{where} has unknown keys {show(unknown)}; known keys are {sorted(known)}")
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    parts = {}
    for name, value in values.items():
        annotation = types_of[name]
        if dataclasses.is_dataclass(annotation):
            made = isinstance(value, annotation)  # type: ignore[arg-type]
            parts[name] = value if made else fill(annotation, value, f"{where} {name}")  # type: ignore[arg-type]
            continue
        try:
            parts[name] = _converted(value, annotation, name)
        except UserError as error:
            raise type(error)(f"{where}: {error}") from None
    try:
        return kind(**parts)
    except UserError as error:
        raise type(error)(f"{where}: {error}") from None


def check(record: object) -> None:
    """Hold the fields of a dataclass that was made in code against their annotations; for ``__post_init__``.

    Raises:
        UserError: a value is not possible.
    """
    for name, annotation in _fields_of(type(record))[0].items():  # type: ignore[arg-type]
        _converted(getattr(record, name), annotation, name)


@functools.cache
def _fields_of(kind: type[Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields' types by name, and the names of those without a default."""
    types_of = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    required = tuple(f.name for f in fields if f.default is missing and f.default_factory is missing)
    return {f.name: types_of[f.name] for f in fields}, required


def _converted(value: Any, kind: Any, name: str) -> Any:
    """A value as the type of a field; types other than the ones here look after themselves."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        made = _converted(value, arguments[0], name)
        for rule in arguments[1:]:
            if isinstance(rule, Within | Matches) and not rule.holds(made):
                raise UserError(f"{name} is {rule}, not {show(value)}")
        return made
    if origin in (typing.Union, types.UnionType):
        problems = []
        for option in arguments:
            try:
                return _converted(value, option, name)
            except UserError as error:
                problems.append(str(error))
        raise UserError(problems[0] if problems else f"{name} cannot be {show(value)}")
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else fill(kind, value, name)  # type: ignore[arg-type]
    if origin is Literal:
        # 1 and True are equal, and only one of them may be meant.
        if not any(type(value) is type(one) and value == one for one in arguments):
            raise UserError(f"{name} is one of {', '.join(map(str, arguments))}, not {show(value)}")
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} must be a list, not {show(value)}")
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(each) != len(value):
            raise UserError(f"{name} must be a list of {len(each)}, not {show(value)}")
        return tuple(_converted(v, k, name) for v, k in zip(value, each, strict=True))
    elif origin is list:
        if not isinstance(value, list):
            raise UserError(f"{name} must be a list, not {show(value)}")
        return [_converted(item, arguments[0], name) for item in value]
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be a table, not {show(value)}")
        if keys := [key for key in value if not isinstance(key, str)]:
            raise UserError(f"{name} has the key {show(keys[0])}, which is not a text")
        places = {key: f"{name}.{key if key.isprintable() else show(key)}" for key in value}
        return {key: _converted(v, arguments[1], places[key]) for key, v in value.items()}
    elif kind is float:
        return _number(value, name)
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{name} must be a whole number, not {show(value)}")
        if abs(value) >= 1 << 63:
            raise UserError(f"{name} must be a whole number of at most 64 bits, not {show(value)}")
    elif kind is bool and not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, not {show(value)}")
    elif kind is str and not isinstance(value, str):
        raise UserError(f"{name} must be a text in quotes, not {show(value)}")
    elif kind is types.NoneType and value is not None:
        raise UserError(f"{name} must be null, not {show(value)}")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise UserError(f"{name} must be a number, not {show(value)}")
