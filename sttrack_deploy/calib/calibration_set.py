"""A calibration set: a folder of recorded inputs, state included, and what is known about them.

::

    calib/<name>/manifest.json          what is in it and where it comes from
    calib/<name>/samples/00000.npz …    every input of the search graph, batch 1
    calib/<name>/templates/00000.npz …  every input of the template graph, batch 1

The files are plain ``.npz`` that ``numpy.load`` reads; they are stored, not compressed, because what a
compressor makes differs between versions and the same recording must give the same bytes. They are numbered in
the order of their choice, so that the first n are a fair selection as well (``sampling.py``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.errors import UserError
from sttrack_deploy.records import fill, parse_json, show

__all__ = [
    "ADVISED_SAMPLES",
    "MANIFEST",
    "SCHEMA",
    "CalibrationManifest",
    "CalibrationSet",
    "Confidence",
    "Feeds",
    "InputRange",
    "SampleEntry",
    "SourceEntry",
    "TemplateEntry",
    "graphs_of",
    "open_calibration",
]


SCHEMA = 1
MANIFEST = "manifest.json"
ADVISED_SAMPLES = 300
"""With fewer, rare but large activations are likely to be missed."""


@dataclass(frozen=True, slots=True)
class TemplateEntry:
    """A target that was started on.

    Attributes:
        file: below the set's folder.
        sequence: name of the annotated sequence.
        frame: of the sequence, counted from 0.
        padded: part of the crop lies outside the image.
    """

    file: str
    sha256: str
    bytes: int
    sequence: str
    frame: int
    padded: bool


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One call of the search graph.

    Attributes:
        file: below the set's folder.
        sequence: name of the annotated sequence.
        frame: of the sequence, counted from 0.
        step: frames since the target was started on; 1 is the first with the initial state.
        template: index of the template that its state comes from.
        confidence: what the search graph answered, 0..1.
        padded: part of the crop lies outside the image.
        lost: the tracker then believed the target lost.
    """

    file: str
    sha256: str
    bytes: int
    sequence: str
    frame: int
    step: int
    template: int
    confidence: float
    padded: bool
    lost: bool


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One annotated sequence that samples come from.

    Attributes:
        file: name of the video, or of the folder of images.
        sha256: of the video, or of a listing of the images' names and hashes.
        boxes_sha256: of the boxes that tracking started on, as text.
        tracked: frames tracked to choose from.
        samples: how many were taken.
    """

    sequence: str
    file: str
    sha256: str
    boxes_sha256: str
    tracked: int
    samples: int


@dataclass(frozen=True, slots=True)
class InputRange:
    """One input of a graph over all of the set's samples.

    Attributes:
        shape: of one sample, the batch axis being 1.
    """

    dtype: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    absmax: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """How the samples' confidences are spread.

    Attributes:
        edges: of the bands, ascending; band k is ``edges[k] <= confidence < edges[k + 1]``, the last closed.
        available: frames to choose from in each band.
        taken: samples in each band.
    """

    edges: tuple[float, ...]
    available: tuple[int, ...]
    taken: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CalibrationManifest:
    """Everything known about a set; the same command on the same files writes the same bytes.

    Attributes:
        name: of the set.
        bundle: name, precision, and hashes of both graphs (``template_sha256``, ``search_sha256``).
        batch: rows that :meth:`~sttrack_deploy.calib.calibration_set.CalibrationSet.search_feeds` gives.
        command: records the set again, with ``--bundle`` and ``--out`` behind it.
        seed: of the choice.
        padded_share: samples whose crop reaches over the image's border, 0..1.
        tracking: the policy, the engine and its threads: what the boxes depend on beside the graphs.
        tools: versions of what decoded, cropped and ran.
    """

    name: str
    bundle: Mapping[str, str]
    batch: int
    command: str
    seed: int
    samples: tuple[SampleEntry, ...]
    templates: tuple[TemplateEntry, ...]
    sources: tuple[SourceEntry, ...]
    inputs: Mapping[str, InputRange]
    template_inputs: Mapping[str, InputRange]
    confidence: Confidence
    padded_share: float
    tracking: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def entries(self) -> tuple[SampleEntry | TemplateEntry, ...]:
        """Every recorded file."""
        return (*self.templates, *self.samples)

    @property
    def bytes(self) -> int:
        """Of all samples and templates."""
        return sum(entry.bytes for entry in self.entries)

    def to_json(self) -> str:
        """Indented JSON with a final newline, keys sorted."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> CalibrationManifest:
        """The reverse of :meth:`to_json`; ``where`` names the file in errors.

        Raises:
            UserError: not JSON, another schema, or a field is missing or malformed.
        """
        again = "record the set again with sttrack-calibrate"
        try:
            data = parse_json(text, where)
            schema = data.get("schema") if isinstance(data, dict) else None
            if type(schema) is not int or schema != SCHEMA or "samples" not in data:
                raise UserError(
                    f"{where} is not a calibration set's manifest of schema {SCHEMA} (schema {show(schema)})"
                )
            return fill(cls, data, where)
        except UserError as error:
            raise UserError(f"{error}; {again}") from error


def graphs_of(bundle: Bundle) -> dict[str, str]:
    """Which graphs a set belongs to: names and hashes."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "precision": str(manifest.precision.get("name")),
        "template_sha256": manifest.template.sha256,
        "search_sha256": manifest.search.sha256,
    }


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
