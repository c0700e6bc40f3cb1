"""What the temporal parts bring: the same bundle with its query or its memory as on the first frame, always.

Run from the repository's root::

    python -m benchmarks.ablation --data DIR --bundle export/sttrack-nano --json ablation.json
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.base import Arrays, Engine, EngineState, Prediction
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.evaluation.evaluation import Evaluation, evaluate_tracker, report_document
from sttrack_deploy.evaluation.protocols import DEFAULT_PROTOCOL
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.terminal.options import (
    bundle_option,
    data_options,
    dataset_title,
    emit_json,
    json_option,
    load_sequences,
    threads_option,
)
from sttrack_deploy.terminal.program import command, progress_bar, say
from sttrack_deploy.terminal.reports import exit_by, show_evaluations

VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "query reset": ("query_in",),
    "memory off": ("memory_in", "memory_valid_in"),
    "both": ("query_in", "memory_in", "memory_valid_in"),
}
"""The state tensors that each variant puts back after every frame."""


@dataclass
class ForgetfulEngine:
    """An engine whose state is a dictionary of arrays, some of which never change."""

    inner: Engine
    forgotten: tuple[str, ...]
    initial: dict[str, Any] = field(default_factory=dict)
    name: str = "onnxruntime"

    def initial_state(self, template: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> EngineState:
        state = self.inner.initial_state(template, mask)
        self.initial = {name: state[name] for name in self.forgotten}
        return state

    def step(
        self, search: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], state: EngineState
    ) -> tuple[Prediction, EngineState]:
        prediction, after = self.inner.step(search, mask, state)
        return prediction, {**after, **self.initial}

    def export_state(self, state: EngineState) -> Arrays:
        return self.inner.export_state(state)

    def import_state(self, arrays: Arrays) -> EngineState:
        return self.inner.import_state(arrays)

    def describe(self) -> dict[str, str]:
        return {**self.inner.describe(), "forgotten": ", ".join(self.forgotten)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@data_options
@bundle_option
@threads_option
@json_option
@command
def main(
    dataset: str,
    data: Path | None,
    sequences: str | None,
    partial: bool,
    bundle: Path | None,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Measure a bundle without its temporal query, without its memory, and without both."""
    chosen, title = load_sequences(dataset, data, sequences, partial), dataset_title(dataset, data)
    opened = open_bundle(bundle)
    engine = load_engine("onnxruntime", opened, threads)
    evaluations = []
    for name, forgotten in VARIANTS.items():
        tracker = Tracker(opened, ForgetfulEngine(engine, forgotten))
        facts = {"search_sha256": opened.manifest.search.sha256, "forgotten": list(forgotten)}
        evaluation = Evaluation(name, title, chosen, (DEFAULT_PROTOCOL,), facts)
        with progress_bar() as evaluation.progress:
            evaluations.append(evaluate_tracker(lambda tracker=tracker: tracker, evaluation))  # type: ignore[misc]
        if evaluation.interrupted:
            break
    show_evaluations(evaluations)
    emit_json(report_document(evaluations, title), json_path)
    say(f"next, the whole report of the bundle: sttrack-eval --bundle {opened.path} --html report.html")
    exit_by(evaluations)


if __name__ == "__main__":
    main()
