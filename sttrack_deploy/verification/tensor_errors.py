"""How far a tensor is from the reference's, gathered over many frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TensorError", "TensorErrors", "relative_error"]


@dataclass(frozen=True, slots=True)
class TensorError:
    """One tensor over all frames.

    Attributes:
        name: ``<graph> <output>``.
        largest: greatest absolute difference; infinite where one is not a number or a shape differs.
        mean: mean absolute difference.
        relative: ``largest`` over the reference's greatest magnitude.
        cosine: of the two tensors, all frames in one vector; NaN where one is zero everywhere.
        values: how many numbers were compared.
    """

    name: str
    largest: float
    mean: float
    relative: float
    cosine: float
    values: int


@dataclass(slots=True)
class _Sums:
    largest: float = 0.0
    absolute: float = 0.0
    magnitude: float = 0.0
    product: float = 0.0
    square: float = 0.0
    square_reference: float = 0.0
    values: int = 0


class TensorErrors:
    """Add pairs, then ask for :meth:`table`; the order is that of the first ``add`` of each name."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def add(self, name: str, value: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Compare one frame's tensor; any dtype, booleans count as 0 and 1."""
        sums = self._sums.setdefault(name, _Sums())
        a, b = (np.asarray(array, np.float64).ravel() for array in (value, reference))
        if value.shape != reference.shape or not np.isfinite(a).all():
            sums.largest = math.inf
            return
        difference = np.abs(a - b)
        sums.largest = max(sums.largest, float(difference.max(initial=0.0)))
        sums.absolute += float(difference.sum())
        sums.magnitude = max(sums.magnitude, float(np.abs(b).max(initial=0.0)))
        sums.product += float(a @ b)
        sums.square += float(a @ a)
        sums.square_reference += float(b @ b)
        sums.values += a.size

    def table(self) -> list[TensorError]:
        """One row a tensor."""
        return [
            TensorError(
                name=name,
                largest=s.largest,
                mean=s.absolute / s.values if s.values else math.nan,
                relative=_ratio(s.largest, s.magnitude),
                cosine=_cosine(s),
                values=s.values,
            )
            for name, s in self._sums.items()
        ]


def relative_error(value: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Greatest absolute difference over the reference's greatest magnitude; infinite for other shapes or NaN."""
    errors = TensorErrors()
    errors.add("", value, reference)
    return errors.table()[0].relative


def _ratio(largest: float, magnitude: float) -> float:
    if largest == 0.0:
        return 0.0
    return largest / magnitude if magnitude else math.inf


def _cosine(sums: _Sums) -> float:
    norm = math.sqrt(sums.square) * math.sqrt(sums.square_reference)
    return sums.product / norm if norm else math.nan
