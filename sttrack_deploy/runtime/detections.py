"""A detector's boxes from a file: where targets start, and start again when they are lost."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.geometry import Box, iou
from sttrack_deploy.records import parse_json, read_text, show
from sttrack_deploy.runtime.batch import Batch
from sttrack_deploy.runtime.multi_tracker import StepTimings
from sttrack_deploy.runtime.target import TrackResult

__all__ = ["DetectedTargets", "Detection", "DetectionRules", "Detections", "read_detections"]

SAME = 0.3
"""IoU from which a detection and a target are taken for the same thing."""

MOST_FRAME = 10**9


class Detection(NamedTuple):
    """One box that a detector found.

    Attributes:
        box: x, y, w, h in pixels.
        score: 0..1; 1 where the file has none.
        category: detections and targets of different ones never meet.
        id: the target's number, 1 or more, where the file says which target it is.
    """

    box: Box
    score: float = 1.0
    category: str = ""
    id: int | None = None


Detections = Mapping[int, Sequence[Detection]]
"""By frame, counted from 0."""


@dataclass(frozen=True, slots=True)
class DetectionRules:
    """What is done with detections.

    Attributes:
        above: the least score that counts.
        most: targets at once that are followed at most, 1 or more.
    """

    above: float = 0.5
    most: int = 32


def read_detections(path: Path) -> dict[int, list[Detection]]:
    """The boxes of a file: COCO JSON (``.json``), or MOTChallenge CSV (``.txt``, ``.csv``).

    COCO: an object with ``images`` and ``annotations``, or a list of results. The frame is the image's ``frame_index``
    if it has one, else its ``id`` (of a result: ``image_id``) less 1; the score is ``score``, the target ``track_id``.

    MOTChallenge: ``frame,id,left,top,width,height,score[,…]``; frames and pixels count from 1; an id below 1 is none,
    and so is a score below 0. Both are what ``sttrack-run --tracks`` writes.

    Raises:
        UserError: it cannot be read, or a line or an entry is wrong; the first one is named.
        UsageError: the suffix is another one.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = _from_coco(parse_json(read_text(path, "the detections"), str(path)), path)
    elif suffix in (".txt", ".csv"):
        found = _from_mot(read_text(path, "the detections").splitlines(), path)
    else:
        raise UsageError(f"{path} has no suffix of detections: .json (COCO), or .txt or .csv (MOTChallenge)")
    frames: dict[int, list[Detection]] = {}
    for frame, detection in found:
        frames.setdefault(frame, []).append(detection)
    everything = list(itertools.chain.from_iterable(frames.values()))
    if not everything:
        raise UserError(f"{path} holds no detection to start a track on")
    named = sum(detection.id is not None for detection in everything)
    if named not in (0, len(everything)):
        raise UserError(
            f"{path}: {named} of {len(everything)} detections say which target they are (an id of 1 or "
            "more); all must, or none"
        )
    for frame, detections in frames.items():
        ids = [detection.id for detection in detections if detection.id is not None]
        if len(set(ids)) < len(ids):
            raise UserError(
                f"{path}: two detections of frame {frame} (the first is 0) have the same target id"
            )
    return frames


def _from_mot(lines: Iterable[str], path: Path) -> list[tuple[int, Detection]]:
    found = []
    for number, row in enumerate(csv.reader(lines), 1):
        if not row or not "".join(row).strip():
            continue
        where = f"{path}, line {number}"
        if len(row) < 6:
            raise UserError(f"{where}: {len(row)} columns; needed are frame,id,left,top,width,height[,score]")
        frame, target, left, top, *size, score = (_number(text, where) for text in (*row[:7], "-1")[:7])
        detection = _detection([left - 1, top - 1, *size], score if score >= 0 else 1.0, "", target, where)
        found.append((_whole(frame, 1, "a frame, counted from 1,", where) - 1, detection))
    return found


def _from_coco(data: Any, path: Path) -> list[tuple[int, Detection]]:
    images: dict[Any, int] | None = None
    names: dict[Any, str] = {}
    if isinstance(data, list):
        entries = data
    else:
        entries, pictures, categories = (
            _entries(data, key, path) for key in ("annotations", "images", "categories")
        )
        names = {_key(entry.get("id")): str(entry.get("name", "")) for entry in categories}
        images = {}
        for number, picture in enumerate(pictures):
            where = f"{path}, images[{number}]"
            images[_key(picture.get("id"))] = _frame_of(picture, where)
    found = []
    for number, entry in enumerate(entries):
        where = f"{path}, {'' if images is None else 'annotations'}[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {show(entry)}, not an object")
        image = entry.get("image_id")
        if images is None:
            frame = _whole(image, 1, "image_id", where) - 1
        elif _key(image) in images:
            frame = images[_key(image)]
        else:
            raise UserError(f"{where} is of image {show(image)}, which is not among the images")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise UserError(f"{where}: bbox is {show(box)}, not four numbers x, y, width, height")
        category = entry.get("category_id")
        extra = entry.get("attributes")
        target = entry.get("track_id", extra.get("track_id") if isinstance(extra, dict) else None)
        values = [_number(value, where) for value in box]
        score = _number(entry.get("score", 1.0), where)
        category_name = names.get(_key(category), "" if category is None else str(category))
        found.append((frame, _detection(values, score, category_name, target, where)))
    return found


def _entries(data: Any, key: str, path: Path) -> list[dict[str, Any]]:
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        raise UserError(f"{path} is not COCO: an object with images and annotations, or a list of results")
    entries = data.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: {key} is not a list of objects")
    return entries


def _frame_of(image: Mapping[str, Any], where: str) -> int:
    if "frame_index" in image:
        return _whole(image["frame_index"], 0, "frame_index", where)
    return _whole(image.get("id"), 1, "id", where) - 1


def _key(value: Any) -> Any:
    """A value that can be looked up: lists and objects cannot."""
    return value if isinstance(value, (int, str)) else repr(value)


def _detection(values: Sequence[float], score: float, category: str, target: Any, where: str) -> Detection:
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise UserError(f"{where}: the box {x:g},{y:g},{w:g},{h:g} has no area")
    if not 0 <= score <= 1:
        raise UserError(f"{where}: the score is {score:g}; it must be 0 to 1")
    number = (
        None if target is None or _number(target, where) < 1 else _whole(target, 1, "a target's id", where)
    )
    return Detection((x, y, w, h), score, category, number)


def _number(value: Any, where: str) -> float:
    if isinstance(value, str) and re.fullmatch(r"\s*[-+.\deE]{1,40}\s*", value, re.ASCII):
        with contextlib.suppress(ValueError):  # it stays the text that is told below
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e12:
        raise UserError(f"{where}: {show(value)} is not a finite number")
    return float(value)


def _whole(value: Any, least: int, what: str, where: str) -> int:
    number = _number(value, where)
    if number != math.floor(number) or not least <= number <= MOST_FRAME:
        raise UserError(f"{where}: {what} must be a whole number of {least} or more, not {show(value)}")
    return int(number)


class DetectedTargets:
    """Targets that start where a detector found something, and start again there when they are lost.

    With ids, a target starts on the first detection of its id, and again on any later one while it is lost. Without,
    a detection that overlaps a target (IoU of 0.3 or more) belongs to it: a lost one, whose last sure box or best
    guess it overlaps most, starts again on it; what belongs to none becomes a new target. Best scores first,
    categories apart.

    Attributes:
        timings: of the last :meth:`update`.
        turned_away: detections that would have been one target too many.
    """

    def __init__(self, batch: Batch, detections: Detections, rules: DetectionRules) -> None:
        self._batch = batch
        self._detections = detections
        self._rules = rules
        self._sure: dict[int, Box] = {}  # where each target was when it was last not lost
        self._categories: dict[int, str] = {}
        self.timings = StepTimings(0.0, 0.0)
        self.turned_away = 0

    def check(self, first: int, end: int | None) -> None:
        """Raises UserError where no frame to come has a detection that counts."""
        if not any(
            frame >= first
            and (end is None or frame < end)
            and any(d.score >= self._rules.above for d in found)
            for frame, found in self._detections.items()
        ):
            raise UserError(
                f"no detection of a score of {self._rules.above:g} or more lies on the frames from {first} on: lower "
                "--start-above, or see that frames are counted from 0 (COCO frame_index) or 1 (MOTChallenge, image ids)"
            )

    def update(self, frame: int, image: npt.NDArray[np.uint8]) -> dict[int, TrackResult]:
        """Results of all targets by number, those that just started included (confidence 1).

        Raises:
            UserError: as of :meth:`.Batch.update`; :class:`UsageError`: a detection lies outside the image.
        """
        results = self._batch.update(image, self._batch.keys) if self._batch.keys else {}
        self.timings = self._batch.timings
        starts = self._starts(self._detections.get(frame, ()), results)
        if starts:
            try:
                self._batch.start(image, starts)
            except UsageError as error:
                raise UserError(f"the detections of frame {frame} do not fit the video: {error}") from error
            for number in starts:
                (target,) = self._batch.targets([number])
                results[number] = TrackResult(target.box, 1.0, False)
        self._sure |= {number: result.box for number, result in results.items() if not result.lost}
        return dict(sorted(results.items()))

    def _starts(self, found: Sequence[Detection], results: Mapping[int, TrackResult]) -> dict[int, Box]:
        """Where to start which target."""
        wanted = sorted((d for d in found if d.score >= self._rules.above), key=lambda d: -d.score)
        starts: dict[int, Box] = {}
        for detection in wanted:
            number = detection.id or self._owner(detection, results, starts)
            if number is None:
                number = 1 + max((*results, *starts), default=0)
            elif number in starts or (number in results and not results[number].lost):
                continue
            if number not in results and len(results.keys() | starts.keys()) >= self._rules.most:
                self.turned_away += 1
                continue
            starts[number] = detection.box
            self._categories[number] = detection.category
        return starts

    def _owner(
        self, detection: Detection, results: Mapping[int, TrackResult], starts: Mapping[int, Box]
    ) -> int | None:
        """The target that a detection is of: one that is sure before one that is lost; ``None``: a new one."""
        best: tuple[bool, float, int] | None = None
        for number in results.keys() | starts.keys():
            if self._categories[number] != detection.category:
                continue
            if number in starts:
                sure, places = True, [starts[number]]
            else:
                sure = not results[number].lost
                places = [results[number].box] if sure else [results[number].box, self._sure[number]]
            overlap = max(float(iou(place, detection.box)) for place in places)
            if overlap >= SAME and (best is None or (sure, overlap) > best[:2]):
                best = sure, overlap, number
        return None if best is None else best[2]
