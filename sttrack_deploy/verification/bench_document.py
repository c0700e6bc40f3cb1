"""A benchmark for programs, and the sentences that say what its times contain."""

from __future__ import annotations

import dataclasses
import os
import platform
from typing import Any

from sttrack_deploy import __version__
from sttrack_deploy.evaluation.report import without_nan
from sttrack_deploy.verification.bench_figures import batch_cost, latency, long_run, ratio
from sttrack_deploy.verification.bench_run import BenchResult, SubjectTimes
from sttrack_deploy.verification.bench_worker import BLOCK_WARM_UP, STAGES, TEMPLATE_REPEATS

__all__ = ["CONTENTS", "SCHEMA", "bench_document"]

SCHEMA = 1
"""Of the JSON."""

CONTENTS = {
    "decode": "reading one frame of the video file, by one thread, which waits for it",
    "crop": "cutting the search region, resizing it, its mask",
    "template": "the template graph, once a target",
    "search": "the search graph: crop and state in, box and new state out, copies to and from the engine included",
    "post": "box to pixels, the decision whether the target is lost",
    "end to end": "decode + crop + search + post for each frame; neither drawing nor writing a video",
}
"""What is inside each time."""


def bench_document(result: BenchResult, baseline: SubjectTimes, clip: str) -> dict[str, Any]:
    """What ``sttrack-bench --json`` writes.

    Args:
        clip: name of the video.
    """
    plan = result.plan
    document = {
        "schema": SCHEMA,
        "sttrack_deploy": __version__,
        "clip": clip,
        "frames": plan.clip.frames,
        "rounds": plan.rounds,
        "threads": plan.threads,
        "seed": plan.seed,
        "warm_up_frames_each_block": BLOCK_WARM_UP,
        "template_repeats_each_block": TEMPLATE_REPEATS,
        "timing": dict(CONTENTS),
        "interleaving": "one process an engine, idle while another is measured; blocks in an order drawn each round",
        "baseline": baseline.subject.label,
        "system": {
            "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "python": platform.python_version(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "machine": {**dataclasses.asdict(result.machine), "quiet": not result.machine.warnings},
        "failures": result.failures,
        "engines": [_engine(times, baseline) for times in result.subjects],
    }
    plain: dict[str, Any] = without_nan(document)
    return plain


def _engine(times: SubjectTimes, baseline: SubjectTimes) -> dict[str, Any]:
    frame = latency(times.frame)
    endless = long_run(times)
    return {
        "label": times.subject.label,
        "facts": times.facts,
        "end_to_end_ms": dataclasses.asdict(frame),
        "fps_end_to_end": 1e3 / frame.mean,
        "stages_ms": {
            **{
                stage: dataclasses.asdict(latency(times.stages[:, :, index]))
                for index, stage in enumerate(STAGES)
            },
            "template": dataclasses.asdict(latency(times.template)),
        },
        "speed_of_baseline": {
            "search": dataclasses.asdict(ratio(baseline.search, times.search)),
            "end_to_end": dataclasses.asdict(ratio(baseline.frame, times.frame)),
        },
        "cores_busy": times.cpu,
        "memory_mib": {
            "before": times.facts.get("resident_mib_before"),
            "ready": times.facts.get("resident_mib_ready"),
            "after_each_round": times.memory.tolist(),
        },
        "targets": {str(targets): _batch(times, targets) for targets in times.batches},
        "long": None
        if endless is None
        else {
            name: value.tolist() if hasattr(value, "tolist") else value
            for name, value in dataclasses.asdict(endless).items()
        },
    }


def _batch(times: SubjectTimes, targets: int) -> dict[str, Any]:
    cost = batch_cost(times, targets)
    return {
        "step_ms": dataclasses.asdict(latency(times.batches[targets])),
        "cost_of_single_ones": None if cost is None else dataclasses.asdict(cost),
    }


def _processor() -> str:
    """The CPU's name, or what the platform module has."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (read line by line)
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
