"""Writing the static site."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import MANIFEST, Bundle
from sttrack_deploy.engines.onnxruntime_web.engine import STATIC as ENGINE_STATIC
from sttrack_deploy.engines.onnxruntime_web.package import PACKAGE, copy_runtime, find_runtime
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_directory, check_only

__all__ = ["Site", "check_understood", "export_site"]

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
UNDERSTOOD = {
    "crop": {
        "template_size",
        "template_factor",
        "search_size",
        "search_factor",
        "stride",
        "search_grid",
        "search_scale_step",
        "context",
    },
    "tracking": {
        "lost_below",
        "found_above",
        "recovery",
        "hold_below",
        "lead",
        "growth",
        "max_growth",
        "jump_penalty",
        "change_penalty",
        "size_smoothing",
        "box_correction",
        "reliable_above",
        "frame_after",
    },
}
"""Settings of the manifest that ``sttrack.js`` follows."""


@dataclass(frozen=True, slots=True)
class Site:
    """What was written.

    Attributes:
        files: number of files; bytes: their size together.
    """

    path: Path
    files: int
    bytes: int


def export_site(bundle: Bundle, out: Path, runtime: Path | None = None) -> Site:
    """Write the page, ONNX Runtime Web and the bundle's graphs, which are not changed, to a folder.

    Args:
        out: a folder that is absent, empty, or such a site, which is replaced.
        runtime: the npm package where it must not be fetched; see
            :func:`~sttrack_deploy.engines.onnxruntime_web.package.find_runtime`.

    Raises:
        MissingDependencyError: npm is needed and not installed.
        UserError: ``out`` holds something else, the package cannot be had, or see :func:`check_understood`.
    """
    bundle = bundle.for_engine("onnxruntime-web")
    check_understood(bundle)
    known = (out / PAGE).is_file() and (out / "bundle" / MANIFEST).is_file()
    if out.exists() and not known and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not such a site; choose another --out, or remove it")
    static = [file.name for file in STATIC.iterdir()]
    check_only(
        out, [*static, "sttrack.js", f"{PACKAGE}/*", "bundle/*.onnx", f"bundle/{MANIFEST}"], "such a site"
    )
    found = find_runtime(runtime)
    with atomic_directory(out) as partial:
        for file in sorted(STATIC.iterdir()):
            shutil.copyfile(file, partial / file.name)
        shutil.copyfile(ENGINE_STATIC / "sttrack.js", partial / "sttrack.js")
        copy_runtime(found, partial / PACKAGE)
        (partial / "bundle").mkdir()
        for file in (bundle.template_path, bundle.search_path):
            shutil.copyfile(file, partial / "bundle" / file.name)
        # Further layouts are for engines that no browser has.
        manifest = dataclasses.replace(bundle.manifest, layouts={})
        (partial / "bundle" / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    written = [file for file in out.rglob("*") if file.is_file()]
    return Site(out, len(written), sum(file.stat().st_size for file in written))


def check_understood(bundle: Bundle) -> None:
    """Raises UserError where a setting that the page does not follow is in use: its boxes would be others."""
    for section in UNDERSTOOD:
        settings: Any = getattr(bundle.manifest, section)
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if field.name not in UNDERSTOOD[section] and value != field.default:
                raise UserError(
                    f"the page cannot follow {section}.{field.name} = {value!r} of {bundle.path / MANIFEST}: "
                    f"its boxes would not be this bundle's; export the bundle with {field.default!r} there"
                )
