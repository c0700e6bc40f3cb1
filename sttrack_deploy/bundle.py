"""The bundle: the folder that an export writes and everything else reads."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import sha256_of
from sttrack_deploy.manifest import (
    BOX,
    CONFIDENCE,
    LAYOUT_OF,
    MANIFEST,
    SCHEMA,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    CropSpec,
    GraphSpec,
    LayoutSpec,
    Manifest,
    StateSpec,
    TensorSpec,
    plain_name,
    show_port,
)
from sttrack_deploy.onnx_header import read_onnx_header
from sttrack_deploy.policy import TrackingPolicy
from sttrack_deploy.records import read_text, show

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
    "LayoutSpec",
    "Manifest",
    "StateSpec",
    "TensorSpec",
    "TrackingPolicy",
    "check_replaceable",
    "default_bundle_path",
    "open_bundle",
    "plain_name",
    "shipped_bundle_path",
]


SHIPPED = ("sttrack-nano",)
"""Names of the bundles that come with the package; the first is the default."""
BESIDE = ("README.md", "sensitivity.json", "sensitivity.png")
"""Further files of our own in a bundle's folder."""
COMPUTE_BF16 = ("openvino", "openvino-bf16", "torch")
"""Engines that take a bf16 bundle: its graphs are FP32's, and the engine rounds. (torch is the FP32 reference.)"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its folder and its manifest.

    Attributes:
        layout: of the graphs that :attr:`template` and :attr:`search` give; empty: the main ones.
    """

    path: Path
    manifest: Manifest
    layout: str = ""

    @property
    def template(self) -> GraphSpec:
        return self.manifest.layouts[self.layout].template if self.layout else self.manifest.template

    @property
    def search(self) -> GraphSpec:
        return self.manifest.layouts[self.layout].search if self.layout else self.manifest.search

    @property
    def template_path(self) -> Path:
        return self.path / self.template.file

    @property
    def search_path(self) -> Path:
        return self.path / self.search.file

    def for_engine(self, engine: str) -> Bundle:
        """The same bundle with the graphs that an engine of this name runs.

        Raises:
            UserError: the engine cannot compute in the bundle's precision.
        """
        if self.manifest.precision.get("name") == "bf16" and engine not in COMPUTE_BF16:
            raise UserError(
                f"the bundle {self.path} is bf16, which the engine '{engine}' does not compute in: "
                "use --engine openvino, or the fp32 bundle"
            )
        layout = LAYOUT_OF.get(engine, "")
        return dataclasses.replace(self, layout=layout if layout in self.manifest.layouts else "")

    @property
    def weights_path(self) -> Path:
        return self.path / str(self.manifest.weights.get("file", ""))


def open_bundle(path: str | Path | None = None, *, verify: bool = True) -> Bundle:
    """Open a bundle and check its files' hashes.

    Args:
        path: its folder; ``None`` for the default one; or the name of a shipped one, where no such folder is.
        verify: whether to hash the graphs, which reads all of them.

    Raises:
        UserError: the folder, its manifest or one of its files is missing, altered or of another schema.
    """
    path = None if path is None else Path(path)
    if path is None or (path == Path(SHIPPED[0]) and not path.exists()):
        path = default_bundle_path()
    elif str(path) in SHIPPED and not path.exists():
        path = shipped_bundle_path(str(path))
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        what = "is not a folder" if not path.is_dir() else f"has no {MANIFEST}"
        raise UserError(
            f"{path} is not a bundle: it {what}; make one with sttrack-export --out {shlex.quote(str(path))}"
        )
    bundle = Bundle(path, Manifest.from_json(read_text(manifest_path, "the manifest"), str(manifest_path)))
    for graph in bundle.manifest.graphs:
        file = path / graph.file
        if not file.is_file():
            raise UserError(
                f"the bundle {path} lacks {graph.file}; copy the whole folder, or export it again"
            )
        if verify:
            _check_graph(file, graph)
    return bundle


def check_replaceable(out: Path) -> None:
    """Whether a bundle may be written there: nothing, an empty folder, or a bundle and nothing beside it.

    Raises:
        UserError: something else is there, which would be lost.
    """
    if not out.exists() and not out.is_symlink():
        return
    fix = "choose another --out, or remove it"
    if not out.is_dir():
        raise UserError(f"{out} exists and is not a folder; {fix}")
    there = sorted(entry.name for entry in out.iterdir())
    if not there:
        return
    try:
        manifest = Manifest.from_json(read_text(out / MANIFEST, "the manifest"), MANIFEST)
    except UserError as error:
        raise UserError(f"{out} exists and is not a bundle; {fix} ({error})") from error
    own = {MANIFEST, *(graph.file for graph in manifest.graphs), manifest.weights.get("file"), *BESIDE}
    foreign = [name for name in there if name not in own or (out / name).is_dir()]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(f"{out} is a bundle, but {show(foreign[0])}{more} in it is not part of it; {fix}")


def default_bundle_path() -> Path:
    """The folder of the bundle that is used where none is named."""
    return shipped_bundle_path(SHIPPED[0])


def shipped_bundle_path(name: str) -> Path:
    """The folder of a bundle that ships with the package.

    In a checkout it lies in the folder ``export/``; a wheel carries it inside the package.

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


def _check_graph(path: Path, spec: GraphSpec) -> None:
    """Raises UserError where a graph's file is not what the manifest says."""
    if (actual := sha256_of(path)) != spec.sha256:
        raise UserError(
            f"{path} was altered: its SHA-256 is {actual[:12]}…, the manifest says {spec.sha256[:12]}…; "
            "copy the bundle again, or export it again"
        )
    header = read_onnx_header(path)
    if header.external:
        raise UserError(
            f"{path} keeps weights in another file, which no hash covers; export the bundle again"
        )
    for side, ports, expected in (
        ("input", header.inputs, spec.inputs),
        ("output", header.outputs, spec.outputs),
    ):
        told = {tensor.name: (tensor.dtype, tensor.shape) for tensor in expected}
        for name in sorted({*ports, *told}):
            if ports.get(name) != told.get(name):
                raise UserError(
                    f"{path} does not match its manifest: {side} '{name}' is {show_port(ports.get(name))} in the file, "
                    f"{show_port(told.get(name))} in the manifest; export the bundle again"
                )
