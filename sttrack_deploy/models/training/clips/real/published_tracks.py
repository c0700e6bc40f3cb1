"""The training parts of LaSOT, GOT-10k and TrackingNet in their published layouts and splits, indexed.

``tables/README.md`` says where the lists of training sequences come from.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.real.track_bank import (
    HIDDEN,
    READERS,
    UNUSABLE,
    VISIBLE,
    FrameFiles,
    IndexedTracks,
    TrackIndex,
    cached_index,
    fingerprint,
    make_index,
)
from sttrack_deploy.sequences.datasets.base import (
    Lacking,
    check_ends,
    parse_box,
    published_table,
    read_flags,
    read_lines,
    read_names,
    require,
)
from sttrack_deploy.sequences.sequence import Numbering

__all__ = [
    "GOT10K_SEQUENCES",
    "Got10kSplit",
    "got10k_numbers",
    "got10k_tracks",
    "lasot_tracks",
    "lasot_training_names",
    "trackingnet_tracks",
]


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


UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Notice = Callable[[str], None]

NAMED = 3
"""How many missing sequences a message names."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One sequence, not yet read.

    Attributes:
        name: as the data set calls it.
        label: the folder of its images, relative to the data set's.
        boxes: text with one box a frame.
        hidden: texts with one flag a frame, each with the flags that mean the target is not to be seen.
    """

    name: str
    label: str
    boxes: Path
    hidden: tuple[tuple[Path, Callable[[npt.NDArray[np.int64]], BoolArray]], ...] = ()


def lasot_tracks(
    root: Path,
    *,
    cache: Path | None = None,
    partial: bool = False,
    notice: Notice = print,
) -> IndexedTracks:
    """LaSOT's 1,120 training sequences.

    Frames flagged ``out_of_view`` or ``full_occlusion`` are hidden, as in pytracking and STARK.

    Args:
        root: holds ``<class>/<class>-<N>/``, or the sequences without the class folders.
        cache: the index's file.
        partial: leave out what is missing, which ``notice`` then says.

    Raises:
        UserError: something is missing or malformed.
    """

    def listed(name: str) -> Listed:
        folder = root / name.rpartition("-")[0] / name
        if not folder.is_dir() and (root / name).is_dir():
            folder = root / name
        flags = tuple((folder / f"{kind}.txt", _is_set) for kind in ("full_occlusion", "out_of_view"))
        label = (folder / "img").relative_to(root).as_posix()
        return Listed(name, label, folder / "groundtruth.txt", flags)

    sequences = [listed(name) for name in lasot_training_names()]
    files = FrameFiles(root, Numbering("%08d.jpg"))
    return _tracks("LaSOT", sequences, None, files, cache, partial, notice)


def got10k_tracks(
    root: Path,
    split: Got10kSplit = "vottrain",
    *,
    cache: Path | None = None,
    partial: bool = False,
    notice: Notice = print,
) -> IndexedTracks:
    """Sequences of GOT-10k's training set; those with ``absence`` 1 or ``cover`` 0 are hidden, as in STARK.

    Args:
        root: holds ``train/``, or is it.
        split: see :func:`.published_splits.got10k_numbers`.

    Others and errors: see :func:`lasot_tracks`.
    """
    train = root / "train" if (root / "train").is_dir() else root
    if not (train / "list.txt").is_file():
        raise UserError(f"GOT-10k: there is neither {root / 'train' / 'list.txt'} nor {root / 'list.txt'}")
    sequences, chosen = [], set()
    numbers = got10k_numbers(split)
    for name in read_names(train / "list.txt"):
        number = re.fullmatch(r"GOT-10k_Train_(\d+)", name)
        if number is None:
            raise UserError(f"{train / 'list.txt'} must name sequences GOT-10k_Train_<number>, not {name!r}")
        folder = train / name
        flags = ((folder / "absence.label", _is_set), (folder / "cover.label", _is_clear))
        sequences.append(Listed(name, name, folder / "groundtruth.txt", flags))
        if int(number[1]) in numbers:
            chosen.add(name)
    files = FrameFiles(train, Numbering("%08d.jpg"))
    return _tracks("GOT-10k train", sequences, chosen, files, cache, partial, notice)


def trackingnet_tracks(
    root: Path,
    parts: Sequence[int] = tuple(range(12)),
    *,
    cache: Path | None = None,
    partial: bool = False,
    notice: Notice = print,
) -> IndexedTracks:
    """TrackingNet's training sequences; no frame of them is flagged.

    Args:
        root: holds ``TRAIN_0/`` to ``TRAIN_11/``, or is one of them.
        parts: which of these.

    Others and errors: see :func:`lasot_tracks`.
    """
    folders = [root] if (root / "anno").is_dir() else [root / f"TRAIN_{part}" for part in sorted(parts)]
    missing = [folder for folder in folders if not (folder / "anno").is_dir()]
    if missing and not (partial and len(missing) < len(folders)):
        raise UserError(
            f"TrackingNet at {root} lacks {', '.join(f'{folder.name}/anno' for folder in missing)}; "
            "extract them, or name the parts that are there in [data.sets] trackingnet_parts"
        )
    if missing:
        notice(f"TrackingNet at {root}: without {', '.join(folder.name for folder in missing)}")
    sequences = [
        Listed(
            f"{folder.name}/{text.stem}", (folder / "frames" / text.stem).relative_to(root).as_posix(), text
        )
        for folder in folders
        for text in sorted(folder.glob("anno/*.txt"))
        if not text.name.startswith(".")
    ]
    files = FrameFiles(root, Numbering("%d.jpg", first=0))
    return _tracks("TrackingNet train", sequences, None, files, cache, partial, notice)


def _is_set(flags: npt.NDArray[np.int64]) -> BoolArray:
    return np.asarray(flags != 0)


def _is_clear(flags: npt.NDArray[np.int64]) -> BoolArray:
    return np.asarray(flags == 0)


def _tracks(
    title: str,
    sequences: list[Listed],
    chosen: Collection[str] | None,
    files: FrameFiles,
    cache: Path | None,
    partial: bool,
    notice: Notice,
) -> IndexedTracks:
    """Those of the sequences that are chosen (``None``: all); the index holds all, for other choices."""
    texts = [path for one in sequences for path in (one.boxes, *(text for text, _ in one.hidden))]
    key = f"{title} {files} {fingerprint(texts)}"
    index = cached_index(cache, key, lambda: _build(sequences, files))
    wanted = [one.name for one in sequences if chosen is None or one.name in chosen]
    lacking = [name for name in wanted if name in index.lacking]
    if not wanted or len(lacking) == len(wanted):
        what = f"all {len(wanted)} sequences are missing" if wanted else "there is no sequence"
        first = f", such as {lacking[0]} ({index.lacking[lacking[0]][0]})" if lacking else ""
        raise UserError(f"{title} at {files.root}: {what}{first}")
    if lacking:
        named = ", ".join(f"{name} ({index.lacking[name][0]})" for name in lacking[:NAMED])
        text = f"{title} at {files.root} lacks {len(lacking)} of {len(wanted)} sequences: {named}"
        text += ", …" if len(lacking) > NAMED else ""
        if not partial:
            raise UserError(
                f"{text}; extract them, or do without them with partial = true in the recipe's [data]"
            )
        notice(f"{text}; they are left out")
    place = {bytes(name).decode(): i for i, name in enumerate(index.names)}
    return IndexedTracks(title, index, files, [place[name] for name in wanted if name in place])


def _build(sequences: list[Listed], files: FrameFiles) -> TrackIndex:
    """Read all annotations; what cannot be read or has no images is noted, not raised."""
    lacking: dict[str, tuple[str, str]] = {}

    def read(one: Listed) -> tuple[str, str, FloatArray, UInt8Array] | None:
        try:
            boxes, states = _annotations(one)
            assert files.numbering is not None
            check_ends(files.root / one.label, files.numbering, len(boxes))
        except Lacking as lack:
            lacking[one.name] = (f"no {lack.path.relative_to(files.root)}", str(lack.path))
            return None
        except UserError as error:
            lacking[one.name] = (str(error), "")
            return None
        return one.name, one.label, boxes, states

    def found() -> Iterator[tuple[str, str, FloatArray, UInt8Array]]:
        with ThreadPoolExecutor(READERS) as pool:
            yield from filter(None, pool.map(read, sequences))

    return make_index(found(), lacking)


def _annotations(one: Listed) -> tuple[FloatArray, UInt8Array]:
    """Boxes ``(f, 4)``, 0 where there is none, and states ``(f,)``.

    Raises:
        Lacking: a text is not there.
        UserError: one is malformed, or they have different lengths.
    """
    path = require(one.boxes)
    lines = read_lines(path)
    try:
        # Numbers first and lines after: 14 million lines of TrackingNet are read one by one only if need be.
        values = np.array(" ".join(lines).replace(",", " ").split(), np.float64)
    except ValueError:
        values = np.empty(0)
    if not lines or values.size != 4 * len(lines):
        boxes = np.array([parse_box(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)])
        boxes = boxes.reshape(-1, 4)
        if not lines:
            raise UserError(f"{path} is empty; it needs one x,y,w,h line a frame")
    else:
        boxes = values.reshape(-1, 4)
    states = np.where(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1), VISIBLE, UNUSABLE)
    for text, means_hidden in one.hidden:
        states[means_hidden(read_flags(require(text), len(boxes)))] = HIDDEN
    boxes = np.where((states == VISIBLE)[:, None], boxes, 0)
    return boxes.astype(np.float32), states.astype(np.uint8)
