"""The npm package onnxruntime-web: its pinned version, fetched once and kept in the engine cache."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path

from sttrack_deploy.engines.building import engine_cache
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.files import atomic_directory
from sttrack_deploy.records import parse_json, read_text, show

__all__ = ["FILES", "PACKAGE", "VERSION", "copy_runtime", "find_runtime"]

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
MODULE, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
FILES = (MODULE, BINARY)
"""What a page needs of the package's ``dist`` folder."""
_NOTICE = """{package} {version}, copied unchanged from the npm package of that name.
Copyright (c) Microsoft Corporation. All rights reserved.

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def find_runtime(given: Path | None = None) -> Path:
    """A folder with :data:`FILES` of the pinned version.

    Args:
        given: the unpacked package, its ``dist`` folder, or its ``.tgz``; ``None``: the engine cache, filled
            with ``npm pack`` where it is empty.

    Raises:
        MissingDependencyError: npm is needed and not installed.
        UserError: the files are not there, are of another version, or npm failed.
    """
    if given is not None:
        return _from_archive(given) if given.is_file() else _checked(given)
    kept = _kept()
    if all((kept / name).is_file() for name in FILES):
        return kept
    with tempfile.TemporaryDirectory(prefix="sttrack-npm-") as folder:
        return _from_archive(_fetch(Path(folder)))


def copy_runtime(runtime: Path, folder: Path) -> None:
    """Copy the package's files, its own description and its license to a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, "package.json"):
        if (runtime / name).is_file():
            shutil.copyfile(runtime / name, folder / name)
    text = _NOTICE.format(package=PACKAGE, version=VERSION)
    (folder / "LICENSE").write_text(text, encoding="utf-8")


def _kept() -> Path:
    return engine_cache() / f"{PACKAGE}-{VERSION}"


def _fetch(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            "npm",
            PACKAGE,
            f"apt-get install npm, or download {PACKAGE} {VERSION} and name it with --runtime FILE.tgz",
        )
    call = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
    try:
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"npm pack {PACKAGE}@{VERSION} did not finish in 5 minutes; run it again") from error
    found = list(folder.glob("*.tgz"))
    if done.returncode or not found:
        reason = " ".join(done.stderr.split())[-300:]
        raise UserError(
            f"npm pack {PACKAGE}@{VERSION} failed: {reason}; where there is no network, name the package with "
            "--runtime FILE.tgz"
        )
    return found[0]


def _from_archive(path: Path) -> Path:
    """Unpack what is needed of the package to the engine cache."""
    wanted = {f"package/dist/{name}": name for name in FILES} | {"package/package.json": "package.json"}
    with atomic_directory(_kept(), shared=True) as partial:
        try:
            with tarfile.open(path, "r:gz") as archive:
                for member, name in wanted.items():
                    file = archive.extractfile(member)
                    if file is None:
                        raise KeyError(member)
                    with file, (partial / name).open("wb") as out:
                        shutil.copyfileobj(file, out)
        except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not the npm package {PACKAGE} {VERSION}: {error}") from error
        _check_version(partial / "package.json")
    return _kept()


def _checked(folder: Path) -> Path:
    """The folder that holds the files: this one, or ``dist`` inside it."""
    for home in (folder, folder / "dist"):
        if all((home / name).is_file() for name in FILES):
            described = next(
                (f for f in (home / "package.json", home.parent / "package.json") if f.is_file()), None
            )
            if described is not None:
                _check_version(described)
            return home
    raise UserError(
        f"{folder} is not the npm package {PACKAGE}: it lacks {FILES[0]}; get it with npm pack {PACKAGE}@{VERSION}"
    )


def _check_version(path: Path) -> None:
    data = parse_json(read_text(path, "the package's description"), str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path} does not describe a package")
    name, version = data.get("name"), data.get("version")
    if (name, version) != (PACKAGE, VERSION):
        raise UserError(
            f"{path} is of {show(name)} {show(version)}, not {PACKAGE} {VERSION}: npm pack {PACKAGE}@{VERSION}"
        )
