"""The loop around other trackers' networks; the networks themselves where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peer_trackers import PEERS, Peer, PeerTracker, available
from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import Box, iou

FILES = Path(__file__).resolve().parents[3] / "shared" / "peers"


def scene(box: Box) -> np.ndarray:
    """A red and blue square on a texture."""
    random = np.random.default_rng(0)
    image = np.repeat(np.repeat(random.integers(60, 200, (30, 40, 3), np.uint8), 8, 0), 8, 1)
    x, y, w, h = (round(v) for v in box)
    image[y : y + h, x : x + w] = (20, 20, 230)
    image[y + h // 4 : y + h // 2, x : x + w] = (230, 40, 20)
    return np.ascontiguousarray(image)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_follows_a_square(name: str) -> None:
    if not FILES.is_dir():
        pytest.skip("the other trackers' networks are not here (shared/peers)")
    tracker = PeerTracker(PEERS[name], FILES, 1)
    start = (100.0, 80.0, 40.0, 40.0)
    tracker.init(scene(start), start)
    for index in range(1, 9):
        box = (100.0 + 4 * index, 80.0 + 2 * index, 40.0, 40.0)
        result = tracker.update(scene(box))
        assert iou(result.box, box) > 0.6
        assert result.confidence > 0.5


class Network:
    """A network that is sure of one cell and says how large the target is there."""

    def __init__(self, cell: tuple[int, int], size: float) -> None:
        self.cell, self.size = cell, size

    def template(self, crop: np.ndarray) -> np.ndarray:
        return crop

    def search(self, crop: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score = np.full((15, 15), 0.01, np.float32)
        score[self.cell] = 0.99
        return score, np.full((4, 15, 15), 0.5 * self.size, np.float32)


def driven(peer: Peer, cell: tuple[int, int], size: float, monkeypatch: pytest.MonkeyPatch) -> PeerTracker:
    monkeypatch.setattr("benchmarks.peer_trackers._Nano", lambda *_: Network(cell, size))
    monkeypatch.setattr("benchmarks.peer_trackers.peer_files", lambda *_: (Path(), Path()))
    return PeerTracker(peer, Path())


def test_cells_and_distances_are_mapped_to_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = PEERS["NanoTrack v3"]
    # The context of 40 x 40 is 80; the search crop shows 80 * 255 / 127 = 160.6 pixels in 255.
    scale = 255 / 161
    tracker = driven(peer, (7, 9), 40 * scale, monkeypatch)
    image, start = scene((100, 80, 40, 40)), (100.0, 80.0, 40.0, 40.0)
    tracker.init(image, start)
    x, y, w, h = tracker.update(image).box
    assert (w, h) == pytest.approx((40, 40), abs=0.01)
    assert x + w / 2 == pytest.approx(120 + 2 * 16 / scale, abs=0.6)
    assert y + h / 2 == pytest.approx(100, abs=0.6)


def test_the_size_follows_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = PEERS["NanoTrack v3"]
    tracker = driven(peer, (7, 7), 2 * 40 * 255 / 161, monkeypatch)
    image, start = scene((100, 80, 40, 40)), (100.0, 80.0, 40.0, 40.0)
    tracker.init(image, start)
    penalty = np.exp(-peer.penalty)  # twice the size, the same shape
    assert tracker.update(image).box[2] == pytest.approx(40 + 40 * peer.rate * penalty * 0.99, rel=0.01)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nanotrackv3_backbone"):
        available(tmp_path, "NanoTrack v3", 1)
    with pytest.raises(UserError, match="there is no tracker 'SORT'"):
        available(tmp_path, "SORT", 1)
