"""Writing files so that nothing is ever half-written under its final name, and hashing them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sttrack_deploy.errors import UserError

__all__ = ["atomic_directory", "atomic_path", "explain_os_error", "sha256_of"]


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def explain_os_error(error: OSError, path: Path) -> UserError:
    """The one line for a failed write."""
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(_existing_parent(path)).free // 2**20
        return UserError(
            f"the disk is full: could not write {path} ({free} MiB free); free some space and run again"
        )
    return UserError(f"cannot write {path}: {error.strerror or error}")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file name beside ``path``, renamed to it when the block ends without an error.

    The temporary keeps the suffix, because video writers choose their format by it.

    Raises:
        UserError: the folder cannot be created or written, or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb"):
            pass
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may not exist: the error above is the one to show
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that replaces it when the block ends without an error.

    Raises:
        UserError: the parent folder cannot be created or written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise explain_os_error(error, path) from error
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise explain_os_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
