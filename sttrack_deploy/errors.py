"""The two errors a user can meet, and how another one's text is quoted in their line.

Everything that is the user's to fix (a missing file, a box outside the image, a missing package) is
raised as :class:`UserError` with one line that says what happened, the value seen, what is allowed and
what to type next. The command line turns it into that line and an exit code; anything else is a bug.
"""

from __future__ import annotations

__all__ = ["MissingDependencyError", "UsageError", "UserError", "one_line"]


def one_line(text: object, most: int | None = None) -> str:
    """The text with every run of spaces and line breaks as one space, cut to ``most`` characters."""
    return " ".join(str(text).split())[:most]


class UserError(Exception):
    """A failure the user can fix; ``str(error)`` is the one line to show. Exit code 1."""

    exit_code = 1


class UsageError(UserError, ValueError):
    """The call itself is wrong (an impossible option, a malformed box). Exit code 2.

    Also a :class:`ValueError`: that is what programs expect of a wrong argument.
    """

    exit_code = 2


class MissingDependencyError(UserError):
    """A package or driver that an optional part needs is not installed."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs '{package}', which is not installed: {install}")
        self.package = package
        self.install = install
