from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import boxes

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.base import parse_box, read_boxes, read_flags, spread_start

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(
    st.lists(numbers, min_size=4, max_size=4),
    st.sampled_from([",", "\t", " ", ", ", " ,\t"]),
    st.sampled_from(["", " ", "\t", "\r"]),
)
def test_a_box_comes_back_from_any_delimiter(values: list[float], delimiter: str, end: str) -> None:
    assert parse_box(delimiter.join(map(repr, values)) + end, "here") == values


@given(st.text(max_size=30))
def test_a_line_is_a_box_or_a_named_mistake(line: str) -> None:
    try:
        box, mistake = parse_box(line, "a.txt, line 7"), ""
    except UserError as error:
        box, mistake = [], str(error)
    if box:
        assert len(box) == 4
        assert all(map(math.isfinite, box)) or all(map(math.isnan, box))
    else:
        assert mistake.startswith("a.txt, line 7 ")


def test_absent_in_either_case() -> None:
    assert all(map(math.isnan, parse_box("NaN,NaN,NaN,NaN", "here")))


def test_boxes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1,2,3,4\n1\t2\t3\t0\nnan nan nan nan\n\n")
    np.testing.assert_array_equal(read_boxes(path), [[1, 2, 3, 4], [1, 2, 3, 0], [math.nan] * 4])
    assert read_boxes(path, frames=3).dtype == np.float64
    with pytest.raises(UserError, match=r"a\.txt has 3 lines, but its sequence has 4 frames"):
        read_boxes(path, frames=4)


def test_the_first_frame_kept_is_where_tracking_starts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("0,0,0,0\n" + boxes(2))
    assert len(read_boxes(path, skip=1)) == 2
    with pytest.raises(UserError, match=r"a\.txt, line 1: tracking starts on this box, but it is '0,0,0,0'"):
        read_boxes(path)
    path.write_text("1,2,3,4\nnan,nan,nan,nan\n1,2,3,4\n")
    with pytest.raises(UserError, match=r"a\.txt, line 2: tracking starts on this box"):
        read_boxes(path, skip=1)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*a\.txt"):
        read_boxes(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read .*a\.txt"):
        read_boxes(tmp_path / "a.txt")


@given(
    flags=st.lists(st.integers(0, 8), min_size=1, max_size=20), separator=st.sampled_from([",", "\n", ", "])
)
def test_flags_in_one_line_or_one_a_line(
    tmp_path_factory: pytest.TempPathFactory, flags: list[int], separator: str
) -> None:
    path = tmp_path_factory.mktemp("flags") / "a.label"
    path.write_text(separator.join(map(str, flags)) + "\n")
    assert read_flags(path, len(flags)).tolist() == flags
    assert read_flags(path, len(flags) + 2, pad=True).tolist() == [*flags, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,0", "has 3 flags, but its sequence has 2 frames"),
        ("0", "has 1 flags, but its sequence has 2 frames"),
        ("0,x", "the flag of frame 2 is not a whole number: 'x'"),
        ("-1,0", "the flag of frame 1 is not a whole number"),
    ],
)
def test_malformed_flags(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.label").write_text(text)
    with pytest.raises(UserError, match=message):
        read_flags(tmp_path / "a.label", 2)


def test_where_only_the_first_box_is_published() -> None:
    truth, scorable = spread_start(np.array([[1.0, 2, 3, 4]]), 3, Path("a.txt"))
    np.testing.assert_array_equal(truth, [[1, 2, 3, 4], [math.nan] * 4, [math.nan] * 4])
    assert not scorable
    whole = np.ones((3, 4))
    truth, scorable = spread_start(whole, 3, Path("a.txt"))
    assert truth is whole
    assert scorable
    with pytest.raises(UserError, match=r"a\.txt has 2 lines, but its sequence has 3 frames"):
        spread_start(whole[:2], 3, Path("a.txt"))
