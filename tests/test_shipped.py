"""The bundles that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from sttrack_deploy.bundle import SHIPPED, open_bundle, shipped_bundle_path
from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_is_found_by_its_name_from_anywhere_and_tracks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = DemoClip()
    tracker = Tracker.from_bundle(name, threads=1)
    tracker.init(clip.frame(0), clip.truth[0])
    overlaps = [iou(tracker.update(clip.frame(n)).box, clip.truth[n]) for n in range(1, 30)]
    assert sum(overlaps) / len(overlaps) > 0.75


def test_the_int8_one_is_made_of_the_default_one_and_passed_its_gate() -> None:
    manifests = [open_bundle(Path(shipped_bundle_path(name))).manifest for name in SHIPPED]
    assert [m.precision["name"] for m in manifests] == ["fp32", "int8"]
    assert manifests[1].precision["gate"]["passed"]
    assert manifests[0].weights == manifests[1].weights
    assert manifests[0].crop == manifests[1].crop


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED[1]).mkdir()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        open_bundle(Path(SHIPPED[1]))
