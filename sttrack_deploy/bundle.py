"""The bundle: the folder that an export writes and everything else reads.

``manifest.json`` holds every fact that the runtime needs; no setting is repeated in code. Reading one
needs neither torch nor onnx.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import sha256_of

__all__ = [
    "BOX",
    "CONFIDENCE",
    "MANIFEST",
    "SCHEMA",
    "SEARCH_IMAGE",
    "SEARCH_MASK",
    "TEMPLATE_IMAGE",
    "TEMPLATE_MASK",
    "Bundle",
    "CropSpec",
    "GraphSpec",
    "Manifest",
    "StateSpec",
    "TensorSpec",
    "TrackingPolicy",
    "check_replaceable",
    "default_bundle_path",
    "open_bundle",
    "shipped_bundle_path",
]

SCHEMA = 1
MANIFEST = "manifest.json"
SHIPPED = ("sttrack-nano", "sttrack-nano-int8")
"""Names of the bundles that come with the package; the first is the default."""

# Names of the graphs' fixed inputs and outputs; all others are state.
TEMPLATE_IMAGE, TEMPLATE_MASK = "template_image", "template_mask"
SEARCH_IMAGE, SEARCH_MASK = "search_image", "search_mask"
BOX, CONFIDENCE = "box", "confidence"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph's input or output; ``shape`` holds ``"batch"`` where the axis is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """An ONNX file of the bundle, its hash and its interface."""

    file: str
    sha256: str
    bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One state tensor.

    Attributes:
        name: what it is.
        initial: output of the template graph that holds its first value.
        input: input of the search graph that takes it.
        output: output of the search graph with its next value; ``None`` if it never changes.
    """

    name: str
    initial: str
    input: str
    output: str | None


@dataclass(frozen=True, slots=True)
class CropSpec:
    """How crops are cut; factors are the crop's side over ``sqrt(w * h)`` of the box, sizes in pixels.

    Attributes:
        search_grid: search crops lie on a grid of this part of their side, and boxes are mapped back through the crop
            as it was cut (``geometry.snapped_window``); 0: the published law (``geometry.crop_window``).
        search_scale_step: step of the sides of such crops; 0: any whole number of pixels.
    """

    template_size: int
    template_factor: float
    search_size: int
    search_factor: float
    stride: int
    search_grid: float = 0.0
    search_scale_step: float = 0.0

    @property
    def snapped(self) -> bool:
        """Whether search crops lie on a grid."""
        return self.search_grid > 0


@dataclass(frozen=True, slots=True)
class TrackingPolicy:
    """What the runtime does with the confidence; every field can be overridden by the user.

    Attributes:
        lost_below: a frame whose confidence is lower counts as lost.
        found_above: a lost target is found again at this confidence.
        recovery: while lost, keep the last good box as the centre and grow the search region.
        growth: factor by which the search region's side grows with each lost frame.
        max_growth: the growth stops here.
    """

    lost_below: float = 0.25
    found_above: float = 0.35
    recovery: bool = False
    growth: float = 1.05
    max_growth: float = 2.0

    def override(self, lost_below: float | None, recovery: bool | None) -> TrackingPolicy:
        """A copy with what the user chose; ``None`` keeps what is there.

        A lost target is believed again a little above ``lost_below``, so that the answer does not flicker.
        """
        policy = self
        if lost_below is not None:
            found_above = min(1.0, lost_below + self.found_above - self.lost_below)
            policy = dataclasses.replace(policy, lost_below=lost_below, found_above=found_above)
        return policy if recovery is None else dataclasses.replace(policy, recovery=recovery)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything known about a bundle; see the fields' own types.

    Attributes:
        model: the network's configuration (:class:`sttrack_deploy.models.config.ModelConfig` as a dict).
        batch: number of targets for each call, or ``"dynamic"``.
        precision: name and recipe of the numeric precision.
        weights: file and hash of the weights the graphs were made from (what the torch engine runs).
        checkpoint: name and hash of the file that was exported.
        validation: parity that was measured at export.
        accuracy: measured accuracy, empty if none was.
        tools: versions of the packages that made it.
    """

    name: str
    crop: CropSpec
    template: GraphSpec
    search: GraphSpec
    state: tuple[StateSpec, ...]
    model: Mapping[str, Any]
    batch: int | str
    opset: int
    tracking: TrackingPolicy = field(default_factory=TrackingPolicy)
    precision: Mapping[str, Any] = field(default_factory=lambda: {"name": "fp32"})
    weights: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    license: str = "Apache-2.0"
    schema: int = SCHEMA

    @property
    def smallest_batch(self) -> int:
        """Targets that a call must hold at least: the fixed batch, or 1."""
        return self.batch if isinstance(self.batch, int) else 1

    def to_json(self) -> str:
        """Indented JSON with a final newline, keys sorted."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """The reverse of :meth:`to_json`; ``where`` names the file in errors.

        Raises:
            UserError: not JSON, another schema, or a field is missing or malformed.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not valid JSON ({error}); export the bundle again") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            mend = (
                "upgrade sttrack-deploy (pip install -U sttrack-deploy)"
                if isinstance(schema, int) and schema > SCHEMA
                else "export the bundle again with sttrack-export"
            )
            raise UserError(f"{where} has schema {schema!r}; this version reads schema {SCHEMA}: {mend}")
        try:
            return cls(
                **{
                    **data,
                    "crop": CropSpec(**data["crop"]),
                    "template": _graph(data["template"]),
                    "search": _graph(data["search"]),
                    "state": tuple(StateSpec(**s) for s in data["state"]),
                    "tracking": TrackingPolicy(**data["tracking"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where} is not a bundle's manifest ({error}); export the bundle again"
            ) from error


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def template_path(self) -> Path:
        return self.path / self.manifest.template.file

    @property
    def search_path(self) -> Path:
        return self.path / self.manifest.search.file

    @property
    def weights_path(self) -> Path:
        return self.path / str(self.manifest.weights.get("file", ""))


def open_bundle(path: Path | None = None, *, verify: bool = True) -> Bundle:
    """Open a bundle and check its files' hashes.

    Args:
        path: its folder; ``None`` for the default one; or the name of a shipped one, where no such folder is.
        verify: whether to hash the graphs, which reads all of them.

    Raises:
        UserError: the folder, its manifest or one of its files is missing, altered or of another schema.
    """
    if path is None or (path == Path(SHIPPED[0]) and not path.exists()):
        path = default_bundle_path()
    elif str(path) in SHIPPED and not path.exists():
        path = shipped_bundle_path(str(path))
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        what = "is not a folder" if not path.is_dir() else f"has no {MANIFEST}"
        raise UserError(f"{path} is not a bundle: it {what}; make one with sttrack-export --out {path}")
    try:
        text = manifest_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {manifest_path}: {error}") from error
    bundle = Bundle(path, Manifest.from_json(text, str(manifest_path)))
    files = {graph.file: graph.sha256 for graph in (bundle.manifest.template, bundle.manifest.search)}
    for file, expected in files.items():
        if not (path / file).is_file():
            raise UserError(f"the bundle {path} lacks {file}; copy the whole folder, or export it again")
        if verify and (actual := sha256_of(path / file)) != expected:
            raise UserError(
                f"{path / file} was altered: its SHA-256 is {actual[:12]}…, "
                f"the manifest says {expected[:12]}…; "
                "copy the bundle again, or export it again"
            )
    return bundle


def check_replaceable(out: Path) -> None:
    """Whether a bundle may be written there: nothing, an empty folder or a bundle.

    Raises:
        UserError: something else, which would be lost.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file())):
        raise UserError(f"{out} exists and is not a bundle; choose another --out, or remove it")


def default_bundle_path() -> Path:
    """The folder of the bundle that is used where none is named."""
    return shipped_bundle_path(SHIPPED[0])


def shipped_bundle_path(name: str) -> Path:
    """The folder of a bundle that ships with the package.

    In a checkout it lies on the shelf ``export/``; a wheel carries it inside the package.

    Raises:
        UserError: it is not there.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "bundles" / name, package.parent / "export" / name):
        if (candidate / MANIFEST).is_file():
            return candidate
    raise UserError(
        f"the shipped bundle {name} is missing; reinstall sttrack-deploy, or name one with --bundle DIR"
    )


def _graph(data: Mapping[str, Any]) -> GraphSpec:
    tensors = {
        side: tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in data[side])
        for side in ("inputs", "outputs")
    }
    return GraphSpec(data["file"], data["sha256"], data["bytes"], tensors["inputs"], tensors["outputs"])
