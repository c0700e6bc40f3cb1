"""Which parts of a graph stay in FP32 when the rest becomes FP16: measured, one part at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from sttrack_deploy.export.precision import fp16
from sttrack_deploy.export.precision.options import Watch
from sttrack_deploy.export.precision.ranges import Feeds
from sttrack_deploy.export.precision.step_error import StepError

__all__ = ["Fp16Choice", "choose_parts"]

MATTERS = 0.1
"""A part stays in FP32 if that takes off more than this share of the error that is left."""


@dataclass(frozen=True, slots=True)
class Fp16Choice:
    """What stays in FP32.

    Attributes:
        parts: names of :func:`fp16.parts`, which hold for the same graph with Q/DQ too.
        recipe: for the manifest, with the figures.
    """

    parts: tuple[str, ...]
    recipe: Mapping[str, Any]


def choose_parts(
    model: onnx.ModelProto,
    maxima: Mapping[str, float],
    samples: Sequence[Feeds],
    sure_above: float,
    threads: int | None,
    watch: Watch,
) -> Fp16Choice:
    """Start with everything in FP16 but what its range forbids, and put back the part that takes off most of the error,
    again and again, until none of the rest matters. (Beside a part whose error is ten times theirs the others cannot be
    told apart.)

    Layer norms are put back in any case, see ``fp16.UNMEASURABLE``.

    Args:
        model: FP32 without Q/DQ, beside whose error that of FP16 would not be seen.
        maxima: largest magnitudes of its tensors.
        sure_above: see ``StepError``.
    """
    found = fp16.parts(model)
    wide = fp16.wide_nodes(model, maxima)
    watch.stage("FP16: which parts matter", (len(found) * (len(found) + 1) // 2 + 3) * len(samples))
    error = StepError(model, samples, sure_above, threads, watch)

    def measured(names: Sequence[str]) -> float:
        nodes = {n for name in names for n in found[name]}.union(wide)
        return error(fp16.convert(model, nodes), optimized=False)

    everything = now = measured([])
    kept: list[str] = []
    rounds = []
    while len(kept) < len(found):
        beside = {name: measured([*kept, name]) for name in found if name not in kept}
        rounds.append(beside)
        best = min(beside, key=lambda name: beside[name])
        if now - beside[best] <= MATTERS * now:
            break
        watch.note(f"{best}: FP32 (step error {beside[best]:.2e} with it in FP32, {now:.2e} without)")
        kept.append(best)
        now = beside[best]
    for name in (n for n in found if n not in kept):
        what = "FP32 in any case" if name in fp16.UNMEASURABLE else "FP16"
        watch.note(
            f"{name}: {what} (step error {rounds[-1].get(name, now):.2e} with it in FP32, {now:.2e} without)"
        )
    kept += [name for name in found if name in fp16.UNMEASURABLE and name not in kept]
    final = measured(kept)
    largest = sorted(maxima.items(), key=lambda item: -item[1])[:3]
    return Fp16Choice(
        tuple(kept),
        {
            "fp32_parts": kept,
            "fp32_nodes_by_range": len(wide),
            "range_limit": fp16.FP16_MAX / fp16.MARGIN,
            "largest_magnitudes": {name: round(value, 1) for name, value in largest},
            "step_error": {
                "all_fp16": everything,
                "with_fp32": rounds,
                "chosen": final,
                "samples": len(error),
            },
        },
    )
