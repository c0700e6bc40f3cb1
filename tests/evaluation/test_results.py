from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from moving_square import truth_of

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL
from sttrack_deploy.evaluation.results import (
    LAYOUTS,
    Layout,
    ResultFolder,
    as_written,
    find_results,
    read_boxes,
    read_run,
)
from sttrack_deploy.evaluation.scores import score_run
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

IDENTITY = {"search_sha256": "abc", "engine": "red"}


def sequence_of(name: str = "a", frames: int = 6) -> VideoSequence:
    return VideoSequence(name, Path("nowhere") / name, truth_of(frames))


def run_of(sequence: VideoSequence, shift: float = 1 / 3) -> TrackRun:
    n = len(sequence)
    boxes = sequence.truth + shift
    boxes[0] = sequence.truth[0]
    lost = np.arange(n) % 4 == 3
    return TrackRun(sequence.name, boxes, np.linspace(1, 0.1, n), lost, np.full(n, 0.01), wall=1.5)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_what_is_written_is_read_back_and_scores_the_same(layout: Layout, tmp_path: Path) -> None:
    sequence = sequence_of()
    run = run_of(sequence)
    ResultFolder(tmp_path, layout, IDENTITY).write(run, sequence)
    again = read_run(tmp_path, layout, sequence)
    expected = as_written(run, layout)
    np.testing.assert_array_equal(again.boxes, expected.boxes)
    assert again.confidences is not None
    assert run.confidences is not None
    np.testing.assert_array_equal(again.confidences.astype(np.float32), run.confidences.astype(np.float32))
    np.testing.assert_array_equal(again.lost, run.lost)
    assert again.wall == 1.5
    if layout.times is None:
        assert again.times is None
    else:
        assert again.times is not None
        assert run.times is not None
        np.testing.assert_allclose(again.times, run.times)
    here, there = (score_run(r, sequence, [DEFAULT_PROTOCOL]) for r in (expected, again))
    assert here.scores == there.scores


@pytest.mark.parametrize(
    ("name", "files", "first_line"),
    [
        ("pytracking", {"a.txt", "a_time.txt"}, "20.00\t40.00\t24.00\t24.00"),
        ("got10k", {"a/a_001.txt", "a/a_time.txt"}, "20.000,40.000,24.000,24.000"),
        ("otb", {"a.txt", "times/a_time.txt"}, "20.000,40.000,24.000,24.000"),
        ("trackingnet", {"a.txt"}, "20.00,40.00,24.00,24.00"),
    ],
)
def test_layouts_are_the_published_ones(name: str, files: set[str], first_line: str, tmp_path: Path) -> None:
    layout, sequence = LAYOUTS[name], sequence_of()
    ResultFolder(tmp_path, layout, IDENTITY).write(run_of(sequence), sequence)
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files <= written
    # Ours beside them, under names that no toolkit takes for a sequence's boxes.
    assert {Path(f).name for f in written - files} == {
        f"{layout.boxes_path(tmp_path, sequence).stem}{end}" for end in ("_confidence.txt", "_run.json")
    }
    assert layout.boxes_path(tmp_path, sequence).read_text().splitlines()[0] == first_line


def test_a_toolkit_s_own_name_for_a_sequence(tmp_path: Path) -> None:
    sequence = dataclasses.replace(
        sequence_of("Jogging-1"), filed_as={"pytracking": "Jogging_1", "otb": "Jogging.1"}
    )
    for layout, file in (
        ("pytracking", "Jogging_1.txt"),
        ("otb", "Jogging.1.txt"),
        ("trackingnet", "Jogging-1.txt"),
    ):
        folder = ResultFolder(tmp_path / layout, LAYOUTS[layout], IDENTITY)
        folder.write(run_of(sequence), sequence)
        assert (tmp_path / layout / file).is_file()
        assert folder.finished(sequence) is not None


def test_run_folders() -> None:
    root = Path("r")
    assert LAYOUTS["pytracking"].run_folder(root, "t", "p", "lasot") == root / "t" / "p" / "lasot"
    assert LAYOUTS["got10k"].run_folder(root, "t", "p", "got10k_val") == root / "t-p"


@given(arrays(np.float64, (4, 4), elements=st.floats(-1e4, 1e4)))
def test_writing_twice_changes_nothing(boxes: npt.NDArray[np.float64]) -> None:
    layout = LAYOUTS["pytracking"]
    once = as_written(TrackRun("a", boxes), layout)
    np.testing.assert_array_equal(as_written(once, layout).boxes, once.boxes)
    assert np.abs(once.boxes - boxes).max() <= 0.005 + 1e-9


@given(arrays(np.float64, (3, 4), elements=st.floats(0, 1e4)))
def test_integer_boxes_are_truncated(boxes: npt.NDArray[np.float64]) -> None:
    layout = dataclasses.replace(LAYOUTS["pytracking"], decimals=0)
    np.testing.assert_array_equal(as_written(TrackRun("a", boxes), layout).boxes, np.floor(boxes))


class TestResuming:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> ResultFolder:
        folder = ResultFolder(tmp_path, LAYOUTS["pytracking"], IDENTITY)
        folder.write(run_of(sequence_of()), sequence_of())
        return folder

    def test_a_finished_sequence_is_known_again(self, folder: ResultFolder) -> None:
        run = folder.finished(sequence_of())
        assert run is not None
        np.testing.assert_array_equal(run.boxes, as_written(run_of(sequence_of()), folder.layout).boxes)

    def test_another_bundle_runs_again(self, folder: ResultFolder) -> None:
        other = dataclasses.replace(folder, identity={**IDENTITY, "search_sha256": "def"})
        assert other.finished(sequence_of()) is None

    def test_another_first_box_or_length_runs_again(self, folder: ResultFolder) -> None:
        moved = dataclasses.replace(sequence_of(), truth=sequence_of().truth + 1)
        assert folder.finished(moved) is None
        assert folder.finished(sequence_of(frames=7)) is None

    def test_other_decimals_run_again(self, folder: ResultFolder) -> None:
        layout = dataclasses.replace(folder.layout, decimals=0)
        assert dataclasses.replace(folder, layout=layout).finished(sequence_of()) is None

    @pytest.mark.parametrize("damage", ["boxes", "record", "no record", "confidence", "no confidence"])
    def test_damaged_files_run_again(self, folder: ResultFolder, damage: str) -> None:
        boxes, record = folder.folder / "a.txt", folder.folder / "a_run.json"
        confidence = folder.folder / "a_confidence.txt"
        if damage == "boxes":
            boxes.write_text(boxes.read_text().replace("20.00", "21.00"))
        elif damage == "confidence":
            confidence.write_text(confidence.read_text().replace("0.1", "0.2"))
        elif damage == "no confidence":
            confidence.unlink()
        elif damage == "record":
            record.write_text(record.read_text()[:-20])
        else:
            record.unlink()
        assert folder.finished(sequence_of()) is None

    def test_an_interrupted_rewrite_does_not_pass_for_finished(
        self, folder: ResultFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The old record must not vouch for new boxes."""
        monkeypatch.setattr("sttrack_deploy.evaluation.results.json.dumps", _killed)
        with pytest.raises(KeyboardInterrupt):
            folder.write(run_of(sequence_of(), shift=2.0), sequence_of())
        monkeypatch.undo()
        assert folder.finished(sequence_of()) is None

    def test_the_record_says_what_made_it(self, folder: ResultFolder) -> None:
        record = json.loads((folder.folder / "a_run.json").read_text())
        assert record["identity"] == IDENTITY
        assert record["lost_frames"] == [3]


def _killed(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


class TestReading:
    @pytest.mark.parametrize("delimiter", [",", "\t", " ", ", "])
    def test_commas_tabs_and_spaces(self, delimiter: str, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(delimiter.join(["1", "2.5", "3e1", "4"]) + "\n")
        np.testing.assert_array_equal(read_boxes(tmp_path / "a.txt"), [[1, 2.5, 30, 4]])

    @pytest.mark.parametrize("line", ["1,2,3", "1,2,3,4,5", "1,2,x,4", ""])
    def test_a_malformed_line_is_named(self, line: str, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(f"1,2,3,4\n{line}\n1,2,3,4\n")
        with pytest.raises(UserError, match="line 2 is not four numbers"):
            read_boxes(tmp_path / "a.txt")

    def test_too_few_boxes(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("1,2,3,4\n")
        with pytest.raises(UserError, match="has 1 boxes, but a has 6 frames"):
            read_run(tmp_path, LAYOUTS["pytracking"], sequence_of())

    def test_too_many_boxes_are_cut_as_pytracking_does_and_said(self, tmp_path: Path) -> None:
        np.savetxt(tmp_path / "a.txt", truth_of(9), delimiter="\t", fmt="%d")
        np.savetxt(tmp_path / "a_time.txt", np.arange(9.0))
        with pytest.raises(UserError, match="has 9 boxes, but a has 6 frames"):
            read_run(tmp_path, LAYOUTS["pytracking"], sequence_of())
        notes: list[str] = []
        run = read_run(tmp_path, LAYOUTS["pytracking"], sequence_of(), notes.append)
        np.testing.assert_array_equal(run.boxes, truth_of(9)[:6])
        np.testing.assert_array_equal(run.times, np.arange(6.0))
        assert len(notes) == 1
        assert "9 boxes, a has 6 frames: the last 3 are left out" in notes[0]

    @pytest.mark.parametrize(
        "record",
        [
            {"lost_frames": [[1, 2], [3]]},
            {"lost_frames": [None, "x", 1.5]},
            {"lost_frames": {"a": 1}, "wall_seconds": [1]},
            {"lost_frames": [10**30, -4], "wall_seconds": 10**400},
            {"wall_seconds": True},
            [1, [2]],
            "[" * 100_000,
            "1" * 5000,
        ],
    )
    def test_a_ragged_record_says_nothing(self, record: object, tmp_path: Path) -> None:
        np.savetxt(tmp_path / "a.txt", truth_of(6))
        (tmp_path / "a_run.json").write_text(record if isinstance(record, str) else json.dumps(record))
        run = read_run(tmp_path, LAYOUTS["pytracking"], sequence_of())
        assert run.lost is None or not run.lost.any()
        assert np.isnan(run.wall)

    def test_boxes_alone_are_enough(self, tmp_path: Path) -> None:
        np.savetxt(tmp_path / "a.txt", truth_of(6), delimiter="\t", fmt="%d")
        run = read_run(tmp_path, LAYOUTS["pytracking"], sequence_of())
        assert run.confidences is None
        assert run.lost is None
        assert run.times is None
        assert np.isnan(run.fps)

    @pytest.mark.parametrize("file", ["uav_a", "a"])
    def test_names_of_the_toolkit_and_of_the_data_set(self, file: str, tmp_path: Path) -> None:
        sequence = dataclasses.replace(sequence_of(), filed_as={"pytracking": "uav_a"})
        np.savetxt(tmp_path / f"{file}.txt", truth_of(6))
        assert list(find_results(tmp_path, [sequence], "uav123")) == [tmp_path.name]
        assert read_run(tmp_path, LAYOUTS["pytracking"], sequence).name == "a"

    def test_times_that_do_not_fit_are_not_taken(self, tmp_path: Path) -> None:
        np.savetxt(tmp_path / "a.txt", truth_of(6))
        (tmp_path / "a_time.txt").write_text("0.1\n0.2\n")
        assert read_run(tmp_path, LAYOUTS["pytracking"], sequence_of()).times is None


class TestFinding:
    def put(self, folder: Path, file: str = "a.txt") -> None:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1,2,3,4\n")

    def test_one_run_by_its_own_folder(self, tmp_path: Path) -> None:
        self.put(tmp_path / "KCF")
        found = find_results(tmp_path / "KCF", [sequence_of()], "otb100")
        assert {label: (folder.name, layout.name) for label, (folder, layout) in found.items()} == {
            "KCF": ("KCF", "pytracking")
        }

    def test_the_data_set_is_no_part_of_a_label(self, tmp_path: Path) -> None:
        self.put(tmp_path / "stark" / "baseline" / "lasot")
        self.put(tmp_path / "stark" / "baseline" / "uav123", "other.txt")
        self.put(tmp_path / "kcf" / "lasot")
        assert sorted(find_results(tmp_path, [sequence_of()], "lasot")) == ["kcf", "stark/baseline"]
        assert list(find_results(tmp_path / "kcf" / "lasot", [sequence_of()], "lasot")) == ["kcf"]

    def test_layouts_are_told_apart(self, tmp_path: Path) -> None:
        self.put(tmp_path / "x", "a/a_001.txt")
        self.put(tmp_path / "y", "a.txt")
        self.put(tmp_path / "y", "times/a_time.txt")
        found = find_results(tmp_path, [sequence_of()], "otb100")
        assert {label: layout.name for label, (_, layout) in found.items()} == {"x": "got10k", "y": "otb"}

    def test_nothing_there_says_what_was_looked_for(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"holds no results for lasot: no a.txt \(or a/a_001.txt\)"):
            find_results(tmp_path, [sequence_of()], "lasot")
        with pytest.raises(UserError, match="does not exist"):
            find_results(tmp_path / "none", [sequence_of()], "lasot")
