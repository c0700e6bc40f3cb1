"""Differences of tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sttrack_deploy.verification.parity.tensor_errors import TensorErrors, relative_error


def test_errors_are_gathered_over_frames() -> None:
    errors = TensorErrors()
    errors.add("x", np.array([1.0, 2.5], np.float32), np.array([1.0, 2.0], np.float32))
    errors.add("x", np.array([-4.0, 0.0], np.float32), np.array([-4.0, 0.25], np.float32))
    errors.add("y", np.array([True, False]), np.array([True, True]))
    x, y = errors.table()
    assert (x.name, x.largest, x.mean, x.relative, x.values) == ("x", 0.5, 0.1875, 0.125, 4)
    assert x.cosine == pytest.approx((1 + 5 + 16) / math.sqrt((1 + 6.25 + 16) * (1 + 4 + 16 + 0.0625)))
    assert (y.largest, y.mean) == (1.0, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [np.array([1.0, np.nan], np.float32), np.array([1.0], np.float32), np.array([np.inf, 2.0], np.float32)],
)
def test_what_cannot_be_compared_is_infinitely_wrong(wrong: np.ndarray) -> None:
    assert relative_error(wrong, np.array([1.0, 2.0], np.float32)) == math.inf


def test_zeros() -> None:
    zeros = np.zeros(3)
    assert relative_error(zeros, zeros) == 0.0
    assert relative_error(zeros + 1e-9, zeros) == math.inf
