"""What the commands share: error handling, option groups, printing."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND
from sttrack_deploy.errors import UserError

__all__ = [
    "INTERRUPTED",
    "bundle_option",
    "command",
    "complain",
    "console",
    "debug_option",
    "engine_options",
    "json_option",
    "say",
    "threads_option",
    "tracking_options",
]

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

console = Console(stderr=True, highlight=False)
"""For people: progress, tables, notes. Standard output is for results that programs read."""


def say(text: str) -> None:
    """A line for people, as it is: no markup, no wrapping, so that commands can be copied."""
    console.print(text, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """The same for what went wrong."""
    console.print(text, markup=False, soft_wrap=True, style="red")


def command(function: F) -> F:
    """Make ``--debug`` and the exit codes of :mod:`sttrack_deploy.errors` part of a command.

    Innermost decorator, so that ``--debug`` comes last in the help.
    """

    @debug_option
    @functools.wraps(function)
    def wrapped(*args: Any, debug: bool, **options: Any) -> Any:
        try:
            with _terminated_like_interrupted():
                return function(*args, **options)
        except UserError as error:
            if debug:
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            # The reader of our output went away; say nothing, and keep Python from saying it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except ImportError as error:
            if debug:
                raise
            if not _is_opencv(error):
                click.echo(f"error: {error}; run sttrack-doctor to see what is missing", err=True)
                sys.exit(1)
            click.echo(
                f"error: OpenCV cannot be loaded ({error}): install libgl1 (apt-get install libgl1), or use "
                "the build without windows: pip uninstall opencv-python && pip install opencv-python-headless",
                err=True,
            )
            sys.exit(1)
        except MemoryError:
            click.echo("error: out of memory; use a smaller batch or fewer workers", err=True)
            sys.exit(1)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if debug:
                raise
            text = " ".join(str(error).split()) or "no message"
            click.echo(
                f"error: unexpected {type(error).__name__}: {text}; run again with --debug and report it",
                err=True,
            )
            sys.exit(1)

    return wrapped  # type: ignore[return-value]


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM (a scheduler, ``docker stop``) becomes KeyboardInterrupt, so that it keeps what is done as well."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers can be set in the main thread only
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _is_opencv(error: ImportError) -> bool:
    """Is it OpenCV that failed to load, or a system library (libGL, libgthread) that it needs?"""
    return (
        (error.name or "").partition(".")[0] == "cv2" or "libGL" in str(error) or "libgthread" in str(error)
    )


debug_option = click.option("--debug", is_flag=True, help="Show the full traceback of an error.")


def bundle_option(function: F) -> F:
    """``--bundle DIR``: which exported model to use."""
    return click.option(
        "--bundle",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Exported bundle.  [default: the shipped sttrack-nano]",
    )(function)


def threads_option(function: F) -> F:
    """``--threads N``."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=None,
        help="CPU threads for inference.  [default: all]",
    )(function)


def engine_options(function: F) -> F:
    """``--engine NAME`` and ``--threads N``."""
    function = threads_option(function)
    return click.option(
        "--engine",
        type=click.Choice(list(BACKENDS)),
        default=DEFAULT_BACKEND,
        show_default=True,
        help="Back end that runs the network.",
    )(function)


def tracking_options(function: F) -> F:
    """``--lost-below X`` and ``--recover``: what to do while the target is lost."""
    function = click.option(
        "--recover/--no-recover",
        default=None,
        help="While lost, search a region that grows around the last good box.  [default: the bundle's]",
    )(function)
    return click.option(
        "--lost-below",
        type=click.FloatRange(0, 1),
        help="Confidence under which the target counts as lost.  [default: the bundle's]",
    )(function)


json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write everything for programs; - for standard output.",
)
