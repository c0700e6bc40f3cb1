"""Writing the files of a set one after another, and keeping count of what they hold."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import SEARCH_MASK, TEMPLATE_MASK
from sttrack_deploy.calib.calibration_set import (
    MANIFEST,
    CalibrationManifest,
    InputRange,
    SampleEntry,
    TemplateEntry,
)
from sttrack_deploy.calib.tracking_pass import Step

__all__ = ["SetWriter", "pack_feeds"]


class SetWriter:
    """Writes into an empty folder, which is a set once :meth:`finish` has been called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._samples: dict[int, SampleEntry] = {}
        self._templates: dict[int, tuple[int, TemplateEntry]] = {}
        self._search, self._template = _RangeMeter(), _RangeMeter()
        for name in ("samples", "templates"):
            (folder / name).mkdir()

    @property
    def samples(self) -> tuple[SampleEntry, ...]:
        """By number."""
        return tuple(self._samples[number] for number in sorted(self._samples))

    @property
    def templates(self) -> tuple[TemplateEntry, ...]:
        """In the order written."""
        return tuple(entry for _, entry in self._templates.values())

    @property
    def search_ranges(self) -> dict[str, InputRange]:
        return self._search.ranges

    @property
    def template_ranges(self) -> dict[str, InputRange]:
        return self._template.ranges

    def template(self, track: int, feeds: Mapping[str, npt.NDArray[Any]], frame: int, sequence: str) -> int:
        """Write the template of a track, if it is not there yet.

        Args:
            feeds: inputs of the template graph, batch 1.

        Returns:
            Its number.
        """
        if track not in self._templates:
            number = len(self._templates)
            file = f"templates/{number:05d}.npz"
            sha256, size = pack_feeds(self._folder / file, feeds)
            self._template.add(feeds)
            padded = bool(feeds[TEMPLATE_MASK].any())
            self._templates[track] = number, TemplateEntry(file, sha256, size, sequence, frame, padded)
        return self._templates[track][0]

    def sample(
        self, number: int, feeds: Mapping[str, npt.NDArray[Any]], template: int, sequence: str, step: Step
    ) -> None:
        """Write sample ``number``: inputs of the search graph, batch 1, and what came of them."""
        if step.result is None:
            raise ValueError("a track's start is no sample")
        file = f"samples/{number:05d}.npz"
        sha256, size = pack_feeds(self._folder / file, feeds)
        self._search.add(feeds)
        self._samples[number] = SampleEntry(
            file=file,
            sha256=sha256,
            bytes=size,
            sequence=sequence,
            frame=step.frame,
            step=step.number,
            template=template,
            confidence=step.result.confidence,
            padded=bool(feeds[SEARCH_MASK].any()),
            lost=step.result.lost,
        )

    def finish(self, manifest: CalibrationManifest) -> None:
        """Write the manifest, which makes the folder a set."""
        (self._folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def pack_feeds(path: Path, feeds: Mapping[str, npt.NDArray[Any]]) -> tuple[str, int]:
    """Write arrays to an ``.npz`` whose bytes depend on nothing but the arrays.

    Returns:
        The file's SHA-256 and its size in bytes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(feeds):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(feeds[name]), allow_pickle=False)
            # A ZipInfo made by hand carries no clock; the system it was made on must not show either.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.create_system = 3
            archive.writestr(info, member.getvalue())
    data = buffer.getvalue()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest(), len(data)


class _RangeMeter:
    """Collects :class:`InputRange` over feeds of batch 1."""

    def __init__(self) -> None:
        self.ranges: dict[str, InputRange] = {}

    def add(self, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in feeds.items():
            low, high = float(array.min()), float(array.max())
            before = self.ranges.get(name)
            if before is not None:
                low, high = min(low, before.minimum), max(high, before.maximum)
            absmax = max(abs(low), abs(high))
            self.ranges[name] = InputRange(array.dtype.name, array.shape, low, high, absmax)
