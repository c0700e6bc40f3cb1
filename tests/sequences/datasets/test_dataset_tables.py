from __future__ import annotations

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import sttrack_deploy.sequences.datasets as package
from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.sequences.datasets.base import attributes_of, published_table

# How many sequences have each attribute, as in the legends of attribute plots; a slip in a table shows here.
COUNTS = {
    "lasot": "IV 47 POC 187 DEF 142 MB 89 CM 86 ROT 175 BC 100 VC 33 SV 273 FOC 118 FM 53 OV 104 LR 141 ARC 249",
    "uav123": "SV 109 ARC 68 LR 48 FM 28 FOC 33 POC 73 OV 30 BC 21 IV 31 VC 60 CM 70 SOB 39",
}


@pytest.mark.parametrize(
    ("name", "rows"), [("lasot", 280), ("lasot_ext", 150), ("uav123", 123), ("otb100", 100)]
)
def test_every_sequence_once(name: str, rows: int) -> None:
    path = Path(package.__file__).parent / "tables" / f"{name}.csv"
    assert len(path.read_text().splitlines()) == 1 + rows
    assert len(published_table(name)) == rows


@pytest.mark.parametrize("name", COUNTS)
def test_attributes_add_up(name: str) -> None:
    found = Counter(attribute for row in published_table(name).values() for attribute in attributes_of(row))
    words = COUNTS[name].split()
    assert found == dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.parametrize("name", ["lasot", "lasot_ext"])
def test_lasot_has_as_many_of_each_class(name: str) -> None:
    classes = Counter(sequence.rpartition("-")[0] for sequence in published_table(name))
    assert set(classes.values()) == ({4} if name == "lasot" else {10})
    assert len(classes) == (70 if name == "lasot" else 15)


def test_uav123_ranges_stay_in_order() -> None:
    ends: dict[str, int] = {}
    for row in published_table("uav123").values():
        first, last = int(row["first"]), int(row["last"])
        assert ends.get(row["folder"], 0) <= first < last
        ends[row["folder"]] = last
    assert len(ends) == 91


def test_otb_attributes_are_known() -> None:
    known = {"IV", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OPR", "OV", "BC", "LR"}
    for name, row in published_table("otb100").items():
        assert set(attributes_of(row)) <= known, name
        assert attributes_of(row), name


def test_readers_are_registered_under_their_names() -> None:
    assert [reader.name for reader in DATASETS.values()] == list(DATASETS)
    for reader in DATASETS.values():
        assert reader.variable == f"STTRACK_{reader.name.upper()}"
        assert list(inspect.signature(reader.read).parameters) == ["root", "partial"]
        assert reader.title
        assert reader.layout


@pytest.mark.parametrize("name", DATASETS)
def test_every_reader_names_a_missing_or_empty_folder(name: str, tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        for partial in (False, True):
            with pytest.raises(UserError, match=re.escape(str(root))):
                DATASETS[name].read(root, partial)
