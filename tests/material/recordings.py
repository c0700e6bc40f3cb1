"""Annotated sequences for the tiny network, and recordings of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from moving_square import write_sequence

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.calib.calibration_set import CalibrationSet
from sttrack_deploy.calib.recorder import Recording, record
from sttrack_deploy.calib.sources import read_annotated_videos
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.sequences.sequence import VideoSequence

COMMAND = "sttrack-calibrate videos"
POLICY = TrackingPolicy(lost_below=0.0, recovery=False)


def clips(folder: Path, lengths: tuple[int, ...] = (14, 9)) -> list[VideoSequence]:
    """Sequences ``clip0``, ``clip1`` …"""
    for number, frames in enumerate(lengths):
        write_sequence(folder, f"clip{number}", frames)
    return read_annotated_videos(folder)


def recording(samples: int = 8, starts: int = 2, **more: Any) -> Recording:
    return Recording(
        **{"samples": samples, "starts": starts, "seed": 0, "policy": POLICY, "command": COMMAND, **more}
    )


def record_clips(
    bundle: Bundle, sequences: list[VideoSequence], out: Path, engine: Engine | None = None, **what: Any
) -> CalibrationSet:
    engine = engine or load_engine("onnxruntime", bundle, threads=1)
    return record(bundle, engine, sequences, recording(**what), out)


def hashes(folder: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """The same arrays under the same names, bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )
