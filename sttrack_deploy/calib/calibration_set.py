"""Reading a calibration set: a folder of recorded inputs, state included.

::

    calib/<name>/manifest.json          what is in it and where it comes from
    calib/<name>/samples/00000.npz …    every input of the search graph, batch 1
    calib/<name>/templates/00000.npz …  every input of the template graph, batch 1

The files are plain ``.npz`` that ``numpy.load`` reads; they are stored, not compressed, because what a
compressor makes differs between versions and the same recording must give the same bytes. They are numbered in
the order of their choice, so that the first n are a fair selection as well (``sample_choice.py``).
"""

from __future__ import annotations

import hashlib
import io
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.calib.calibration_manifest import (
    MANIFEST,
    CalibrationManifest,
    InputRange,
    SampleEntry,
    TemplateEntry,
    graphs_of,
)
from sttrack_deploy.errors import UserError

__all__ = ["CalibrationSet", "Feeds", "open_calibration"]

Feeds = dict[str, npt.NDArray[Any]]
"""Arrays by the name of a graph's input."""


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """An opened set.

    Attributes:
        path: its folder.
        sha256: of its manifest, which holds the hash of every file: it stands for the whole set.
    """

    path: Path
    manifest: CalibrationManifest
    sha256: str

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.manifest.samples)

    @property
    def templates(self) -> int:
        """Number of templates, the ``i`` of :meth:`template_feeds`; fewer than samples."""
        return len(self.manifest.templates)

    def search_feeds(self, i: int) -> Feeds:
        """Sample ``i``: every input of the search graph by name, its state among them.

        The batch is 1, or that of a bundle with a fixed batch: the one row is then repeated.

        Raises:
            UserError: the file is missing, or not what was recorded.
        """
        return self._feeds(self.manifest.samples[i], self.manifest.inputs)

    def template_feeds(self, i: int) -> Feeds:
        """Template ``i``: every input of the template graph by name; the batch as in :meth:`search_feeds`.

        Raises:
            UserError: the file is missing, or not what was recorded.
        """
        return self._feeds(self.manifest.templates[i], self.manifest.template_inputs)

    def check(self) -> None:
        """Read every file.

        Raises:
            UserError: one is missing, truncated or altered.
        """
        for entry in self.manifest.entries:
            self._bytes(entry)

    def _feeds(self, entry: SampleEntry | TemplateEntry, inputs: Mapping[str, InputRange]) -> Feeds:
        try:
            with np.load(io.BytesIO(self._bytes(entry)), allow_pickle=False) as file:
                feeds = {name: np.asarray(file[name]) for name in file.files}
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(
                f"{self.path / entry.file} is not an npz file: {error}; {self._again()}"
            ) from error
        seen = {name: (array.dtype.name, array.shape) for name, array in feeds.items()}
        if seen != {name: (r.dtype, tuple(r.shape)) for name, r in inputs.items()}:
            raise UserError(f"{self.path / entry.file} does not hold the manifest's inputs; {self._again()}")
        return {name: np.repeat(array, self.manifest.batch, axis=0) for name, array in feeds.items()}

    def _bytes(self, entry: SampleEntry | TemplateEntry) -> bytes:
        path = self.path / entry.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"the calibration set lacks {path}: {error.strerror or error}; {self._again()}"
            ) from error
        if len(data) != entry.bytes:
            raise UserError(
                f"{path} is truncated or was altered: it has {len(data)} bytes, the manifest says {entry.bytes}; "
                f"{self._again()}"
            )
        if (actual := hashlib.sha256(data).hexdigest()) != entry.sha256:
            raise UserError(
                f"{path} was altered: its SHA-256 is {actual[:12]}…, the manifest says {entry.sha256[:12]}…; "
                f"{self._again()}"
            )
        return data

    def _again(self, bundle: str = "BUNDLE") -> str:
        words = ("--bundle", bundle, "--out", str(self.path))
        return f"record it again: {self.manifest.command} {shlex.join(words)}"


def open_calibration(path: Path, bundle: Bundle | None, *, verify: bool = True) -> CalibrationSet:
    """Open a set.

    Args:
        path: its folder.
        bundle: the one it is to be used with; ``None`` opens any set.
        verify: whether to read and hash every file now; otherwise each is, when it is asked for.

    Raises:
        UserError: there is no set, it was recorded with other graphs, or one of its files is missing, truncated
            or altered.
    """
    file = path / MANIFEST
    if not file.is_file():
        problem = "does not exist" if not path.exists() else f"has no {MANIFEST}"
        raise UserError(
            f"{path} is not a calibration set: it {problem}; "
            f"record one: sttrack-calibrate VIDEOS --out {shlex.quote(str(path))}"
        )
    try:
        data = file.read_bytes()
        manifest = CalibrationManifest.from_json(data.decode("utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    opened = CalibrationSet(path, manifest, hashlib.sha256(data).hexdigest())
    if bundle is not None:
        _check_graphs(opened, bundle)
    if not manifest.samples:
        raise UserError(f"{path} holds no sample; {opened._again()}")
    if verify:
        opened.check()
    return opened


def _check_graphs(opened: CalibrationSet, bundle: Bundle) -> None:
    here, there = opened.manifest.bundle, graphs_of(bundle)
    for key in ("search_sha256", "template_sha256"):
        if here.get(key) != there[key]:
            raise UserError(
                f"the calibration set {opened.path} was recorded with another bundle: its {key.partition('_')[0]} "
                f"graph is {str(here.get(key))[:12]}…, that of {bundle.path} is {there[key][:12]}…; "
                f"{opened._again(str(bundle.path))}"
            )
