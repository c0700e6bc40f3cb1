"""Puts this folder on the import path for every test, quietens OpenCV, and makes the tiny network."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from shared_folder import SHARED

if TYPE_CHECKING:
    from sttrack_deploy.bundle import Bundle
    from sttrack_deploy.models.corner_network import STTrack

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# No time is asserted: a machine that does other work is slow, not wrong.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tests share the machine with the other workers of pytest-xdist: more threads each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Under nohup SIGHUP is ignored, by what is started as well; tests send one to programs that must obey it.
if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Engines that tests build and caches that they fill must not lie in the engine cache of whoever runs them.
os.environ["STTRACK_ENGINES"] = tempfile.mkdtemp(prefix="sttrack-test-engines-")
atexit.register(shutil.rmtree, os.environ["STTRACK_ENGINES"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _denormal_numbers() -> None:
    """Engines leave the thread that runs them flushing denormal numbers to zero; hypothesis refuses to work then."""
    if sys.float_info.min / 2 == 0.0:
        import torch

        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference traces; tests that need it are skipped where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"the reference traces are not here ({folder.name} beside the checkout in shared/)")
    return folder


@pytest.fixture(scope="session")
def tiny_network() -> STTrack:
    """A network of 60,000 parameters whose outputs depend on every input."""
    import torch
    from tiny import TINY, lively_network

    with torch.random.fork_rng():
        return lively_network(TINY)


@pytest.fixture(scope="session")
def tiny_weights(tiny_network: STTrack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights file."""
    from sttrack_deploy.models.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, tiny_network.config, tiny_network.state_dict())
    return path


@pytest.fixture(scope="session")
def tiny_dynamic_bundle(
    tiny_network: STTrack, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The same with a dynamic batch."""
    from sttrack_deploy.export.exporter import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("export") / "tiny-dynamic"
    return export_bundle(tiny_network, tiny_weights, out, ExportOptions(batch=None), clip=None)


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_network: STTrack, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Its bundle, not validated (the tests do that)."""
    from sttrack_deploy.export.exporter import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("export") / "tiny"
    return export_bundle(tiny_network, tiny_weights, out, ExportOptions(), clip=None)
