"""``sttrack-eval`` on two small sequences with a bundle whose engine finds red squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from moving_square import RedTracker, write_bundle, write_sequence

from sttrack_deploy.cli import evaluate as command
from sttrack_deploy.evaluation import evaluation as evaluation_module


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(evaluation_module, "BundleTracker", RedTracker)
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_sequence(tmp_path / "data", "there", frames=10, video=True)
    write_sequence(tmp_path / "data", "gone", frames=12, absent=(5, 6, 7))
    return tmp_path / "data"


@pytest.fixture
def invoke(bundle: Path, data: Path) -> Callable[..., Result]:
    def call(*options: object, folder: Path = data, bundle: Path | None = bundle) -> Result:
        arguments = ["--data", folder, *options]
        if bundle is not None:
            arguments += ["--bundle", bundle]
        return CliRunner().invoke(command.main, [str(a) for a in arguments])

    return call
