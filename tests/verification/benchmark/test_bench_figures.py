"""Numbers from times that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sttrack_deploy.verification.benchmark.quiet_machine import (
    CpuTimes,
    SpinTest,
    cpu_seconds,
    report_machine,
    spin_test,
)
from sttrack_deploy.verification.benchmark.report import batch_cost, latency, long_run, ratio
from sttrack_deploy.verification.benchmark.run import LONG_CHUNK, SubjectTimes
from sttrack_deploy.verification.benchmark.worker import STAGES, Subject

QUIET = SpinTest(1e-3, 1.02)


def times(**fields: object) -> SubjectTimes:
    given = {
        "subject": Subject("x", lambda: None),  # type: ignore[arg-type,return-value]
        "stages": np.ones((2, 3, len(STAGES))),
        "template": np.ones((2, 1)),
        "batches": {},
        "long": np.zeros(0),
        "memory": np.ones(2),
        "memory_long": np.zeros(0),
        "cpu": 1.0,
        "facts": {},
        **fields,
    }
    return SubjectTimes(**given)  # type: ignore[arg-type]


def test_percentiles_are_milliseconds_and_leave_out_what_is_unknown() -> None:
    found = latency(np.array([[0.001, 0.002], [0.003, np.nan]]))
    assert [found.p50, found.mean] == pytest.approx([2.0, 2.0])
    assert found.p95 == pytest.approx(2.9)
    assert math.isnan(latency(np.array([np.nan])).p50)


def test_a_frame_is_the_sum_of_its_stages_known_or_not() -> None:
    stages = np.full((1, 2, len(STAGES)), 0.25)
    stages[:, 1, 1] = np.nan
    assert times(stages=stages).frame.tolist() == [[1.0, 0.75]]


def test_the_ratio_is_the_geometric_mean_of_rounds_with_an_interval_around_it() -> None:
    base = np.array([[2.0, 2.0, 9.0], [8.0, 8.0, 8.0]])
    other = np.ones((2, 3))
    found = ratio(base, other)
    assert found.value == pytest.approx(4.0)
    assert [found.low, found.high] == pytest.approx([2.0, 8.0])
    assert ratio(other, base).value == pytest.approx(0.25)
    single = ratio(base[:1], other[:1])
    assert single.value == pytest.approx(2.0)
    assert math.isnan(single.low)
    assert str(single) == "2.00"


def test_the_cost_of_a_batch_is_that_of_as_many_single_calls() -> None:
    measured = times(batches={1: np.full((3, 4), 0.01), 8: np.full((3, 4), 0.04)})
    cost = batch_cost(measured, 8)
    assert cost is not None
    assert cost.value == pytest.approx(0.5)
    assert batch_cost(measured, 4) is None


def test_a_long_run_that_gets_slower_and_bigger_is_seen() -> None:
    count = 10 * LONG_CHUNK
    found = long_run(times(long=np.linspace(0.01, 0.02, count), memory_long=np.arange(100.0, 110.0)))
    assert found is not None
    assert found.change == pytest.approx(0.9 * 1 / 1.05, rel=0.02)
    assert found.growth == pytest.approx(1000 * 9 / (9 * LONG_CHUNK))
    assert len(found.median) == 10
    assert long_run(times()) is None


def test_a_quiet_machine_and_one_that_is_not() -> None:
    start, end = CpuTimes(0.0, 100.0, 0.0), CpuTimes(10.0, 110.0, 0.0)
    assert report_machine(0.1, start, end, [9.9], 0.0, QUIET, QUIET).warnings == ()
    busy = report_machine(0.1, start, end, [1.0], 0.5, QUIET, SpinTest(2e-3, 3.0))
    text = "; ".join(busy.warnings)
    assert "other processes took" in text
    assert "3.00 times its median" in text
    assert "0.50 times its first speed" in text
    assert "that were waiting used 50%" in text
    stolen = report_machine(0.1, start, CpuTimes(10.0, 110.0, 5.0), [10.0], 0.0, QUIET, QUIET)
    assert "took" in stolen.warnings[0]
    assert "away" in stolen.warnings[0]


def test_own_cpu_time_is_counted() -> None:
    import os

    before = cpu_seconds(os.getpid())
    assert spin_test(0.2).spread >= 1.0
    assert math.isnan(before) or cpu_seconds(os.getpid()) > before
    assert math.isnan(cpu_seconds(2**30))
