"""``--version``: every command answers it."""

from __future__ import annotations

import importlib
import subprocess
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


INTERRUPTED = """
import sys, importlib.abc

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "sttrack_deploy.terminal":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
import sttrack_deploy.cli.run
"""


def test_ctrl_c_while_packages_are_imported_is_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert done.stderr == "interrupted\n"
    assert done.returncode != 0
