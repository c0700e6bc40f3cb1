"""The bundles that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from sttrack_deploy.bundle import SHIPPED, open_bundle
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


def test_the_default_finds_the_demo_again_after_it_was_hidden() -> None:
    clip = DemoClip()
    tracker = Tracker.from_bundle(threads=1)
    tracker.init(clip.frame(0), clip.truth[0])
    results = [tracker.update(clip.frame(n)) for n in range(1, len(clip.truth))]
    assert any(result.lost for result in results[110:125])  # behind the mast
    assert not results[-1].lost
    assert iou(results[-1].box, clip.truth[-1]) > 0.5


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED[0]).mkdir()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        open_bundle(Path(SHIPPED[0]))
