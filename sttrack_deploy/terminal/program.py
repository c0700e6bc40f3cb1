"""A command-line program: errors become one line and an exit code, lines for people, progress as a bar."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sttrack_deploy import __version__
from sttrack_deploy.errors import UserError, one_line
from sttrack_deploy.terminal.help import GENERAL, heading

__all__ = [
    "INTERRUPTED",
    "Bar",
    "command",
    "complain",
    "console",
    "progress_bar",
    "rich_progress",
    "say",
]


F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

console = Console(stderr=True, highlight=False)
"""For people: progress, tables, notes. Standard output is for results that programs read."""


def say(text: str) -> None:
    """A line for people, as it is: no markup, no wrapping, so that commands can be copied."""
    with contextlib.suppress(OSError):  # the terminal is gone; the work is not lost for that
        console.print(text, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """The same for what went wrong."""
    with contextlib.suppress(OSError):
        console.print(text, markup=False, soft_wrap=True, style="red")


def _tell_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    # Not click's version_option: that keeps the program's name of the first call for all later ones.
    if wanted and not context.resilient_parsing:
        click.echo(f"{context.find_root().info_name}, sttrack-deploy {__version__}")
        context.exit()


def command(function: F) -> F:
    """Make ``--version``, ``--debug`` and the exit codes of :mod:`sttrack_deploy.errors` part of a command.

    Innermost decorator, so that ``--debug`` comes last in the help.
    """

    # Made anew for each command: it keeps the name of the first one that it answers for.
    @heading(GENERAL)
    @click.option(
        "--version",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_tell_version,
        help="Show the version and exit.",
    )
    @click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
    @functools.wraps(function)
    def wrapped(*args: Any, debug: bool, **options: Any) -> Any:
        try:
            with _stopped_like_interrupted():
                made = function(*args, **options)
                if sys.stdout is None:  # closed by whoever started us; nothing was printed then
                    return made
                sys.stdout.flush()  # what cannot be written is to be told, and not at exit, where nobody can
                return made
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _end("interrupted", INTERRUPTED)
        except Exception as error:
            if debug:
                raise
            _explain(error)

    return wrapped  # type: ignore[return-value]


def _explain(error: Exception) -> NoReturn:
    """End with the one line for a failure."""
    if isinstance(error, UserError):
        _end(f"error: {error}", error.exit_code)
    if isinstance(error, BrokenPipeError):
        # The reader of our output went away; say nothing, and keep Python from saying it at exit.
        _forget_output()
        sys.exit(1)
    if sys.stdout is None and isinstance(error, AttributeError):
        _end("error: cannot write standard output: it is closed")
    if isinstance(error, ImportError):
        _end(f"error: {_explain_import(error)}")
    if isinstance(error, MemoryError):
        _end("error: out of memory; use a smaller batch or fewer workers")
    if isinstance(error, OSError):
        # The system's own refusals (a loop of links, a name too long, no space) are never a fault of the code.
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
            _forget_output()
            _end(f"error: cannot write standard output: {error.strerror}")
        name = f"{_text(error.filename)}: " if error.filename is not None else ""
        _end(f"error: {name}{error.strerror or error}")
    text = one_line(error) or "no message"
    _end(f"error: unexpected {type(error).__name__}: {text}; run again with --debug and report it")


def _end(line: str, code: int = 1) -> NoReturn:
    """Say one line on standard error, whatever the text holds, and end."""
    with contextlib.suppress(OSError):  # the terminal is gone
        click.echo(_text(line), err=True)
    sys.exit(code)


def _text(value: object) -> str:
    """One line that can be printed: a file name may hold line breaks, and bytes that are no text."""
    text = os.fsdecode(value) if isinstance(value, bytes) else str(value)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def _forget_output() -> None:
    """Nothing more can be written to standard output, and Python is not to try at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _stopped_like_interrupted() -> Iterator[None]:
    """SIGTERM (a scheduler, ``docker stop``) and SIGHUP (a dropped ssh) become KeyboardInterrupt: what is done is kept.

    SIGHUP stays ignored where it is (``nohup``).
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers can be set in the main thread only
        return
    names = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    previous = {name: signal.getsignal(name) for name in names}
    for name, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(name, signal.default_int_handler)
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _explain_import(error: ImportError) -> str:
    if not _is_opencv(error):
        return f"{error}; run sttrack-doctor to see what is missing"
    return (
        f"OpenCV cannot be loaded ({error}): install libgl1 (apt-get install libgl1), or use the build without "
        "windows: pip uninstall opencv-python && pip install opencv-python-headless"
    )


def _is_opencv(error: ImportError) -> bool:
    """Is it OpenCV that failed to load, or a system library (libGL, libgthread) that it needs?"""
    return (
        (error.name or "").partition(".")[0] == "cv2" or "libGL" in str(error) or "libgthread" in str(error)
    )


class Bar:
    """A :class:`~sttrack_deploy.progress.Progress` of one line: the piece of work under way."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None = None) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total or None)

    def advance(self, count: int = 1) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        say(text)


@contextlib.contextmanager
def rich_progress(refresh: float = 4.0) -> Iterator[Progress]:
    """rich's own bar on standard error, where that is a terminal; gone when the block ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        refresh_per_second=refresh,
    ) as bar:
        yield bar


@contextlib.contextmanager
def progress_bar(refresh: float = 4.0) -> Iterator[Bar]:
    """A bar for the library; ``refresh``: times a second."""
    with rich_progress(refresh) as bar:
        yield Bar(bar)
