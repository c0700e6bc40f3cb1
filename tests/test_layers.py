"""Imports run downwards: the contracts are in pyproject.toml, docs/architecture.md says why."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_imports_run_downwards(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="the contracts are checked by import-linter")
    monkeypatch.syspath_prepend(str(ROOT))
    code = cli.lint_imports(str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == 0, capsys.readouterr().out
