"""What can be chosen about a precision, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.export.precision.int8 import Layout
from sttrack_deploy.export.precision.sensitivity import SearchResult
from sttrack_deploy.progress import Progress

__all__ = ["CONVERTED", "Outcome", "PrecisionName", "PrecisionOptions", "Watch"]

PrecisionName = Literal["fp16", "int8", "int8-fp16"]
CONVERTED: tuple[PrecisionName, ...] = ("fp16", "int8", "int8-fp16")


@dataclass(frozen=True, slots=True)
class PrecisionOptions:
    """How to convert a bundle.

    Attributes:
        calibration: a recorded set; needed for INT8, the demo clip stands in for FP16.
        layers: ``all``, ``backbone``, ``auto`` (search) or a file with one group a line.
        layout: where the Q/DQ pairs go, see ``int8.py``.
        method: of ``thresholds.METHODS``, or ``auto``: the one of the least step error.
        template: quantize the chosen groups in the template graph too.
        budget: greatest loss of AUC that the search allows, 0..1.
        step_budget: greatest mean ``1 - IoU`` of single steps from recorded states that the search allows, 0..1.
        gate_data, search_data: folders of annotated videos; none is the demo clip.
        search_window: the search's tracks start again on the true box after so many frames; 0: never.
        force: write a bundle that fails its gate, too.
        threads: of every run.
    """

    precision: PrecisionName
    calibration: Path | None = None
    layers: str = "auto"
    layout: Layout = "portable"
    method: str = "auto"
    template: bool = False
    budget: float = 0.004
    step_budget: float = 0.01
    gate_data: tuple[Path, ...] = ()
    search_data: tuple[Path, ...] = ()
    search_window: int = 20
    force: bool = False
    threads: int | None = 1


class Watch(Progress, Protocol):
    """Told what goes on, and what the search found."""

    def searched(self, result: SearchResult) -> None:
        """The sensitivity search is done."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A written bundle and what was measured.

    Attributes:
        time_ratio: time of the search graph over FP32's, in ONNX Runtime on this CPU, one thread.
        passed: the gate.
        detail: the gate's line.
    """

    bundle: Bundle
    time_ratio: float
    passed: bool
    detail: str
    recipe: Mapping[str, Any]
