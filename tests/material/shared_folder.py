"""Where the project's own material lies, which is not part of the repository: tests that use it skip without it."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
