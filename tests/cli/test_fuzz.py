"""Hostile command lines and manifests: ``tests/fuzz/`` in processes of their own.

They run every command hundreds of times in one process; whatever that leaves behind must not reach other tests.
For an hour: ``STTRACK_FUZZ_SECONDS=3600 python -m pytest -n 0 -s tests/fuzz/fuzz_lines.py tests/fuzz/fuzz_work.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", sorted(path.name for path in FUZZ.glob("fuzz_*.py")))
def test_hostile_input_is_answered_in_one_line_and_loses_nothing(part: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-s", "-p", "no:cacheprovider", str(FUZZ / part)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
