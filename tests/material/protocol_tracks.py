"""Tracks for the protocols' tests: by hand and at random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st

from sttrack_deploy.evaluation.protocols import PROTOCOLS
from sttrack_deploy.evaluation.protocols.base import Measured
from sttrack_deploy.sequences.sequence import VideoSequence

Track = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Prediction and truth."""

NAN = [math.nan] * 4
BOX = [1.0, 1.0, 10.0, 10.0]
APART = [501.0, 501.0, 10.0, 10.0]
SIZE = (1920, 1080)

few = settings(max_examples=30, deadline=None)
"""For tests that run for each protocol."""
some = settings(max_examples=60, deadline=None)


def sequence(truth: npt.ArrayLike, dataset: str = "folder", **flags: npt.ArrayLike) -> VideoSequence:
    arrays = {name: np.array(values, bool) for name, values in flags.items()}
    absent, occluded = arrays.pop("absent", None), arrays.pop("occluded", None)
    assert not arrays, f"there are no flags {list(arrays)}"
    return VideoSequence(
        "s", Path("s"), np.array(truth, float), dataset=dataset, absent=absent, occluded=occluded
    )


def measure(
    protocol: str,
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    dataset: str = "folder",
    size: tuple[int, int] | None = SIZE,
    **flags: npt.ArrayLike,
) -> Measured:
    return PROTOCOLS[protocol].measure(np.array(prediction, float), sequence(truth, dataset, **flags), size)


def score(
    protocol: str,
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    dataset: str = "folder",
    size: tuple[int, int] | None = SIZE,
    **flags: npt.ArrayLike,
) -> Mapping[str, float]:
    return PROTOCOLS[protocol].score(measure(protocol, prediction, truth, dataset, size, **flags))


def _track(box: st.SearchStrategy[tuple[float, float, float, float]]) -> st.SearchStrategy[Track]:
    pairs = st.lists(st.tuples(box, box), min_size=1, max_size=12)
    return pairs.map(lambda rows: (np.array([p for p, _ in rows]), np.array([t for _, t in rows])))


# Quarters, so that moving and scaling by powers of two is exact and no threshold is crossed by rounding.
quarters = st.integers(-400, 400).map(lambda n: n / 4)
sides = st.integers(1, 400).map(lambda n: n / 4)
tracks = _track(st.tuples(quarters, quarters, sides, sides))
"""Predictions and truth, (N, 4) each; the truth can lie left of the image or above it."""

inside = st.integers(1, 400).map(lambda n: n / 4)
inner_tracks = _track(st.tuples(inside, inside, sides, sides))
"""The same right of and below the image's corner, where all protocols count the truth."""

whole = st.integers(1, 100).map(float)
whole_tracks = _track(st.tuples(whole, whole, whole, whole))
"""The same in whole pixels."""

fractions = st.floats(1, 1e4)
perfect_truth = st.lists(st.tuples(fractions, fractions, fractions, fractions), min_size=2).map(np.array)
