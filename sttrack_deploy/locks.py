"""One writer at a time: what two processes would both write is refused to the second, or made in turn.

The system drops a lock whose process is gone, however it ended. File systems that know no locks go without.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from sttrack_deploy.errors import UserError

if sys.platform != "win32":
    import fcntl

__all__ = ["alone", "alone_in", "in_turn", "lock"]


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within the block no other process makes this file or folder.

    Folders that it needs are made, and removed again if they stay empty.

    Raises:
        UserError: another process is making it.
    """
    with _beside(path, None):
        yield


@contextlib.contextmanager
def in_turn(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The same for what every process would make alike: a second one waits, and may find it made.

    Args:
        waiting: called before a wait.
    """
    with _beside(path, waiting):
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within the block no other process writes into this folder.

    It is made if it is missing, and removed again if it stays empty.

    Raises:
        UserError: another process does.
    """
    if sys.platform == "win32":
        yield
        return
    made: list[Path] = []
    descriptor = None
    try:
        with contextlib.suppress(OSError):  # whoever writes there will say why it cannot be
            made = _make(folder)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        if descriptor is not None and not lock(descriptor):
            raise UserError(
                f"another process is writing into {folder}; wait for it, or choose another folder"
            )
        yield
    finally:
        if descriptor is not None:
            _close(descriptor)
        _remove_empty(made)


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False: another process has."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here
    return True


@contextlib.contextmanager
def _beside(path: Path, waiting: Callable[[], None] | None) -> Iterator[None]:
    """Lock a file beside what it stands for; ``waiting``: wait for it instead of refusing."""
    if sys.platform == "win32":
        yield
        return
    final = Path(os.path.realpath(path))
    # The name may be too long to become longer.
    digest = zlib.crc32(os.fsencode(final.name))
    name = final.with_name(f".{final.name[:50]}.sttrack-{digest:08x}lock.partial")
    made: list[Path] = []
    descriptor = None
    try:
        try:
            while descriptor is None:
                made += _make(name.parent)
                descriptor = _take(name, path, waiting)
        except OSError:
            pass  # whoever writes there will say why it cannot be
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                name.unlink()
            _close(descriptor)
        _remove_empty(made)


def _take(name: Path, path: Path, waiting: Callable[[], None] | None) -> int | None:
    """Open and lock it; ``None``: who had it removed it meanwhile."""
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        if not lock(descriptor):
            if waiting is None:
                number = os.read(descriptor, 20).decode(errors="replace").strip()
                raise UserError(
                    f"another process{f' ({number})' if number else ''} is writing {path}; wait for it, or choose "
                    "another name"
                )
            waiting()
            lock(descriptor, wait=True)
        if os.path.samestat(os.fstat(descriptor), name.stat()):
            os.write(descriptor, str(os.getpid()).encode())
            taken, descriptor = descriptor, -1
            return taken
    except FileNotFoundError:
        pass
    finally:
        if descriptor >= 0:
            _close(descriptor)
    return None


def _close(descriptor: int) -> None:
    """Also where a forked child still has it open."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _make(folder: Path) -> list[Path]:
    """Make a folder; returns what was missing of its path, from the top."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()
