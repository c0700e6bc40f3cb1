"""The sensitivity search as a file for programs and a picture for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sttrack_deploy.export.precision.int8 import Layout
from sttrack_deploy.export.precision.sensitivity import SearchResult

__all__ = ["PICTURE", "REPORT", "write_report"]

REPORT = "sensitivity.json"
PICTURE = "sensitivity.png"


def write_report(folder: Path, result: SearchResult, layout: Layout) -> None:
    """``sensitivity.json``, and ``sensitivity.png`` where matplotlib is installed."""
    cost = (
        "time over FP32, ONNX Runtime, one thread"
        if layout == "cpu"
        else "share of multiply-accumulates left in float"
    )
    document = {"cost": cost, "layout": layout, **_finite(result.to_dict())}
    (folder / REPORT).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    try:
        import matplotlib  # noqa: F401 (asked for before it is used)
    except ImportError:
        return
    _picture(folder / PICTURE, result)


def _finite(value: Any) -> Any:
    """NaN (not measured) becomes null, which JSON has."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _picture(path: Path, result: SearchResult) -> None:
    """Each group's error alone, and how cost and AUC went as groups were added."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(12, 0.32 * max(len(result.groups), len(result.steps)) + 2.2), layout="constrained"
    )
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    ordered = sorted(result.groups, key=lambda g: g.step_error)
    colours = ["tab:blue" if g.group in result.chosen else "0.75" for g in ordered]
    left.barh([g.group for g in ordered], [100 * g.step_error for g in ordered], color=colours)
    left.set_xlabel("step error with this group alone in INT8 (1 - IoU, %)")
    left.set_title("Sensitivity (blue: quantized in the end)", loc="left", fontsize=10)
    steps = [s for s in result.steps if s.auc_change == s.auc_change]
    rows = list(range(len(steps)))
    right.barh(
        rows, [100 * s.auc_change for s in steps], color=["tab:blue" if s.kept else "0.75" for s in steps]
    )
    right.errorbar(
        [100 * s.auc_change for s in steps],
        rows,
        xerr=[100 * s.auc_error for s in steps],
        fmt="none",
        ecolor="0.3",
        capsize=3,
    )
    right.axvline(-100 * result.budget, color="tab:red", linewidth=1)
    right.set_yticks(rows, [f"+ {s.added}  ({s.cost:.2f})" for s in steps])
    right.invert_yaxis()
    right.set_xlabel("change of AUC (points) with standard error; red: budget")
    right.set_title("Groups added in turn (in brackets: the cost)", loc="left", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
