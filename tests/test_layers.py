"""Imports run downwards: the contracts are in pyproject.toml, docs/architecture.md says why."""

from __future__ import annotations

import ast
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


def test_benchmarks_import_the_library_only() -> None:
    """What the commands keep to themselves may change with them."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    found = [
        f"{file.name}: {name}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in _imported(node)
        if name.startswith("sttrack_deploy.cli")
    ]
    assert files
    assert found == []


def _imported(node: ast.AST) -> list[str]:
    """The modules that a statement may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []
