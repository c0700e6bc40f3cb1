"""``sttrack-run`` with an engine that finds blobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from blobs import BlobEngine, write_bundle
from click.testing import CliRunner, Result

from sttrack_deploy.cli.run import main
from sttrack_deploy.engines import registry

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in a folder of its own, ``tmp_path / "cwd"``, with the blob's engine and bundle."""
    bundle = write_bundle(tmp_path / "bundle")
    monkeypatch.setattr(registry, "load_engine", lambda *_: BlobEngine())
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [*map(str, arguments), "--bundle", str(bundle)])

    return invoke
