"""The protocol ``got10k`` beside the real toolkit, on the same result files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from protocol_tracks import Track, sequence

from sttrack_deploy.evaluation.protocols import PROTOCOLS

experiments = pytest.importorskip(
    "got10k.experiments",
    reason="the comparison with the GOT-10k toolkit needs it: pip install got10k==0.1.3 six",
    exc_type=ImportError,
)

GOT10K = PROTOCOLS["got10k"]
TRACKER = "ours"
SIZE = (420, 300)
"""Smaller than where the tracks go."""


def wander(seed: int, frames: int = 60) -> Track:
    """A truth that drifts through the image and out of it, and a prediction beside it; three decimals."""
    random = np.random.default_rng(seed)
    corner = random.uniform(-20, 400, 2) + np.cumsum(random.normal(0, 12, (frames, 2)), axis=0)
    truth = np.concatenate([corner, random.uniform(20, 120, 2) * np.ones((frames, 2))], axis=1)
    prediction = truth + random.normal(0, random.uniform(1, 25), (frames, 4)) * [1, 1, 0.5, 0.5]
    prediction[:, 2:] = np.maximum(prediction[:, 2:], 0)
    if seed % 2:
        truth, prediction = np.round(truth), np.trunc(prediction)
    return np.round(prediction, 3), np.round(truth, 3)


@pytest.fixture(scope="module")
def several() -> list[Track]:
    return [wander(seed) for seed in range(12)]


def compare(
    experiment: Any, scores: Mapping[str, float], keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    monkeypatch.setattr(experiment, "plot_curves", lambda *_: None)
    overall = experiment.report([TRACKER])[TRACKER]["overall"]
    for mine, theirs in keys.items():
        assert scores[mine] == pytest.approx(overall[theirs], abs=1e-12)
    return overall


def test_got10k_val_scores_as_in_the_toolkit(
    several: list[Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, measured = [], []
    for index, (prediction, truth) in enumerate(several):
        name = f"GOT-10k_Val_{index:06d}"
        cover = np.random.default_rng(index).integers(0, 9, len(truth))
        folder, results = tmp_path / "val" / name, tmp_path / "results" / "GOT-10k" / TRACKER / name
        folder.mkdir(parents=True)
        results.mkdir(parents=True)
        np.savetxt(folder / "groundtruth.txt", truth, fmt="%.3f", delimiter=",")
        for label in ("cover", "absence", "cut_by_image"):
            np.savetxt(folder / f"{label}.label", cover, fmt="%d")
        (folder / "meta_info.ini").write_text(f"[METAINFO]\nresolution: {SIZE}\n")
        for frame in range(len(truth)):
            (folder / f"{frame + 1:08d}.jpg").touch()
        np.savetxt(results / f"{name}_001.txt", prediction, fmt="%.3f", delimiter=",")
        np.savetxt(results / f"{name}_time.txt", np.ones(len(truth)))
        names.append(name)
        annotated = sequence(truth, "got10k_val", occluded=cover == 0, absent=cover < 2)
        measured.append(GOT10K.measure(prediction, annotated, SIZE))
    (tmp_path / "val" / "list.txt").write_text("\n".join(names))
    experiment = experiments.ExperimentGOT10k(
        str(tmp_path), result_dir=str(tmp_path / "results"), report_dir=str(tmp_path / "reports")
    )
    scores = GOT10K.overall(measured)
    overall = compare(experiment, scores, {"ao": "ao", "sr50": "sr"}, monkeypatch)
    assert scores["sr75"] == pytest.approx(overall["succ_curve"][75], abs=1e-12)
    assert 0.1 < scores["ao"] < 0.9


class Listed:
    """What the experiments read of a data set."""

    def __init__(self, truths: list[npt.NDArray[np.float64]]) -> None:
        self.seq_names = [str(index) for index in range(len(truths))]
        self.truths = truths

    def __len__(self) -> int:
        return len(self.truths)

    def __getitem__(self, index: int) -> tuple[list[str], npt.NDArray[np.float64]]:
        return [], self.truths[index].copy()


@pytest.mark.parametrize(
    ("experiment", "dataset", "holes"),
    [("ExperimentOTB", "otb100", False), ("ExperimentUAV123", "uav123", True)],
)
def test_other_data_sets_score_as_in_the_toolkit(
    experiment: str,
    dataset: str,
    holes: bool,
    several: list[Track],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truths, measured = [], []
    (tmp_path / "results" / TRACKER).mkdir(parents=True)
    for index, (prediction, complete) in enumerate(several):
        truth = complete.copy()
        if holes:
            truth[10 + index : 20 + index] = np.nan
        np.savetxt(tmp_path / "results" / TRACKER / f"{index}.txt", prediction, fmt="%.3f", delimiter=",")
        truths.append(truth)
        measured.append(GOT10K.measure(prediction, sequence(truth, dataset), None))
    # Their constructors insist on a data set on disk, or download it.
    theirs = object.__new__(getattr(experiments, experiment))
    theirs.dataset, theirs.nbins_iou, theirs.nbins_ce = Listed(truths), 21, 51
    theirs.result_dir, theirs.report_dir = str(tmp_path / "results"), str(tmp_path / "reports")
    scores = GOT10K.overall(measured)
    keys = {"auc": "success_score", "precision": "precision_score", "sr50": "success_rate"}
    overall = compare(theirs, scores, keys, monkeypatch)
    pooled = np.mean([m.success for m in measured], axis=0)
    np.testing.assert_allclose(pooled, overall["success_curve"], atol=1e-12)
    assert 0.1 < scores["auc"] < 0.9
