"""Making a plan in a process of its own.

After a build that failed for Turing, the next build in that process silently gets Turing's restrictions (TensorRT for
RTX 1.7). A library that ends its process takes nothing with it either.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from sttrack_deploy.engines.building import BuildReport, child_environment
from sttrack_deploy.engines.tensorrt.plan_maker import MadePlan, PlanJob, Stop, make_plan, stop_on_interrupt
from sttrack_deploy.engines.tensorrt.toolkit import FLAVORS, Toolkit, open_toolkit
from sttrack_deploy.errors import UsageError, UserError

__all__ = ["make_plan_apart"]

_ERRORS: dict[str, type[UserError]] = {"UserError": UserError, "UsageError": UsageError}
_PATIENCE = 20.0
"""Seconds that a build has for ending by itself once it was asked to."""


def make_plan_apart(here: Toolkit, job: PlanJob, report: BuildReport, stop: Stop) -> MadePlan:
    """:func:`plan_maker.make_plan` in a process of its own, with the same result, progress and errors.

    Raises:
        UserError: what it raises, or the process ended without a word.
        UsageError: what it raises.
        KeyboardInterrupt: ``stop`` was requested.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(dataclasses.asdict(job))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
        text=True,
        encoding="utf-8",
    )
    answer: dict[str, Any] = {}
    spoken: list[str] = []
    listeners = [
        threading.Thread(target=_listen, args=(process.stdout, report, stop, answer), daemon=True),
        threading.Thread(target=_collect, args=(process.stderr, spoken), daemon=True),
    ]
    for listener in listeners:
        listener.start()
    try:
        while process.poll() is None and not stop.requested:
            listeners[0].join(0.05)
            if not listeners[0].is_alive():
                process.wait()
        if stop.requested:
            process.terminate()
            process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for listener in listeners:
            listener.join()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if stop.requested:
        raise KeyboardInterrupt
    if error := answer.get("error"):
        raise _ERRORS.get(error[0], UserError)(error[1])
    made = answer.get("made")
    if made is None:
        said = " ".join("".join(spoken).split())[-300:]
        raise UserError(
            f"{here.flavor.title}'s builder ended with exit code {process.returncode} while it built {job.graph}.onnx "
            f"of {job.bundle}: {said or 'it said nothing'}"
        )
    return MadePlan(tuple(made["warnings"]), made["kernels"], made["scratch_bytes"])


def _listen(lines: IO[str], report: BuildReport, stop: Stop, answer: dict[str, Any]) -> None:
    """Hand the other process's progress on; keep what it says last."""
    for line in lines:
        try:
            (kind, value), *_ = json.loads(line).items()
        except (ValueError, AttributeError):
            continue
        if kind == "phase":
            report.phase(*value)
        elif kind == "step":
            if not report.step(*value):
                stop.request()
        elif kind == "finish":
            report.finish(value)
        else:
            answer[kind] = value


def _collect(lines: IO[str], into: list[str]) -> None:
    into.extend(lines)


class _Telling:
    """A report that writes lines of JSON; TensorRT calls it from several threads."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._lock = threading.Lock()

    def say(self, **what: Any) -> None:
        with self._lock:
            self._write(json.dumps(what) + "\n")

    def phase(self, name: str, parent: str | None, steps: int) -> None:
        self.say(phase=[name, parent, steps])

    def step(self, name: str, done: int) -> bool:
        self.say(step=[name, done])
        return True

    def finish(self, name: str) -> None:
        self.say(finish=name)

    def note(self, text: str) -> None:
        self.say(note=text)


def _child(text: str) -> None:
    """What the process of its own does."""
    # Whatever a library prints must not come between the lines of JSON.
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as out:
        os.dup2(2, 1)
        told = _Telling(out.write)
        values = json.loads(text)
        for name in ("batch", "capabilities", "flags"):
            values[name] = tuple(values[name])
        stop = Stop()
        try:
            with stop_on_interrupt(stop):
                job = PlanJob(**values)
                made = make_plan(open_toolkit(FLAVORS[job.flavor]), job, told, stop)
            told.say(made=dataclasses.asdict(made))
        except UserError as error:
            told.say(error=[type(error).__name__, str(error)])
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    _child(sys.argv[1])
