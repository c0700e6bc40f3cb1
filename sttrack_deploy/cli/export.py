"""``sttrack-export``: a checkpoint becomes a bundle, proven equal to PyTorch."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sttrack_deploy.bundle import TrackingPolicy
from sttrack_deploy.cli.convert import conversion_options, convert, default_out, options_of
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.export.precision import CONVERTED
from sttrack_deploy.geometry import parse_box
from sttrack_deploy.models.config import PRESETS
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.records import parse_integer
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import tracking_options
from sttrack_deploy.terminal.program import command, console, progress_bar, say
from sttrack_deploy.terminal.types import FILE, FOLDER, PATH, Integer

if TYPE_CHECKING:
    from sttrack_deploy.export.exporter import ExportOptions
    from sttrack_deploy.export.validation import Check, ValidationClip
    from sttrack_deploy.models.config import CropRule, MemorySemantics, ModelConfig
    from sttrack_deploy.models.network import Network


@click.command(cls=GroupedCommand)
@heading("Input")
@click.option("--model", "preset_name", metavar="PRESET", help=f"{', '.join(PRESETS)}.")
@click.option("--config", "config_path", type=FILE, help="Published experiment file (YAML).")
@click.option(
    "--checkpoint",
    type=FILE,
    help="Published checkpoint, or weights of sttrack-train (.safetensors).",
)
@heading("Output")
@click.option(
    "--out",
    type=PATH,
    help="Folder of the bundle.  [default with --from: BUNDLE-PRECISION]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", *CONVERTED]),
    default="fp32",
    show_default=True,
    help="Precision of the graphs. Others than fp32 are made as sttrack-convert makes them, and take its options.",
)
@heading("Input")
@click.option(
    "--from",
    "source",
    type=FOLDER,
    metavar="BUNDLE",
    help="Convert this fp32 bundle, as sttrack-convert does; --checkpoint is then not needed.",
)
@conversion_options(hidden=True)
@heading("Graphs", more=True)
@click.option("--memory-size", type=Integer(1, 4096), help="Frames the memory holds.  [default: the model's]")
@click.option(
    "--memory-semantics",
    type=click.Choice(["test", "train"]),
    help="What the memory attends to: the frames before only (test), or the current one too, as in the published "
    "training (train).  [default: the model's]",
)
@click.option(
    "--crops",
    type=click.Choice(["published", "snapped"]),
    help="Where search crops are cut: as published, or on a grid, where rounding differences die out.  "
    "[default: the model's]",
)
@heading("Output")
@click.option("--batch", default="1", show_default=True, metavar="N|dynamic", help="Targets for each call.")
@heading("Graphs", more=True)
@click.option("--opset", type=Integer(18, 20), help="ONNX opset, 18 to 20.  [default: 20]")
@heading("Output")
@click.option(
    "--license", "license_name", default="unknown", show_default=True, help="License of the weights."
)
@heading("Checks")
@click.option("--no-validate", is_flag=True, help="Skip the comparison with PyTorch.")
@click.option(
    "--validation-source",
    metavar="VIDEO|FOLDER",
    help="Compare on this video.  [default: the clip of sttrack-run --demo]",
)
@click.option("--validation-box", metavar="X,Y,W,H", help="Target on its first frame.")
@click.option("--accuracy", type=FILE, help="Record this report of sttrack-eval --json on the same graphs.")
@tracking_options
@command
def main(
    preset_name: str | None,
    config_path: Path | None,
    checkpoint: Path | None,
    out: Path | None,
    precision: str,
    source: Path | None,
    conversion: dict[str, Any],
    memory_size: int | None,
    memory_semantics: MemorySemantics | None,
    crops: CropRule | None,
    batch: str,
    opset: int | None,
    license_name: str,
    no_validate: bool,
    validation_source: str | None,
    validation_box: str | None,
    accuracy: Path | None,
    changes: PolicyChanges,
) -> None:
    """Export a checkpoint to a bundle: template.onnx, search.onnx, manifest.json.

    --lost-below, --recover and the other tracking options become the bundle's defaults.

    With --precision the bundle is converted as sttrack-convert does it, and takes that command's options.
    """
    try:
        import torch  # noqa: F401 (so that it is missed first)

        from sttrack_deploy.export.exporter import ExportOptions
        from sttrack_deploy.export.graphs import DEFAULT_OPSET
    except ImportError as error:
        raise MissingDependencyError(
            error.name or "torch", "the export", 'pip install "sttrack-deploy[export]"'
        ) from error
    if source is not None:
        _only_from(checkpoint, preset_name, config_path)
        _none_beside_from(click.get_current_context())
        options_from = options_of(precision, conversion)
        convert(source, out or default_out(source, precision), options_from)
        return
    if checkpoint is None or out is None:
        raise UsageError("give --checkpoint and --out, or --from BUNDLE to convert an exported bundle")
    if (validation_source is None) != (validation_box is None):
        raise UsageError("--validation-source and --validation-box go together")
    policy = TrackingPolicy().override(changes)
    options = ExportOptions(
        opset or DEFAULT_OPSET, _batch(batch), policy, license_name, accuracy, real_build=True
    )

    def chosen(config: ModelConfig) -> ModelConfig:
        return config.with_memory(memory_size, memory_semantics).with_crops(crops)

    network = _load(preset_name, config_path, checkpoint, chosen)
    wanted = None if precision == "fp32" else options_of(precision, conversion)
    clip = None if no_validate else _clip(validation_source, validation_box)
    if wanted is None:
        _export(network, checkpoint, out, options, clip)
        return
    with tempfile.TemporaryDirectory(prefix="sttrack-export-") as folder:
        # Calibration sets know their bundle by its hashes, and exports are deterministic: this is the same bundle.
        fp32 = Path(folder) / network.config.name
        _export(network, checkpoint, fp32, options, clip)
        convert(fp32, out, wanted)


def _export(
    network: Network, checkpoint: Path, out: Path, options: ExportOptions, clip: ValidationClip | None
) -> None:
    """Write the fp32 bundle under a progress bar and say what came of it."""
    from sttrack_deploy.export.exporter import export_bundle
    from sttrack_deploy.export.validation import CLOSED_LOOP_FRAMES, CROP_FRAMES

    parameters = sum(p.numel() for p in network.parameters())
    console.print(f"{network.config.name}: {parameters / 1e6:.2f} M parameters from {checkpoint}")
    started = time.monotonic()
    with progress_bar() as bar:
        if clip is not None:
            bar.stage("comparing with PyTorch", CROP_FRAMES + min(CLOSED_LOOP_FRAMES, len(clip.frames) - 1))

        def show(check: Check) -> None:
            mark = "[green]ok[/]  " if check.passed else "[red]FAIL[/]"
            console.print(f"  {mark} {check.name}: {check.detail}", highlight=False, soft_wrap=True)

        bundle = export_bundle(network, checkpoint, out, options, clip, show, bar)
    manifest = bundle.manifest
    for graph in (manifest.template, manifest.search):
        console.print(f"  {bundle.path / graph.file}  {graph.bytes / 1e6:.1f} MB", soft_wrap=True)
    memory = f"memory {network.config.memory_capacity} ({network.config.memory_semantics})"
    console.print(
        f"wrote the bundle {bundle.path} in {time.monotonic() - started:.0f} s: opset {manifest.opset}, "
        f"batch {manifest.batch}, {memory}",
        soft_wrap=True,
    )
    if clip is None:
        console.print("not compared with PyTorch (--no-validate)")
    console.print(
        f"next: sttrack-run VIDEO --init-box X,Y,W,H --bundle {shlex.quote(str(bundle.path))}", soft_wrap=True
    )


def _only_from(checkpoint: Path | None, preset_name: str | None, config_path: Path | None) -> None:
    """A bundle brings its own network."""
    for value, option in ((checkpoint, "--checkpoint"), (preset_name, "--model"), (config_path, "--config")):
        if value is not None:
            raise UsageError(f"--from brings the network; leave {option} {value} out")


def _none_beside_from(context: click.Context) -> None:
    """What is decided when a network becomes graphs cannot be changed in a bundle, and is not ignored either."""
    for name, option in (
        ("memory_size", "--memory-size"),
        ("memory_semantics", "--memory-semantics"),
        ("crops", "--crops"),
        ("batch", "--batch"),
        ("opset", "--opset"),
    ):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--from takes the bundle as it is: leave {option} out, or export the checkpoint again"
            )


def _batch(text: str) -> int | None:
    """Number of targets, ``None`` for dynamic."""
    if text == "dynamic":
        return None
    try:
        number = parse_integer(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 64:
        raise UsageError(f"--batch is a number from 1 to 64 or 'dynamic', not {text!r}")
    return number


def _load(
    preset_name: str | None,
    config_path: Path | None,
    checkpoint: Path,
    chosen: Callable[[ModelConfig], ModelConfig],
) -> Network:
    """The network of a published checkpoint or of our own weights; ``chosen`` changes its configuration."""
    from sttrack_deploy.models.config import preset
    from sttrack_deploy.models.corner_network import STTrack
    from sttrack_deploy.models.published import config_from_yaml, load_published
    from sttrack_deploy.models.weights import load_weights, read_config

    if preset_name and config_path:
        raise UsageError("give --model or --config, not both")
    if checkpoint.suffix == ".safetensors":
        config = read_config(checkpoint)
        if config_path or (preset_name and preset_name != config.name):
            named = config_path or preset_name
            raise UsageError(
                f"{checkpoint} brings its own configuration '{config.name}', which is not {named}; "
                "leave --model and --config out"
            )
        return load_weights(checkpoint, chosen(config))
    if not preset_name and not config_path:
        raise UsageError(
            f"{checkpoint} is a published checkpoint: say which network with --config EXPERIMENT.yaml or --model PRESET"
        )
    config = config_from_yaml(config_path, say) if config_path else preset(str(preset_name))
    if config.head != "corner":
        raise UsageError(
            f"{preset_name} is not the published network, and {checkpoint} is not weights of sttrack-train "
            "(.safetensors): give these, or --model sttrack-r50"
        )
    network = STTrack(chosen(config))
    load_published(network, checkpoint)
    return network


def _clip(source: str | None, box: str | None) -> ValidationClip:
    """Frames to compare on."""
    from sttrack_deploy.export.validation import CLOSED_LOOP_FRAMES, ValidationClip
    from sttrack_deploy.runtime.demo import DemoClip
    from sttrack_deploy.video.source import open_source

    wanted = CLOSED_LOOP_FRAMES + 1
    if source is None or box is None:
        demo = DemoClip()
        frames = [demo.frame(index) for index in range(wanted)]
        return ValidationClip("the demo clip", frames, demo.truth[0])
    with open_source(source, end=wanted) as opened:
        frames = [frame.image for frame in opened]
    if len(frames) < 2:
        raise UserError(f"{source} has {len(frames)} frame(s); the comparison needs at least 2")
    return ValidationClip(Path(source).name, frames, parse_box(box))
