"""A child that was forked must not wait for ever for threads that only its parent has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import pytest

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UserError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_a_child(work: Callable[[], bool]) -> int | None:
    """Exit code of a forked child: 0 where ``work`` is true; ``None`` if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    for _ in range(300):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_forked_child_works_or_says_why_not(tiny_bundle: Bundle, name: str) -> None:
    pytest.importorskip(name)
    crop = tiny_bundle.manifest.crop

    def image(size: int) -> tuple[np.ndarray, np.ndarray]:
        cells = size // crop.stride
        return np.zeros((1, size, size, 3), np.uint8), np.zeros((1, cells, cells), np.bool_)

    engine = load_engine(name, tiny_bundle, 2)
    state = engine.initial_state(*image(crop.template_size))
    _, state = engine.step(*image(crop.search_size), state)

    def work() -> bool:
        told = ""
        try:
            engine.step(*image(crop.search_size), state)
        except UserError as error:
            told = str(error)
        return "was made before this process was forked" in told or (name == "onnxruntime" and not told)

    assert in_a_child(work) == 0
    engine.step(*image(crop.search_size), state)  # the parent goes on
