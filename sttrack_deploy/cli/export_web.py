"""``sttrack-export-web``: the tracker as a static web page."""

from __future__ import annotations

from pathlib import Path

import click

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.program import command, say
from sttrack_deploy.terminal.types import FOLDER, NamedPath

__all__ = ["main"]


@click.command(cls=GroupedCommand)
@click.argument("bundle", required=False, type=FOLDER)
@heading("Output")
@click.option(
    "--out",
    type=FOLDER,
    default=Path("site"),
    show_default=True,
    help="Folder to write.",
)
@click.option(
    "--runtime",
    type=NamedPath(exists=True),
    help="The npm package onnxruntime-web (.tgz or folder), where it must not be fetched.  [default: npm pack, once]",
)
@command
def main(bundle: Path | None, out: Path, runtime: Path | None) -> None:
    """Write a folder of static files that tracks local videos and the camera in the browser that opens it.

    BUNDLE's graphs run unchanged in ONNX Runtime Web. No server computes anything and no frame leaves the machine.

    \b
    sttrack-export-web --out site/
    python -m http.server --directory site --bind 127.0.0.1 8000
    """
    from sttrack_deploy.integrations.web.export import export_site

    opened = open_bundle(bundle)
    site = export_site(opened, out, runtime)
    say(f"wrote {site.path}: {site.files} files, {site.bytes / 2**20:.1f} MiB; model {opened.manifest.name}")
    say(
        f"open it: python -m http.server --directory {site.path} --bind 127.0.0.1 8000, then http://127.0.0.1:8000/"
    )
    shown = "" if bundle is None else f" {bundle}"
    say(f"next: sttrack-parity{shown} --engine onnxruntime-web")
