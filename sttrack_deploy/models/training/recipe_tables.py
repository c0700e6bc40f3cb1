"""Frozen dataclasses from the tables of a recipe, keys and types checked."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from sttrack_deploy.errors import UserError

__all__ = ["fill"]

T = TypeVar("T")


def fill(kind: type[T], values: Any, where: str) -> T:
    """A dataclass from a table; the annotations of its fields say what each value must be.

    Args:
        values: as TOML or :mod:`json` has it; what is not there has its default. Values that are made already are
            taken as they are.
        where: file and table, for the errors.

    Raises:
        UserError: not a table, a key is unknown, or a value is not possible.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a table, not {values!r}")
    types_of = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{where} has unknown keys {unknown}; known keys are {sorted(known)}")
    parts = {}
    for name, value in values.items():
        annotation = types_of[name]
        if dataclasses.is_dataclass(annotation) and not isinstance(value, annotation):  # type: ignore[arg-type]
            parts[name] = fill(annotation, value, f"{where} {name}")  # type: ignore[arg-type]
            continue
        try:
            parts[name] = _converted(value, annotation, name)
        except UserError as error:
            raise type(error)(f"{where}: {error}") from None
    try:
        return kind(**parts)
    except UserError as error:
        raise type(error)(f"{where}: {error}") from None


def _converted(value: Any, kind: Any, name: str) -> Any:
    """A value as the type of a field; types other than the ones here look after themselves."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _converted(value, option, name)
            except UserError:
                continue
        raise UserError(f"{name} cannot be {value!r}")
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{name} is one of {', '.join(map(str, arguments))}, not {value!r}")
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} must be a list, not {value!r}")
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(each) != len(value):
            raise UserError(f"{name} must be a list of {len(each)}, not {value!r}")
        return tuple(_converted(v, k, name) for v, k in zip(value, each, strict=True))
    elif origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be a table, not {value!r}")
        return {key: _converted(v, arguments[1], f"{name}.{key}") for key, v in value.items()}
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name} must be a number, not {value!r}")
        return float(value)
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{name} must be a whole number, not {value!r}")
    elif kind is bool and not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, not {value!r}")
    elif kind is str and not isinstance(value, str):
        raise UserError(f"{name} must be a text in quotes, not {value!r}")
    return value
