"""Writing files so that nothing is ever half-written under its final name, and hashing them.

What a killed run left behind (SIGKILL, a power cut) is removed by the next one that writes into the same folder:
temporary files are locked while they are written, and the system drops the lock of a process that is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.locks import alone, lock

if sys.platform != "win32":
    import fcntl

__all__ = [
    "atomic_directory",
    "atomic_path",
    "cache_home",
    "check_file",
    "check_folder",
    "check_only",
    "expanded",
    "explain_os_error",
    "is_special",
    "made_here",
    "sha256_of",
]

MARK = re.compile(rb"sttrack[-_]deploy")
"""Stands in every report, table and picture that the commands write; see :func:`made_here`."""

_SETTLED = 1.0
"""Seconds after which an unlocked temporary is a leftover and not one that is about to be locked."""
_LEFTOVER = re.compile(r"\.(?P<name>.*)\.sttrack-\w+\.(partial(\.\w*)?|old)")
_numbers = itertools.count()
_swept: set[Path] = set()


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def explain_os_error(error: OSError, path: Path) -> UserError:
    """The one line for a failed write."""
    if error.errno == errno.ENOSPC and not is_special(path):
        free = shutil.disk_usage(_existing_parent(path)).free // 2**20
        return UserError(
            f"the disk is full: could not write {path} ({free} MiB free); free some space and run again"
        )
    return UserError(f"cannot write {path}: {error.strerror or error}")


def is_special(path: Path) -> bool:
    """Whether it is there and neither a file nor a folder: a device, a FIFO, a socket, the process's own output.

    Such a thing is written straight to: putting a file in its place would destroy it.
    """
    if (
        path.is_absolute()
        and path.parts[1:2] in (("dev",), ("proc",))
        and path.parts[:3] != ("/", "dev", "shm")
    ):
        return True
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def check_file(path: Path, *, overwrite: bool = True) -> None:
    """Whether a file can be written there; to be asked before the work, not after it.

    Args:
        overwrite: whether a file that is there and not :func:`made_here` may be replaced.

    Raises:
        UserError: it has no name, is a folder, its folder cannot be made or written, or it must not be replaced.
    """
    if not path.name or "\0" in str(path):
        raise UserError(f"cannot write {str(path)!r}: name a file")
    try:
        os.stat(path)  # noqa: PTH116 (Path.exists hides loops of links)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise explain_os_error(error, path) from error
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    if is_special(path):
        return
    _check_parent(path)
    if not overwrite and path.exists() and not made_here(path):
        raise UserError(
            f"{path} exists and was not written by sttrack-deploy; choose another name, or say --overwrite"
        )


def check_folder(path: Path) -> None:
    """Whether a folder can be made there, or is there and can be written into.

    Raises:
        UserError: it has no name, something else is there, or its parent cannot be written.
    """
    if not str(path) or "\0" in str(path):
        raise UserError(f"cannot write {str(path)!r}: name a folder")
    try:
        there = path.is_dir()
        if not there and (path.exists() or path.is_symlink()):
            raise UserError(f"cannot write into {path}: it is not a folder")
    except OSError as error:
        raise explain_os_error(error, path) from error
    if not there:
        _check_parent(path)
    elif not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {path}: Permission denied")


def check_only(folder: Path, own: Collection[str], what: str) -> None:
    """Whether a folder that is to be replaced as a whole holds nothing but what we wrote.

    Args:
        own: patterns of the files' names below it: ``samples/*.npz``.
        what: it is, for the error.

    Raises:
        UserError: something else is in it, which would be lost.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and not any(fnmatch.fnmatchcase(name, pattern) for pattern in own):
            raise UserError(
                f"{folder} is {what}, but {name} in it is not part of it, and would be lost; choose another --out, or "
                "remove it"
            )


def made_here(path: Path) -> bool:
    """Whether a command of this project wrote the file (or it is empty): it may write it again."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(1 << 16)
            file.seek(max(0, size - (1 << 16)))
            return size == 0 or bool(MARK.search(start) or MARK.search(file.read()))
    except OSError:
        return False


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file name beside ``path``, renamed to it when the block ends without an error.

    The temporary keeps the suffix, because video writers choose their format by it. A link is followed: its target
    is replaced. A device, a FIFO and the like is written straight to; then the name is ``path`` itself.

    Raises:
        UserError: the folder cannot be created or written, or the disk is full.
    """
    check_file(path)
    if is_special(path):
        try:
            yield path
        except OSError as error:
            raise explain_os_error(error, path) from error
        return
    final = Path(os.path.realpath(path))
    stem, suffix = final.stem[:30], final.suffix[:20]
    temporary = final.with_name(f".{stem}.sttrack-{os.getpid():x}x{next(_numbers):x}.partial{suffix}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        with temporary.open("wb") as file:
            lock(file.fileno())  # it says that its writer lives
            if final.exists():
                with contextlib.suppress(OSError):
                    temporary.chmod(final.stat().st_mode & 0o777)
            yield temporary
            temporary.replace(final)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may not exist: the error above is the one to show
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path`` that replaces it when the block ends without an error.

    Args:
        shared: other processes may make it at the same time; the last one counts.

    Raises:
        UserError: the parent folder cannot be created or written, the disk is full, or another process is making it.
    """
    check_folder(path)
    with contextlib.nullcontext() if shared else alone(path):
        yield from _replaced(path)


def _replaced(path: Path) -> Iterator[Path]:
    final = Path(os.path.realpath(path))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{final.name}.sttrack-", suffix=".partial", dir=final.parent)
        )
    except OSError as error:
        raise explain_os_error(error, path) from error
    old = temporary.with_suffix(".old")
    try:
        with _locked_folder(temporary):
            yield temporary
            temporary.chmod(0o755)
            _put(temporary, final, old)
    except OSError as error:
        if old.exists() and not final.exists():
            old.rename(final)
        raise explain_os_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _put(temporary: Path, final: Path, old: Path) -> None:
    """Give a folder its name; what has it goes to ``old``. Others may do the same at the same time."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            final.rename(old)
        try:
            temporary.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            return


def cache_home() -> Path:
    """``$XDG_CACHE_HOME``, ``~/.cache``, or for a user without a home a folder among the temporary files."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        return Path(tempfile.gettempdir()) / f"cache-{user}"


def expanded(text: str) -> Path:
    """A path whose ``~`` is the user's home; left as it is where there is none."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises RuntimeError)


def _check_parent(path: Path) -> None:
    try:
        parent = _existing_parent(path.parent)
    except OSError as error:
        raise explain_os_error(error, path) from error
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: no permission to write into {parent}")


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _sweep(folder: Path) -> None:
    """Remove what killed runs left in a folder; once for each folder and process."""
    if folder in _swept or sys.platform == "win32":
        return
    _swept.add(folder)
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _LEFTOVER.fullmatch(entry.name)
            if match is None or time.time() - entry.stat(follow_symlinks=False).st_ctime < _SETTLED:
                continue
            with contextlib.suppress(OSError):
                _remove_leftover(Path(entry.path), folder / match["name"])


def _remove_leftover(path: Path, final: Path) -> None:
    """``final``: the name that a folder would have got."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused: it is being written
        if path.suffix == ".old" and not final.exists():
            path.rename(final)  # killed between the two renames: this is the only copy
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)
