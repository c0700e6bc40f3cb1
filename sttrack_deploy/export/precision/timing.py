"""Time of a graph relative to another, measured so that a busy machine does not decide.

Both take turns on one thread, and what counts is the CPU time of that thread: what else runs on the machine takes
turns with it, but is not charged to it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnx

from sttrack_deploy.export.precision.ranges import Feeds, open_model

__all__ = ["time_ratio"]

ROUNDS = 15
CALLS = 6


def time_ratio(
    model: onnx.ModelProto, reference: onnx.ModelProto, samples: Sequence[Feeds], rounds: int = ROUNDS
) -> float:
    """CPU time of one call of ``model`` over that of ``reference``, both in ONNX Runtime on one thread.

    Each round's ratio is of the fastest calls, and the median of the rounds is returned.
    """
    sessions = [open_model(m, threads=1) for m in (model, reference)]
    ratios = []
    for turn in range(rounds + 1):
        best = []
        for session in sessions:
            took = []
            for call in range(CALLS):
                feeds = dict(samples[call % len(samples)])
                started = time.thread_time()
                session.run(None, feeds)
                took.append(time.thread_time() - started)
            best.append(min(took))
        if turn:  # the first is the warm-up
            ratios.append(best[0] / best[1])
    return float(np.median(ratios))
