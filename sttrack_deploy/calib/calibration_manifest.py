"""What is known about a calibration set: ``manifest.json`` in its folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.errors import UserError

__all__ = [
    "ADVISED_SAMPLES",
    "MANIFEST",
    "SCHEMA",
    "CalibrationManifest",
    "Confidence",
    "InputRange",
    "SampleEntry",
    "SourceEntry",
    "TemplateEntry",
    "graphs_of",
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
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not valid JSON ({error}); {again}") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA or "samples" not in data:
            raise UserError(
                f"{where} is not a calibration set's manifest of schema {SCHEMA} (schema {schema!r}); {again}"
            )
        try:
            return cls(
                **{
                    **data,
                    "samples": tuple(SampleEntry(**entry) for entry in data["samples"]),
                    "templates": tuple(TemplateEntry(**entry) for entry in data["templates"]),
                    "sources": tuple(SourceEntry(**entry) for entry in data["sources"]),
                    "inputs": _ranges(data["inputs"]),
                    "template_inputs": _ranges(data["template_inputs"]),
                    "confidence": Confidence(**{k: tuple(v) for k, v in data["confidence"].items()}),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where} is not a calibration set's manifest ({error}); {again}") from error


def graphs_of(bundle: Bundle) -> dict[str, str]:
    """Which graphs a set belongs to: names and hashes."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "precision": str(manifest.precision.get("name")),
        "template_sha256": manifest.template.sha256,
        "search_sha256": manifest.search.sha256,
    }


def _ranges(data: Mapping[str, Mapping[str, Any]]) -> dict[str, InputRange]:
    return {name: InputRange(**{**r, "shape": tuple(r["shape"])}) for name, r in data.items()}
