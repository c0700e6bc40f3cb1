"""Work spread over processes: one that dies costs the piece it had, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["count_steps", "end_with_parent", "in_workers", "threads_each"]

Item = TypeVar("Item")
Made = TypeVar("Made")
Result = TypeVar("Result")

ENDED = 143
"""Exit code of a worker that was ended."""
LISTEN_SECONDS = 0.25
"""How often ``heard`` is told of steps in the workers."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """The work itself cannot go on: to be raised where the results are awaited."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class _Finished(Generic[Result]):
    value: Result


def in_workers(
    make: Callable[[], Made],
    work: Callable[[Made, Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    lost: Callable[[Item], Result],
    heard: Callable[[int], None] | None = None,
) -> Generator[Result, None, None]:
    """``work(made, item)`` of every item, in the order of completion.

    Everything must be picklable. Each process calls ``make`` once, before its first item. A process that is killed
    costs its item alone: another one takes over.

    Args:
        workers: processes, 1 or more.
        lost: the result of an item whose process was killed.
        heard: told the number of steps so far that the processes gave to :func:`count_steps`.

    Raises:
        BaseException: what ``make`` or ``work`` raised; the other processes are ended.
    """
    # "spawn", because a process that has started inference threads cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    steps = context.Value("Q", 0)
    todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
    done: queue.SimpleQueue[_Finished[Result] | _Failed] = queue.SimpleQueue()
    left = 0
    for item in items:
        todo.put(item)
        left += 1
    stop = threading.Event()
    others = set(multiprocessing.active_children())

    def feed() -> None:
        """Feeds one process; a pool of several would end as a whole with any of them."""
        pool: ProcessPoolExecutor | None = None
        while not stop.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                break
            try:
                pool = pool or ProcessPoolExecutor(1, context, _begin, (make, work, steps))
                done.put(_Finished(pool.submit(_work, item).result()))
            except BrokenProcessPool:
                pool = None
                done.put(_Finished(lost(item)))
            except CancelledError:
                break
            except BaseException as error:
                done.put(_Failed(error))
                break
        if pool is not None:
            pool.shutdown(wait=not stop.is_set(), cancel_futures=True)

    threads = [threading.Thread(target=feed, daemon=True) for _ in range(min(workers, left))]
    for thread in threads:
        thread.start()
    try:
        while left:
            try:
                result = done.get(timeout=LISTEN_SECONDS)
            except queue.Empty:
                result = None
            if heard is not None:
                heard(steps.value)
            if isinstance(result, _Failed):
                raise result.error
            if result is not None:
                left -= 1
                yield result.value
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        if left:  # Ctrl-C and a closed generator too: nobody waits for what still runs
            for last in (False, False, True):  # one may just have been started, or be deaf
                for process in set(multiprocessing.active_children()) - others:
                    process.kill() if last else process.terminate()
                for thread in threads:
                    thread.join(1.0)


def threads_each(threads: int | None, workers: int) -> int | None:
    """Threads for each worker's inference, so that workers do not fight for the CPUs.

    A number asked for is kept. ``None`` stays ``None`` (the back end decides) for one worker.
    """
    if threads is not None or workers <= 1:
        return threads
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cpus = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return max(1, cpus // workers)


def end_with_parent() -> None:
    """End this worker process as soon as its parent is gone, killed too: nobody waits for what it does."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def count_steps(count: int = 1) -> None:
    """Tell the parent of steps done; nothing happens outside a worker."""
    if _steps is not None:
        with _steps.get_lock():
            _steps.value += count


class _Ended(BaseException):
    """The parent ends this process, in the middle of its work: temporary files are removed on the way out."""


def _end(*_: object) -> None:
    if not _busy:
        os._exit(ENDED)
    raise _Ended


_busy = False
_make: Callable[[], Any] | None = None
_do: Callable[[Any, Any], Any] | None = None
_made: tuple[Any] | None = None
_steps: Any = None


def _begin(make: Callable[[], Any], do: Callable[[Any, Any], Any], steps: Any) -> None:
    """Runs once in each worker process."""
    global _make, _do, _steps
    # Ctrl-C and a terminal that is closed reach the whole group; the parent alone answers them.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    end_with_parent()
    _make, _do, _steps = make, do, steps


def _work(item: Any) -> Any:
    global _busy, _made
    assert _make is not None
    assert _do is not None
    try:
        _busy = True
        if _made is None:
            _made = (_make(),)
        return _do(_made[0], item)
    except _Ended:
        os._exit(ENDED)
    finally:
        _busy = False
