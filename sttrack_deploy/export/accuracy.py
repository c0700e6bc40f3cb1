"""Measured accuracy for the manifest: from a report of ``sttrack-eval`` on exactly these graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttrack_deploy.bundle import Manifest, TrackingPolicy
from sttrack_deploy.errors import UserError
from sttrack_deploy.records import parse_json, read_text

__all__ = ["accuracy_of"]

_MACHINE_DEPENDENT = ("fps", "fps_median", "fps_end_to_end", "fps_end_to_end_median")


def accuracy_of(report_path: Path, manifest: Manifest) -> Mapping[str, Any]:
    """What a report says of a bundle, without its speed.

    Exports are deterministic, so a bundle that was measured can be exported again with its figures.

    Args:
        report_path: written by ``sttrack-eval --json``; it may hold other trackers too.
        manifest: of the bundle that the figures are for.

    Raises:
        UserError: not such a report, incomplete, or measured on other graphs or with another lost handling.
    """
    try:
        document = parse_json(read_text(report_path, "the report"), str(report_path))
        trackers = [tracker for tracker in document["trackers"] if "bundle" in tracker]
        graphs = manifest.template.sha256, manifest.search.sha256
        same = [
            tracker
            for tracker in trackers
            if (tracker["bundle"]["template_sha256"], tracker["bundle"]["search_sha256"]) == graphs
        ]
        if not same:
            raise UserError(
                f"the report {report_path} was measured on other graphs; evaluate this bundle first"
            )
        policy = dataclasses.asdict(manifest.tracking)
        usual = dataclasses.asdict(TrackingPolicy())  # of settings that the report is too old to know
        report = next((tracker for tracker in same if {**usual, **tracker["tracking"]} == policy), None)
        if report is None:
            raise UserError(
                f"the report {report_path} was measured with another lost handling: {same[0]['tracking']}"
            )
        if not report["complete"]:
            raise UserError(
                f"the report {report_path} is of an unfinished evaluation; run sttrack-eval again"
            )
        leading = document["protocol"]
        return {
            "dataset": document["dataset"],
            "protocol": leading,
            "engine": report["engine"]["name"],
            "overall": _without_speed(report["overall"]),
            "protocols": {
                name: {key: value for key, value in score.items() if key != "curves"}
                for name, score in report["protocols"].items()
            },
            "sequences": [
                {**_without_speed(sequence), "protocols": {leading: sequence["protocols"][leading]}}
                for sequence in report["sequences"]
            ],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{report_path} is not a report of sttrack-eval --json ({error!r})") from error


def _without_speed(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key not in _MACHINE_DEPENDENT}
