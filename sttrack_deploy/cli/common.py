"""What the commands share: error handling, option groups, printing."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console

from sttrack_deploy import __version__
from sttrack_deploy.bundle import PolicyChanges
from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import check_file, check_folder, made_here
from sttrack_deploy.output_file import check_outputs

__all__ = [
    "FILE",
    "FOLDER",
    "INTERRUPTED",
    "MOST_FRAMES",
    "PATH",
    "THREADS",
    "TRACKING_NAMES",
    "FiniteFloat",
    "NamedPath",
    "bundle_option",
    "check_reports",
    "command",
    "complain",
    "console",
    "debug_option",
    "emit_json",
    "engine_options",
    "json_option",
    "overwrite_option",
    "say",
    "threads_option",
    "tracking_options",
]

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

MOST_FRAMES = 10**9
"""Upper limit of options that count frames: no video is as long."""


class FiniteFloat(click.FloatRange):
    """A number within a range; NaN, which passes every comparison, and infinity are no numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class NamedPath(click.Path):
    """A path that has a name: an empty one would be the current folder, which nobody means."""

    def __init__(
        self,
        *,
        exists: bool = False,
        dir_okay: bool = True,
        file_okay: bool = True,
        allow_dash: bool = False,
    ) -> None:
        super().__init__(
            path_type=Path, exists=exists, dir_okay=dir_okay, file_okay=file_okay, allow_dash=allow_dash
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip() or "\0" in str(value):
            self.fail("the name is empty.", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except OSError as error:  # a name that is too long
            self.fail(f"{value!r}: {error.strerror}.", param, ctx)


FILE = NamedPath(dir_okay=False)
FOLDER = NamedPath(file_okay=False)
PATH = NamedPath()
THREADS = click.IntRange(1, 1024)

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
    @click.option(
        "--version",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_tell_version,
        help="Show the version and exit.",
    )
    @debug_option
    @functools.wraps(function)
    def wrapped(*args: Any, debug: bool, **options: Any) -> Any:
        try:
            with _stopped_like_interrupted():
                made = function(*args, **options)
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
    text = " ".join(str(error).split()) or "no message"
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


debug_option = click.option("--debug", is_flag=True, help="Show the full traceback of an error.")


def bundle_option(function: F) -> F:
    """``--bundle DIR``: which exported model to use."""
    return click.option(
        "--bundle",
        type=FOLDER,
        default=None,
        help="Exported bundle.  [default: the shipped sttrack-nano]",
    )(function)


def threads_option(function: F) -> F:
    """``--threads N``."""
    return click.option(
        "--threads",
        type=THREADS,
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


_TRACKING_OPTIONS = (
    click.option(
        "--lost-below",
        type=FiniteFloat(0, 1),
        help="Confidence under which the target counts as lost.  [default: the bundle's, as of all these]",
    ),
    click.option(
        "--recover/--no-recover",
        default=None,
        help="While lost, search a region that grows around the last good box.",
    ),
    click.option(
        "--max-growth",
        type=FiniteFloat(1, 100),
        help="How often the usual search region's side that region gets at most.",
    ),
    click.option(
        "--reliable-above",
        type=FiniteFloat(0, 1),
        help="Let that region fit the usual size on frames of at least this confidence, not a shrunken box; 0: off.",
    ),
    click.option(
        "--frame-after",
        type=click.IntRange(0, MOST_FRAMES),
        help="Lost frames after which every second search looks at another part of the whole frame; 0: never.",
    ),
    click.option(
        "--jump-penalty",
        type=FiniteFloat(0, 1000),
        help="How much the confidence falls with a jump beyond the recent motion; 0: not.",
    ),
    click.option(
        "--change-penalty",
        type=FiniteFloat(0, 1000),
        help="The same for a sudden change of size and aspect; 0: not.",
    ),
    click.option(
        "--size-smoothing",
        type=FiniteFloat(0, 0.99),
        help="Share of each change of size that is held back at full confidence, more at less; 0: off.",
    ),
)


TRACKING_NAMES = tuple(
    "recover" if spec.name == "recovery" else spec.name for spec in dataclasses.fields(PolicyChanges)
)
"""Parameter names of :func:`tracking_options`."""


def tracking_options(function: F) -> F:
    """What to do with the network's answer, as one argument ``changes``: a :class:`PolicyChanges`."""

    @functools.wraps(function)
    def gathered(*args: Any, **options: Any) -> Any:
        options["recovery"] = options.pop("recover")
        names = [spec.name for spec in dataclasses.fields(PolicyChanges)]
        return function(
            *args, changes=PolicyChanges(**{name: options.pop(name) for name in names}), **options
        )

    wrapped: Any = gathered
    for option in reversed(_TRACKING_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


json_option = click.option(
    "--json",
    "json_path",
    type=NamedPath(dir_okay=False, allow_dash=True),
    help="Write everything for programs; - for standard output.",
)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace files that exist and that sttrack-deploy did not write."
)


def check_reports(files: Sequence[Path | None], folder: Path | None = None, *, overwrite: bool) -> None:
    """Check, before the work, that a report can be written and that nobody's file is lost by it.

    What an earlier run wrote is replaced unasked, so that the same command can be given again.

    Args:
        files: what will be written; ``-`` is standard output.
        folder: of plots.

    Raises:
        UsageError: one file is named twice.
        UserError: it cannot be written, or something is there that is not ours.
    """
    named = [path for path in files if path is not None and path != Path("-")]
    check_outputs(named, (), overwrite=True)
    for path in named:
        check_file(path, overwrite=overwrite)
    if folder is None:
        return
    check_folder(folder)
    pictures = [] if overwrite else sorted((*folder.glob("*.png"), *folder.glob("*.svg")))
    for path in pictures:
        if not made_here(path):
            raise UserError(
                f"{path} was not written by sttrack-deploy and could be lost; name another folder, or say --overwrite"
            )


def emit_json(document: Any, path: Path | None) -> None:
    """Write a document where ``--json`` says; nothing without it."""
    if path is None:
        return
    from sttrack_deploy.evaluation.report import write_json

    if str(path) == "-":
        click.echo(write_json(document, None), nl=False)
        return
    write_json(document, path)
    say(f"made {path}")
