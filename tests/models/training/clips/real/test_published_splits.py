"""The published lists of training sequences."""

from __future__ import annotations

import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.published_splits import got10k_numbers, lasot_training_names
from sttrack_deploy.sequences.datasets.published import published_table


def test_lasot_trains_on_what_is_not_tested() -> None:
    names = lasot_training_names()
    assert len(set(names)) == 1120
    assert not set(names) & set(published_table("lasot"))
    # The published list begins and ends with these classes, and has 16 of each.
    assert "airplane-10" in names
    assert "zebra-9" in names
    assert sum(name.startswith("bear-") for name in names) == 16


def test_got10k_lists_are_as_long_as_published() -> None:
    sizes = {"train": 7934, "val": 1401, "vottrain": 7086, "votval": 1249, "all": 9335, "vot_allowed": 8335}
    assert {split: len(got10k_numbers(split)) for split in sizes} == sizes  # type: ignore[arg-type]
    assert not got10k_numbers("vottrain") & got10k_numbers("votval")
    assert got10k_numbers("train") | got10k_numbers("val") == got10k_numbers("all")


def test_got10k_lists_as_published_count_from_zero() -> None:
    # The published files have the lines 3784, 8998, 1631 (train) and 1349, 5878 (validation), but not 4.
    assert {3785, 8999, 1632} <= got10k_numbers("vottrain")
    assert {1350, 5879} <= got10k_numbers("votval")
    assert 5 not in got10k_numbers("vottrain") | got10k_numbers("votval")
    assert 5 in got10k_numbers("train")
    # GOT-10k_Train_000004 is forbidden.
    assert 4 in got10k_numbers("vottrain")
    assert 4 not in got10k_numbers("vot_allowed")


def test_unknown_split() -> None:
    with pytest.raises(UserError, match=r"vottrain, .* not 'test'"):
        got10k_numbers("test")  # type: ignore[arg-type]
