"""A parity run for programs: plain values for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy import __version__
from sttrack_deploy.evaluation.report import without_nan
from sttrack_deploy.verification.agreement import GATES
from sttrack_deploy.verification.parity import Candidate, CandidateParity

__all__ = ["SCHEMA", "NotRun", "Outcome", "parity_document"]

SCHEMA = 1
"""Of the JSON."""


@dataclass(frozen=True, slots=True)
class NotRun:
    """A candidate that could not be run here, and why in one line."""

    candidate: Candidate
    reason: str


Outcome = CandidateParity | NotRun


def parity_document(outcomes: Seq[Outcome], data: str, setting: dict[str, Any]) -> dict[str, Any]:
    """What ``sttrack-parity --json`` writes.

    Args:
        data: name of the sequences' set.
        setting: threads, number of frames and the like.
    """
    document = {
        "schema": SCHEMA,
        "sttrack_deploy": __version__,
        "data": data,
        **setting,
        "passed": all(isinstance(o, CandidateParity) and o.verdict.passed for o in outcomes),
        "candidates": [_measured(o) if isinstance(o, CandidateParity) else _not_run(o) for o in outcomes],
    }
    plain: dict[str, Any] = without_nan(document)
    return plain


def _subject(candidate: Candidate) -> dict[str, Any]:
    m = candidate.bundle.manifest
    return {
        "label": candidate.label,
        "bundle": str(candidate.bundle.path),
        "name": m.name,
        "template_sha256": m.template.sha256,
        "search_sha256": m.search.sha256,
        "weights_sha256": m.weights.get("sha256"),
        "precision": candidate.precision,
        "engine": candidate.engine,
    }


def _not_run(outcome: NotRun) -> dict[str, Any]:
    return {**_subject(outcome.candidate), "run": False, "reason": outcome.reason, "passed": False}


def _measured(outcome: CandidateParity) -> dict[str, Any]:
    agreement, replayed = outcome.agreement, outcome.replay
    return {
        **_subject(outcome.candidate),
        "run": True,
        "engine_facts": outcome.facts,
        "passed": outcome.verdict.passed,
        "verdict": outcome.verdict.detail,
        "gate": dataclasses.asdict(GATES[outcome.candidate.precision]),
        "closed_loop": {
            "mean_iou": agreement.mean_iou,
            "mean_iou_before_parting": agreement.mean_iou_before_parting,
            "mean_iou_on_target": agreement.mean_iou_on_target,
            "least_iou": agreement.least_iou,
            "auc": agreement.auc,
            "auc_pytorch": agreement.auc_reference,
            "parted_sequences": len(agreement.parted),
            "sequences": [
                {
                    "name": s.name,
                    "mean_iou": s.mean_iou,
                    "least_iou": s.least_iou,
                    "parted_at": s.parted_at,
                    "auc": s.auc,
                    "auc_pytorch": s.auc_reference,
                    "iou": _rounded(s.overlap),
                }
                for s in agreement.sequences
            ],
        },
        "tensors": [dataclasses.asdict(tensor) for tensor in replayed.tensors],
        "tensors_from_the_reference_state": replayed.single_step,
        "growth": {
            "frames_compared": replayed.frames,
            "box": replayed.growth.box.tolist(),
            "confidence": replayed.growth.confidence.tolist(),
            "state": replayed.growth.state.tolist(),
        },
        "tolerance": outcome.tolerance,
        "parting": None if outcome.parting is None else dataclasses.asdict(outcome.parting),
        "note": outcome.note,
    }


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 5) for value in values]
