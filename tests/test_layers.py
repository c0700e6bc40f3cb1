"""Imports run downwards: the contracts are in pyproject.toml, docs/architecture.md says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_imports_run_downwards() -> None:
    pytest.importorskip("importlinter.cli", reason="the contracts are checked by import-linter")
    # In a process of its own: import-linter's console keeps the stream that it first wrote to.
    command = "import sys; from importlinter.cli import lint_imports as check; sys.exit(check(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
