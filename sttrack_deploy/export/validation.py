"""Is the exported bundle the network? Interface, single tensors, and a closed loop, against PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sttrack_deploy.bundle import BOX, CONFIDENCE, Bundle, TrackingPolicy
from sttrack_deploy.cropping import search_crop, template_crop
from sttrack_deploy.engines.onnxruntime.engine import OnnxRuntimeEngine
from sttrack_deploy.engines.tensorrt.plan_build import trial_build
from sttrack_deploy.engines.torch.engine import TorchEngine
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.geometry import Box, iou
from sttrack_deploy.models.network import Network, NetworkState
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.tracker import Tracker

__all__ = [
    "CLOSED_LOOP_FRAMES",
    "IOU_GATE",
    "Check",
    "ValidationClip",
    "check_interface",
    "check_real_build",
    "validate_bundle",
]

CLOSED_LOOP_FRAMES = 60
IOU_GATE = 0.995
TENSOR_GATE = 1e-4
"""Largest difference allowed for one tensor, as a share of its largest magnitude (at least 1)."""
CROP_FRAMES = 8
REAL_BUILD = "TensorRT for RTX builds it"

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ValidationClip:
    """What the bundle is validated on: consecutive BGR frames, the box on the first, and its name."""

    name: str
    frames: Sequence[Frame]
    box: Box


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the validation."""

    name: str
    passed: bool
    detail: str


def check_interface(bundle: Bundle) -> Iterator[Check]:
    """Names, shapes, dtypes and state pairs of the graphs, against the contract (no inference)."""
    m = bundle.manifest
    inputs = {t.name: t for t in m.search.inputs}
    outputs = {t.name: t for t in m.search.outputs}
    initial = {t.name: t for t in m.template.outputs}
    for name in (BOX, CONFIDENCE):
        yield Check(
            f"output {name}", name in outputs, str(outputs[name].shape if name in outputs else "absent")
        )
    for state in m.state:
        parts = [initial.get(state.initial), inputs.get(state.input)]
        parts += [outputs.get(state.output)] if state.output else []
        seen = {(p.dtype, p.shape) if p else None for p in parts}
        first = parts[0]
        text = f"{first.dtype} {list(first.shape)}" if first else "absent"
        yield Check(f"state {state.name}", len(seen) == 1 and None not in seen, text)
    pairs = [(s.input, s.output) for s in m.state if s.output]
    ordered = sorted(pairs) == sorted(pairs, key=lambda pair: str(pair[1]))
    yield Check("state pairs", ordered, f"{len(pairs)} pairs, inputs and outputs sort alike")


def check_real_build(bundle: Bundle) -> Check | None:
    """Whether the real parser and builder take both graphs; ``None`` where TensorRT for RTX is not installed.

    It needs no GPU. A few seconds of processor time.
    """
    try:
        made = trial_build(bundle)
    except MissingDependencyError:
        return None
    except UserError as error:
        return Check(REAL_BUILD, False, str(error))
    warnings = [warning for plan in made.values() for warning in plan.warnings]
    summary = "; ".join(f"{name}: {plan.summary}" for name, plan in made.items())
    return Check(REAL_BUILD, True, f"{summary}{'; warning: ' if warnings else ''}{'; '.join(warnings)}")


def validate_bundle(
    bundle: Bundle,
    network: Network,
    clip: ValidationClip,
    progress: Progress = SILENT,
) -> Iterator[Check]:
    """Compare the bundle's ONNX graphs (through ONNX Runtime) with the network they came from.

    Args:
        progress: a step for each frame.

    Yields:
        a check at a time; the caller stops at the first failure or not.

    Raises:
        UserError: ONNX Runtime cannot load a graph.
    """
    yield from check_interface(bundle)
    # One thread: sums are then taken in one order, so that the figures do not depend on the number of cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exported, reference = OnnxRuntimeEngine(bundle, threads=1), TorchEngine(network)
        yield from _check_tensors(bundle, exported, reference, clip, progress)
        if bundle.manifest.batch == "dynamic":
            yield _check_batch(bundle, exported, clip)
        yield _check_closed_loop(bundle, exported, reference, clip, progress)
    finally:
        torch.set_num_threads(threads)


def _crops(
    bundle: Bundle, clip: ValidationClip
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]:
    """Search crops of the clip around the first box, moved and rescaled so that they differ; some padded."""
    crop = bundle.manifest.crop
    x, y, w, h = clip.box
    for index in range(CROP_FRAMES):
        frame = clip.frames[index * (len(clip.frames) - 1) // (CROP_FRAMES - 1)]
        step = 0.35 * (index - CROP_FRAMES // 2)
        moved = (x + step * w, y - step * h, w * (1 + 0.1 * step), h * (1 + 0.1 * step))
        patch = search_crop(frame, moved, crop)
        yield _repeat(bundle, patch.patch), _repeat(bundle, patch.mask)


def _repeat(bundle: Bundle, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(array[None], bundle.manifest.smallest_batch, axis=0)


def _template(bundle: Bundle, clip: ValidationClip) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    patch = template_crop(clip.frames[0], clip.box, bundle.manifest.crop)
    return _repeat(bundle, patch.patch), _repeat(bundle, patch.mask)


def _check_tensors(
    bundle: Bundle,
    exported: OnnxRuntimeEngine,
    reference: TorchEngine,
    clip: ValidationClip,
    progress: Progress,
) -> Iterator[Check]:
    """Largest difference of every output; both sides get PyTorch's state, so errors do not add up."""
    template = _template(bundle, clip)
    states = (exported.initial_state(*template), reference.initial_state(*template))
    worst: dict[str, tuple[float, float]] = {}

    def compare(name: str, ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> None:
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        difference = float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")
        if not np.isfinite(difference):  # max() would drop a NaN
            difference = float("inf")
        before = worst.get(name, (0.0, 0.0))
        worst[name] = (max(before[0], difference), max(before[1], float(np.abs(b).max())))

    specs = bundle.manifest.state
    for spec in specs:
        compare(f"template {spec.initial}", states[0][spec.input], getattr(states[1], spec.name).numpy())
    state: NetworkState = states[1]
    boxes = []
    for search in _crops(bundle, clip):
        feeds = {spec.input: getattr(state, spec.name).numpy() for spec in specs}
        ours, ours_after = exported.step(*search, feeds)
        theirs, state = reference.step(*search, state)
        boxes.append(theirs.box)
        compare(f"search {BOX}", ours.box, theirs.box)
        compare(f"search {CONFIDENCE}", ours.confidence, theirs.confidence)
        for spec in specs:
            if spec.output:
                compare(f"search {spec.output}", ours_after[spec.input], getattr(state, spec.name).numpy())
        progress.advance()
    for name, (difference, magnitude) in worst.items():
        passed = difference <= TENSOR_GATE * max(1.0, magnitude)
        yield Check(name, passed, f"max |difference| {difference:.1e} over {CROP_FRAMES} crops")
    spread = float(np.ptp(np.stack(boxes), axis=0).max())
    # A freshly initialized published network predicts one constant box: parity on it would prove nothing.
    yield Check("box reacts to the image", spread > 1e-4, f"spread {spread:.3f} of the crop's side")


def _check_batch(bundle: Bundle, exported: OnnxRuntimeEngine, clip: ValidationClip) -> Check:
    """A batch of two different crops equals the two alone."""
    image, mask = _template(bundle, clip)
    two = list(_crops(bundle, clip))[:2]
    state = exported.initial_state(np.repeat(image, 2, 0), np.repeat(mask, 2, 0))
    together, _ = exported.step(
        np.concatenate([c[0] for c in two]), np.concatenate([c[1] for c in two]), state
    )
    alone = [exported.step(*crop, exported.initial_state(image, mask))[0].box[0] for crop in two]
    difference = float(np.abs(together.box - np.stack(alone)).max())
    return Check(
        "batch of 2", difference <= TENSOR_GATE, f"max |difference| to single targets {difference:.1e}"
    )


def _check_closed_loop(
    bundle: Bundle,
    exported: OnnxRuntimeEngine,
    reference: TorchEngine,
    clip: ValidationClip,
    progress: Progress,
) -> Check:
    """Both track the clip on their own; mean IoU between their boxes."""
    trackers = [Tracker(bundle, engine, TrackingPolicy(recovery=False)) for engine in (exported, reference)]
    for tracker in trackers:
        tracker.init(clip.frames[0], clip.box)
    overlaps = []
    for frame in clip.frames[1 : CLOSED_LOOP_FRAMES + 1]:
        ours, theirs = (tracker.update(frame).box for tracker in trackers)
        overlaps.append(float(iou(ours, theirs)))
        progress.advance()
    if not overlaps:
        raise UserError(f"the validation clip {clip.name} has only one frame; give a longer one")
    mean = float(np.mean(overlaps))
    return Check(
        "closed loop",
        mean >= IOU_GATE,
        f"mean IoU {mean:.6f} (gate {IOU_GATE}), least {min(overlaps):.6f}, {len(overlaps)} frames of {clip.name}",
    )
