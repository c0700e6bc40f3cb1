"""Imports run downwards: the contracts are in pyproject.toml, docs/architecture.md says why."""

from __future__ import annotations

import ast
import graphlib
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


PACKAGE = ROOT / "sttrack_deploy"
SMALL = 60
WORTH_A_FILE = {
    "sttrack_deploy.sequences.datasets.tnl2k": "one data set a file",
    "sttrack_deploy.sequences.datasets.uav123": "one data set a file",
}
"""Small files with one importer, and why they are not part of it."""


def _imports(anywhere: bool) -> dict[str, set[str]]:
    """What each file of the package imports of the package.

    Args:
        anywhere: in functions and for type checkers too; else only what is imported with the file.
    """
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = ast.walk(tree) if anywhere else iter(tree.body)
        asked = [full for node in nodes for full in _imported(node)]
        found[name] = {full if full in files else full.rpartition(".")[0] for full in asked} & files.keys()
        found[name] -= {name}
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = _imports(anywhere=False)
    assert len(graph) > 100
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_a_small_file_with_one_importer_is_worth_it() -> None:
    importers: dict[str, set[str]] = {}
    for name, imported in _imports(anywhere=True).items():
        for other in imported:
            importers.setdefault(other, set()).add(name)
    small = {
        name
        for name, by in importers.items()
        if len(by) == 1
        and (path := ROOT / f"{name.replace('.', '/')}.py").is_file()
        and len(path.read_text(encoding="utf-8").splitlines()) <= SMALL
    }
    assert small - WORTH_A_FILE.keys() == set(), "put it into its importer, or say why not"
