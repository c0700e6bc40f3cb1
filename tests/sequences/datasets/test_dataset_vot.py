from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from miniatures import boxes, flags_of, level, write_images, write_text

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.vot import read_vot, region_box
from sttrack_deploy.sequences.sequence import frames_of


def encode(mask: np.ndarray, left: int = 0, top: int = 0) -> str:
    """A mask line as VOT has it: the window, then runs of zeros and ones row by row."""
    runs, value = [0], 0
    for pixel in mask.ravel().astype(int):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return "m" + ",".join(map(str, (left, top, mask.shape[1], mask.shape[0], *runs)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_text(tmp_path / "list.txt", "ants1\n")
    write_images(tmp_path / "ants1" / "color", "%08d.jpg", range(1, 4))
    write_text(tmp_path / "ants1" / "sequence", "channels.color=color/%08d.jpg\nfps=30\nname=ants1\n")
    write_text(tmp_path / "ants1" / "groundtruth.txt", boxes(3))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("1.5,2,3,4", (1.5, 2, 3, 4)),
        ("10,20,30,20,30,25,10,25", (10, 20, 20, 5)),
        ("5,0,10,5,5,10,0,5", (0, 0, 10, 10)),  # a rotated square
        ("0,0,4,0,2,3", (0, 0, 4, 3)),
        ("m10,20,4,3,5,2,2,2", (11, 21, 2, 2)),
        ("m10,20,2,2,0,4", (10, 20, 2, 2)),
        ("m10,20,3,2,4", None),  # nothing is set
        ("m0,0,0,0,0", None),
        ("0", None),
        ("nan,nan,nan,nan", None),
        ("nan,nan", None),
    ],
)
def test_regions(line: str, box: tuple[float, float, float, float] | None) -> None:
    found = region_box(line, "here")
    assert all(map(math.isnan, found)) if box is None else found == box


@given(
    arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))),
    st.integers(-3, 50),
    st.integers(-3, 50),
)
def test_a_mask_gives_the_box_of_its_pixels(mask: npt.NDArray[np.bool_], left: int, top: int) -> None:
    found = region_box(encode(mask, left, top), "here")
    if not mask.any():
        assert all(map(math.isnan, found))
        return
    x, y, w, h = (int(value) for value in found)
    inside = np.zeros_like(mask)
    inside[y - top : y - top + h, x - left : x - left + w] = True
    assert not (mask & ~inside).any()
    ys, xs = np.nonzero(mask)
    assert [w, h] == [int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2 is not a region"),
        ("1,2,x,4", "line 2 is not a region"),
        ("1,2,inf,4", "line 2 must be finite"),
        ("1,2", "line 2 has 2 numbers"),
        ("1,2,3,4,5,6,7", "line 2 has 7 numbers"),
        ("m1,2,3", "line 2 is not a mask"),
        ("m1,2,a,4,5", "line 2 is not a mask"),
        ("m1,2,3,4,13", "runs are 13 pixels long, but its window is 3 by 4"),
        ("m1,2,-3,4,1", "window is -3 by 4"),
    ],
)
def test_malformed_regions(root: Path, line: str, message: str) -> None:
    (root / "ants1" / "groundtruth.txt").write_text(f"1,2,3,4\n{line}\n1,2,3,4\n")
    with pytest.raises(
        UserError, match=rf"groundtruth\.txt, {message}|groundtruth\.txt, line 2: .*{message}"
    ):
        read_vot(root)


def test_a_sequence(root: Path) -> None:
    (sequence,) = read_vot(root)
    assert (sequence.name, sequence.dataset, sequence.scorable) == ("ants1", "vot", True)
    assert sequence.source == root / "ants1" / "color"
    np.testing.assert_array_equal(sequence.truth[2], [3, 2, 3, 4])
    assert (sequence.absent, sequence.occluded, sequence.attributes) == (None, None, ())
    assert [level(frame) for frame in frames_of(sequence)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("properties", "folder", "pattern"),
    [
        ("channels.color=color/%08d.png\n", "color", "%08d.png"),
        ("channels.color=color\\%06d.jpg\n", "color", "%06d.jpg"),
        ("channels.color = rgb/\n", "rgb", "%08d.jpg"),
        ("fps=25\n", "color", "%08d.jpg"),
        (None, "color", "%08d.jpg"),
        (None, ".", "%08d.jpg"),
    ],
)
def test_where_images_are(tmp_path: Path, properties: str | None, folder: str, pattern: str) -> None:
    write_text(tmp_path / "list.txt", "bag\n\n")
    write_images(tmp_path / "bag" / folder, pattern, range(1, 3))
    write_text(tmp_path / "bag" / "groundtruth.txt", "1,2,5,2,5,6,1,6\n1,2,5,2,5,6,1,6\n")
    if properties is not None:
        write_text(tmp_path / "bag" / "sequence", properties)
    (sequence,) = read_vot(tmp_path)
    np.testing.assert_array_equal(sequence.truth, [[1, 2, 4, 4]] * 2)
    assert [level(frame) for frame in frames_of(sequence)] == [1, 2]


def test_an_impossible_pattern(root: Path) -> None:
    (root / "ants1" / "sequence").write_text("channels.color=color/frame.jpg\n")
    with pytest.raises(
        UserError, match=r"channels\.color must have one number like %08d in its name: 'color/frame"
    ):
        read_vot(root)


def test_tags(root: Path) -> None:
    for tag, flags in {
        "full-occlusion.tag": "0\n1\n0\n",
        "out-of-frame.tag": "0\n0\n1\n",
        "occlusion.label": "1\n1\n1\n",
        "camera_motion.tag": "1\n",
        "size-change.tag": "0\n0\n0\n",
    }.items():
        write_text(root / "ants1" / tag, flags)
    (sequence,) = read_vot(root)
    assert flags_of(sequence.occluded) == [False, True, False]
    assert flags_of(sequence.absent) == [False, False, True]
    assert sequence.attributes == ("camera_motion", "full-occlusion", "occlusion", "out-of-frame")


def test_partial_occlusion_is_not_occluded(root: Path) -> None:
    write_text(root / "ants1" / "occlusion.tag", "0\n1\n1\n")
    (sequence,) = read_vot(root)
    assert sequence.occluded is None
    assert sequence.attributes == ("occlusion",)


def test_annotations_that_end_early(root: Path) -> None:
    (root / "ants1" / "groundtruth.txt").write_text("m1,2,3,4,0,12\n")
    (sequence,) = read_vot(root)
    np.testing.assert_array_equal(sequence.truth[0], [1, 2, 3, 4])
    assert np.isnan(sequence.truth[1:]).all()
    assert len(sequence) == 3
    assert not sequence.scorable


def test_missing_and_mismatched(root: Path) -> None:
    write_text(root / "ants1" / "occlusion.tag", "0\n0\n0\n0\n")
    with pytest.raises(UserError, match=r"occlusion\.tag has 4 flags, but its sequence has 3 frames"):
        read_vot(root)
    (root / "ants1" / "occlusion.tag").unlink()
    (root / "ants1" / "groundtruth.txt").write_text(boxes(4))
    with pytest.raises(
        UserError, match=r"VOT at .* lacks 1 of 1 sequences: ants1 \(no ants1.color.00000004\.jpg\)"
    ):
        read_vot(root)
    (root / "ants1" / "groundtruth.txt").write_text("0\n1,2,3,4\n1,2,3,4\n")
    with pytest.raises(
        UserError, match=r"groundtruth\.txt, line 1: tracking starts on this box, but it is '0'"
    ):
        read_vot(root)
    (root / "list.txt").write_text("ants1\nbag\n")
    (root / "ants1" / "groundtruth.txt").write_text(boxes(3))
    with pytest.raises(UserError, match=r"lacks 1 of 2 sequences: bag \(no bag\); extract them"):
        read_vot(root)
    assert [s.name for s in read_vot(root, partial=True)] == ["ants1"]
    (root / "list.txt").unlink()
    with pytest.raises(UserError, match=r"VOT: there is no .*list\.txt; give a folder with list\.txt and"):
        read_vot(root)
