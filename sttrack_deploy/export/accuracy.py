"""Measured accuracy for the manifest: from a report of ``sttrack-eval`` on exactly these graphs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Manifest
from sttrack_deploy.errors import UserError

__all__ = ["accuracy_of"]

_MACHINE_DEPENDENT = ("fps", "fps_median", "fps_end_to_end", "fps_end_to_end_median")


def accuracy_of(report_path: Path, manifest: Manifest) -> Mapping[str, Any]:
    """What a report says of a bundle, without its speed.

    Exports are deterministic, so a bundle that was measured can be exported again with its figures.

    Args:
        report_path: written by ``sttrack-eval --json``.
        manifest: of the bundle that the figures are for.

    Raises:
        UserError: not such a report, incomplete, or measured on other graphs or with another lost handling.
    """
    try:
        report = json.loads(report_path.read_text(encoding="utf-8"))
        measured = (report["bundle"]["template_sha256"], report["bundle"]["search_sha256"])
        facts = {key: report[key] for key in ("dataset", "protocol", "overall", "sequences")}
        policy, complete = report["tracking"], report["complete"]
        engine = report["engine"]["name"]
    except OSError as error:
        raise UserError(f"cannot read the report {report_path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{report_path} is not a report of sttrack-eval --json ({error!r})") from error
    if not complete:
        raise UserError(f"the report {report_path} is of an unfinished evaluation; run sttrack-eval again")
    if measured != (manifest.template.sha256, manifest.search.sha256):
        raise UserError(f"the report {report_path} was measured on other graphs; evaluate this bundle first")
    if policy != dataclasses.asdict(manifest.tracking):
        raise UserError(f"the report {report_path} was measured with another lost handling: {policy}")
    return {
        "dataset": facts["dataset"],
        "protocol": facts["protocol"],
        "engine": engine,
        "overall": _without_speed(facts["overall"]),
        "sequences": [_without_speed(sequence) for sequence in facts["sequences"]],
    }


def _without_speed(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key not in _MACHINE_DEPENDENT}
