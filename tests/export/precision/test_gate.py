"""The gate's videos and tracks: the demo clip where none are named, windows that start again on the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from moving_square import truth_of, write_sequence

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.onnxruntime.engine import OnnxRuntimeEngine
from sttrack_deploy.export.precision.gate_run import DEMO, gate_data, track
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.sequences.sequence import frames_of


def test_without_videos_the_gate_is_the_demo_clip() -> None:
    with gate_data(()) as data:
        assert data.name == DEMO
        assert data.frames == len(data.sequences[0].truth)
        first = next(iter(frames_of(data.sequences[0])))
        np.testing.assert_array_equal(first, DemoClip().frame(0))
        folder = data.sequences[0].source
    assert not folder.exists()


def test_windows_start_again_on_the_truth(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, frames in enumerate((7, 6)):
        write_sequence(tmp_path, f"clip{number}", frames)
    starts: list[tuple[float, ...]] = []
    real = OnnxRuntimeEngine.initial_state

    def initial_state(self: OnnxRuntimeEngine, template: np.ndarray, mask: np.ndarray) -> object:
        starts.append(template.shape)
        return real(self, template, mask)

    monkeypatch.setattr(OnnxRuntimeEngine, "initial_state", initial_state)
    with gate_data((tmp_path,)) as data:
        whole = track(tiny_bundle, "onnxruntime", data, 1)
        assert len(starts) == 2
        windows = track(tiny_bundle, "onnxruntime", data, 1, window=3)
    # 7 frames: started on 0, 3 and 6; 6 frames: on 0 and 3
    assert len(starts) == 2 + 3 + 2
    np.testing.assert_array_equal(windows[0].boxes[:3], whole[0].boxes[:3])
    np.testing.assert_array_equal(windows[0].boxes[[3, 6]], truth_of(7)[[3, 6]])
