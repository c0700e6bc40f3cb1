from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from progress_log import ProgressLog

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.results import LAYOUTS, ResultFolder
from sttrack_deploy.evaluation.submission import FORMATS, pack
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

PYTRACKING = LAYOUTS["pytracking"]


def sequences_of(names: list[str], frames: int = 3) -> list[VideoSequence]:
    truth = np.full((frames, 4), np.nan)
    truth[0] = 10, 20, 30, 40
    return [VideoSequence(name, Path("x"), truth, scorable=False) for name in names]


@pytest.fixture
def got10k() -> Any:
    return sequences_of([f"GOT-10k_Test_{n:06}" for n in range(1, 181)])


def write(folder: Path, sequences: list[VideoSequence], times: bool = True) -> None:
    for n, sequence in enumerate(sequences):
        boxes = np.array([[10, 20, 30, 40]] * len(sequence)) + np.arange(len(sequence))[:, None] * (n + 0.5)
        taken = np.full(len(sequence), 0.25) if times else None
        ResultFolder(folder, PYTRACKING, {}).write(TrackRun(sequence.name, boxes, times=taken), sequence)


def test_got10k_archive(got10k: Any, tmp_path: Path) -> None:
    write(tmp_path / "r", got10k)
    log = ProgressLog()
    assert pack(tmp_path / "r", PYTRACKING, got10k, FORMATS["got10k"], tmp_path / "s.zip", log) == 360
    assert len(log.steps) == 180
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert "GOT-10k_Test_000180/GOT-10k_Test_000180_001.txt" in names
        assert "GOT-10k_Test_000180/GOT-10k_Test_000180_time.txt" in names
        boxes = archive.read("GOT-10k_Test_000002/GOT-10k_Test_000002_001.txt").decode().splitlines()
        assert boxes == [
            "10.000,20.000,30.000,40.000",
            "11.500,21.500,31.500,41.500",
            "13.000,23.000,33.000,43.000",
        ]


def test_trackingnet_archive_is_flat_and_has_no_times(tmp_path: Path) -> None:
    sequences = sequences_of([f"v{n}_0" for n in range(511)], frames=2)
    write(tmp_path / "r", sequences, times=False)
    assert pack(tmp_path / "r", PYTRACKING, sequences, FORMATS["trackingnet"], tmp_path / "s.zip") == 511
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert set(archive.namelist()) == {f"v{n}_0.txt" for n in range(511)}
        assert archive.read("v0_0.txt").decode().splitlines()[0] == "10.00,20.00,30.00,40.00"


def test_the_same_results_make_the_same_archive(got10k: Any, tmp_path: Path) -> None:
    write(tmp_path / "r", got10k)
    digests = set()
    for name in ("1.zip", "2.zip"):
        pack(tmp_path / "r", PYTRACKING, got10k, FORMATS["got10k"], tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


class TestRefusals:
    def refused(self, folder: Path, sequences: list[VideoSequence], match: str) -> None:
        archive = folder / "s.zip"
        with pytest.raises(UserError, match=match):
            pack(folder, PYTRACKING, sequences, FORMATS["got10k"], archive)
        assert not archive.exists()

    def test_a_missing_sequence(self, got10k: Any, tmp_path: Path) -> None:
        write(tmp_path, got10k[:-2])
        self.refused(tmp_path, got10k, "lacks the results of 2 of 180 sequences: GOT-10k_Test_000179")

    def test_another_number_of_sequences(self, got10k: Any, tmp_path: Path) -> None:
        self.refused(tmp_path, got10k[:3], "scores 180 sequences, but the data set here has 3")

    def test_names_of_another_split(self, got10k: Any, tmp_path: Path) -> None:
        named = [dataclasses.replace(s, name=s.name.replace("Test", "Val")) for s in got10k]
        self.refused(tmp_path, named, "180 names are not of got10k_test")

    def test_another_length(self, got10k: Any, tmp_path: Path) -> None:
        write(tmp_path, got10k)
        longer = [*got10k[:-1], *sequences_of([got10k[-1].name], frames=4)]
        self.refused(tmp_path, longer, "has 3 boxes, but GOT-10k_Test_000180 has 4 frames")

    @pytest.mark.parametrize(("box", "message"), [("nan,1,2,3", "must be finite"), ("1,1,0,3", "above 0")])
    def test_values(self, got10k: Any, tmp_path: Path, box: str, message: str) -> None:
        write(tmp_path, got10k)
        (tmp_path / "GOT-10k_Test_000007.txt").write_text(f"10,20,30,40\n{box}\n1,1,1,1\n")
        self.refused(tmp_path, got10k, rf"GOT-10k_Test_000007: the box of frame 1 .*{message}")

    def test_results_of_other_data(self, got10k: Any, tmp_path: Path) -> None:
        write(tmp_path, got10k)
        (tmp_path / "GOT-10k_Test_000007.txt").write_text("90,20,30,40\n1,1,1,1\n1,1,1,1\n")
        self.refused(tmp_path, got10k, "the first box is .* but tracking starts on")

    def test_no_times(self, got10k: Any, tmp_path: Path) -> None:
        write(tmp_path, got10k, times=False)
        self.refused(tmp_path, got10k, "has no times, which the got10k server asks for")
