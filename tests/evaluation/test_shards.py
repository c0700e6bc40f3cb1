from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.evaluation.runner import Shard, merge_results
from sttrack_deploy.sequences.sequence import VideoSequence


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(1, 8), st.randoms())
def test_parts_are_disjoint_complete_balanced_and_independent_of_order(
    lengths: list[int], count: int, random: Random
) -> None:
    sequences = [VideoSequence(f"s{i:02}", Path("x"), np.ones((n, 4))) for i, n in enumerate(lengths)]
    parts = [Shard(i, count).take(sequences) for i in range(1, count + 1)]
    names = [s.name for part in parts for s in part]
    assert sorted(names) == [s.name for s in sequences]
    loads = [sum(map(len, part)) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)
    shuffled = list(sequences)
    random.shuffle(shuffled)
    again = [{s.name for s in Shard(i, count).take(shuffled)} for i in range(1, count + 1)]
    assert again == [{s.name for s in part} for part in parts]


def test_a_part_keeps_the_order() -> None:
    sequences = [VideoSequence(name, Path("x"), np.ones((3, 4))) for name in "zax"]
    assert [s.name for s in Shard(1, 1).take(sequences)] == ["z", "a", "x"]


@pytest.mark.parametrize(
    "text",
    [
        "1/1000000000",
        "1/" + "9" * 5000,
        "0/2",
        "3/2",
        "1",
        "1/0",
        "a/b",
        "-1/2",
        "1/2/3",
        "1/1_0",
        "\u0661/2",
    ],
)
def test_a_part_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="from 1 to N"):
        Shard.parse(text)


def test_parse() -> None:
    assert Shard.parse("2/4") == Shard(2, 4)


class TestMerge:
    @pytest.fixture
    def parts(self, tmp_path: Path) -> list[Path]:
        for part, name in (("p1", "a"), ("p2", "b")):
            folder = tmp_path / part / "sttrack" / "nano" / "lasot"
            folder.mkdir(parents=True)
            (folder / f"{name}.txt").write_text(f"{name}\n")
        return [tmp_path / "p1", tmp_path / "p2"]

    def test_paths_below_are_kept(self, parts: list[Path], tmp_path: Path) -> None:
        merged = merge_results(parts, tmp_path / "all")
        assert (merged.copied, merged.same) == (2, 0)
        folder = tmp_path / "all" / "sttrack" / "nano" / "lasot"
        assert sorted(p.name for p in folder.iterdir()) == ["a.txt", "b.txt"]
        again = merge_results(parts, tmp_path / "all")
        assert (again.copied, again.same) == (0, 2)

    def test_parts_that_disagree_change_nothing(self, parts: list[Path], tmp_path: Path) -> None:
        (parts[1] / "sttrack" / "nano" / "lasot" / "a.txt").write_text("other\n")
        with pytest.raises(UserError, match=r"a\.txt differ"):
            merge_results(parts, tmp_path / "all")
        assert not (tmp_path / "all").exists()

    def test_unfinished_files_stay_behind(self, parts: list[Path], tmp_path: Path) -> None:
        (parts[0] / "sttrack" / ".a.7.partial.txt").write_text("half")
        assert merge_results(parts, tmp_path / "all").copied == 2

    def test_an_empty_part_is_named(self, parts: list[Path], tmp_path: Path) -> None:
        (tmp_path / "p3").mkdir()
        with pytest.raises(UserError, match="p3 holds no result files"):
            merge_results([*parts, tmp_path / "p3"], tmp_path / "all")
        with pytest.raises(UserError, match="does not exist"):
            merge_results([tmp_path / "p4"], tmp_path / "all")
