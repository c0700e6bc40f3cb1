"""Work in processes: one that dies costs its own piece, and errors reach whoever waits."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sttrack_deploy.files import atomic_path
from sttrack_deploy.runtime.worker_pool import count_steps, in_workers, threads_each


def make_base() -> int:
    return 100


def work(base: int, item: int) -> int:
    if item == 2:
        os._exit(9)
    count_steps(10)
    return base + item


def refuse(base: int, item: int) -> int:
    raise OSError("no such device")


def wait(base: int, item: int) -> int:
    if item:
        time.sleep(600)
    return base


def lost(item: int) -> int:
    return -item


def test_a_killed_process_costs_its_item_alone() -> None:
    heard: list[int] = []
    results = list(in_workers(make_base, work, range(6), 2, lost=lost, heard=heard.append))
    assert sorted(results) == [-2, 100, 101, 103, 104, 105]
    assert heard == sorted(heard)
    assert heard[-1] == 50


def test_an_error_is_raised_where_results_are_awaited() -> None:
    with pytest.raises(OSError, match="no such device"):
        list(in_workers(make_base, refuse, range(3), 2, lost=lost))


def test_whoever_stops_listening_ends_the_processes() -> None:
    before = set(multiprocessing.active_children())
    results = in_workers(make_base, wait, range(2), 2, lost=lost)
    assert next(results) == 100
    results.close()
    end = time.monotonic() + 20
    while set(multiprocessing.active_children()) - before and time.monotonic() < end:
        time.sleep(0.05)
    assert set(multiprocessing.active_children()) <= before


def hold(base: int, item: str) -> int:
    with atomic_path(Path(item, "x.mp4")):
        Path(item, "ready").touch()
        time.sleep(600)
    return base


def test_what_a_process_was_writing_goes_with_it(tmp_path: Path) -> None:
    """Ctrl-C in a list of videos left the half-written ones until the next run."""

    def interrupt(_: int) -> None:
        if (tmp_path / "ready").exists():
            raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        list(in_workers(make_base, hold, [str(tmp_path)], 1, lost=lambda _: -1, heard=interrupt))
    for process in set(multiprocessing.active_children()) - before:
        process.join(20)
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


def test_threads_are_shared_between_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    eight: Callable[[int], set[int]] = lambda _: set(range(8))  # noqa: E731
    monkeypatch.setattr("os.sched_getaffinity", eight, raising=False)
    assert threads_each(None, 1) is None
    assert threads_each(None, 3) == 2
    assert threads_each(None, 99) == 1
    assert threads_each(5, 3) == 5
