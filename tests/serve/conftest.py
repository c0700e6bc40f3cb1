"""A server on a free port of the loopback address, with an engine that finds red squares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blobs import BlobEngine, write_bundle, write_video
from served import Served, running

from sttrack_deploy.serve.settings import Limits, Settings


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red square that moves, 20 frames."""
    return write_video(tmp_path_factory.mktemp("serve") / "clip.avi", 20)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts a server: ``serve(settings, seconds=…)``, seconds being what each step of the engine takes."""
    bundle = write_bundle(tmp_path / "bundle")
    with contextlib.ExitStack() as stack:

        def start(
            settings: Settings | None = None,
            *,
            seconds: float = 0.0,
            sources: tuple[str, ...] = (),
            **limits: Any,
        ) -> Served:
            settings = settings or Settings(limits=Limits(**limits))
            return stack.enter_context(running(settings, bundle, lambda _: BlobEngine(seconds), sources))

        yield start
