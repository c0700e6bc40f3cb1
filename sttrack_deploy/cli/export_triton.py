"""``sttrack-export-triton``: a model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.program import command, say
from sttrack_deploy.terminal.types import FOLDER, Integer, Number

__all__ = ["main"]


@click.command(cls=GroupedCommand)
@click.argument("bundle", required=False, type=FOLDER)
@heading("Output")
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    help="Folder to write: the server's --model-repository.",
)
@heading("Server")
@click.option(
    "--tracks",
    type=Integer(1, 100_000),
    default=256,
    show_default=True,
    help="Tracks that a server keeps at once.",
)
@click.option(
    "--max-batch",
    type=Integer(1, 1024),
    default=16,
    show_default=True,
    help="Tracks in one call of the graph.",
)
@click.option(
    "--idle",
    type=Number(0.1, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds after which a track without frames is forgotten.",
)
@click.option(
    "--instances",
    type=Integer(1, 64),
    default=1,
    show_default=True,
    help="Copies of each model side by side.",
)
@click.option("--gpu", is_flag=True, help="Run on GPUs, by ONNX Runtime's CUDA provider.  [default: CPU]")
@command
def main(
    bundle: Path | None, out: Path, tracks: int, max_batch: int, idle: float, instances: int, gpu: bool
) -> None:
    """Write BUNDLE as a Triton model repository: a template model, and a search model that keeps each track's state.

    A track is a sequence: its state stays in the server from frame to frame. The repository holds a client to start
    from.

    \b
    sttrack-export-triton --out models/
    tritonserver --model-repository models/
    """
    from sttrack_deploy.integrations.triton.export import export_repository
    from sttrack_deploy.integrations.triton.layout import ServerOptions

    opened = open_bundle(bundle)
    made = export_repository(opened, out, ServerOptions(tracks, max_batch, idle, instances, gpu))
    state = made.state_bytes
    say(
        f"wrote {made.path}: 2 models and client.py, {made.bytes / 2**20:.1f} MiB; model {opened.manifest.name}"
    )
    say(f"state: {state / 1000:.1f} kB a track, {tracks * state / 1e6:.1f} MB for {tracks} tracks")
    client = shlex.join(["python", str(made.path / "client.py"), "VIDEO", "X,Y,W,H"])
    say(f"next: {shlex.join(['tritonserver', '--model-repository', str(made.path)])}, then {client}")
