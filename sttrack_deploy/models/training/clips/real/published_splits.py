"""Which sequences of LaSOT and GOT-10k are trained on: the published lists.

``tables/README.md`` says where they come from.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Literal, get_args

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets.published import published_table

__all__ = ["GOT10K_SEQUENCES", "Got10kSplit", "got10k_numbers", "lasot_training_names"]

Got10kSplit = Literal["vottrain", "votval", "train", "val", "all", "vot_allowed"]

GOT10K_SEQUENCES = 9335
LASOT_EACH_CLASS = 20


def lasot_training_names() -> list[str]:
    """The 1,120 training sequences (Protocol II): 20 of each class, less the 280 of the test list."""
    test = published_table("lasot")
    classes = dict.fromkeys(name.rpartition("-")[0] for name in test)
    names = [f"{kind}-{number}" for kind in classes for number in range(1, LASOT_EACH_CLASS + 1)]
    return [name for name in names if name not in test]


@functools.cache
def got10k_numbers(split: Got10kSplit) -> frozenset[int]:
    """The numbers ``N`` of the sequences ``GOT-10k_Train_<N>`` of a split, from 1 to 9,335.

    ``vottrain`` and ``votval`` are the lists that pytracking, STARK and STTrack train on and validate with.
    They are meant to leave out the 1,000 sequences that the VOT challenges forbid, but leave out the one after
    each; ``vot_allowed`` leaves out the right ones. ``train`` and ``val`` are pytracking's lists for others.

    Raises:
        UserError: there is no such split.
    """
    if split not in get_args(Got10kSplit):
        raise UserError(f"GOT-10k has the splits {', '.join(get_args(Got10kSplit))}, not {split!r}")
    everything = frozenset(range(1, GOT10K_SEQUENCES + 1))
    forbidden = _numbers("got10k_vot.txt")
    if split == "all":
        return everything
    if split == "vot_allowed":
        return everything - forbidden
    held_out = frozenset(index + 1 for index in _numbers("got10k_val.txt"))
    chosen = held_out if split in ("val", "votval") else everything - held_out
    # The published lists have the forbidden numbers as indices, which count from 0.
    return chosen - {index + 1 for index in forbidden} if split.startswith("vot") else chosen


def _numbers(table: str) -> frozenset[int]:
    text = (resources.files("sttrack_deploy.models.training.clips.real") / "tables" / table).read_text(
        encoding="utf-8"
    )
    return frozenset(map(int, re.findall(r"\d+", text)))
