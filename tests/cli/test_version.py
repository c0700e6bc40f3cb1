"""``--version``: every command answers it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sttrack_deploy import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8"))[
    "project"
]


@pytest.mark.parametrize("name", sorted(PROJECT["scripts"]))
def test_every_command_tells_its_version(name: str) -> None:
    module, _, function = PROJECT["scripts"][name].partition(":")
    command = getattr(importlib.import_module(module), function)
    result = CliRunner().invoke(command, ["--version"], prog_name=name)
    assert result.exit_code == 0, result.output
    assert result.output == f"{name}, sttrack-deploy {__version__}\n"
