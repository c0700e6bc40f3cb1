"""What is kept in the engine cache, and when it may be used again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sttrack_deploy.engines.building import SIDECAR, altered, fits, kept_in
from sttrack_deploy.files import sha256_of

FACTS = {"version": "1.2", "cpu": "this one"}
NAMES = ("a.bin", "b.bin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with kept_in(tmp_path / "engine", FACTS) as partial:
        for name in NAMES:
            (partial / name).write_bytes(name.encode())
    return tmp_path / "engine"


def test_what_was_kept_fits(folder: Path) -> None:
    assert fits(folder, FACTS, NAMES)
    assert fits(folder, {"cpu": "this one"}, NAMES[:1])
    assert sorted(path.name for path in folder.iterdir()) == [*NAMES, SIDECAR]


def test_under_other_facts_it_does_not(folder: Path) -> None:
    assert not fits(folder, {**FACTS, "cpu": "another"}, NAMES)
    assert not fits(folder, {**FACTS, "threads": "2"}, NAMES)
    assert not fits(folder, FACTS, (*NAMES, "c.bin"))
    assert not fits(folder.parent, FACTS, NAMES)


def _remove(path: Path) -> None:
    path.unlink()


def _flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", [*NAMES, SIDECAR])
@pytest.mark.parametrize("spoil", [_remove, _flip, _empty])
def test_what_was_damaged_does_not(folder: Path, name: str, spoil: Callable[[Path], None]) -> None:
    spoil(folder / name)
    assert not fits(folder, FACTS, NAMES)


@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", '{"sha256": []}', '{"sha256": {"a.bin": 1, "b.bin": 2}}', "{", "\udc80"]
)
def test_a_sidecar_that_says_nothing_does_not(folder: Path, text: str) -> None:
    (folder / SIDECAR).write_text(text, errors="surrogateescape")
    assert not fits(folder, {}, NAMES)


def test_a_failed_write_leaves_what_was_there(folder: Path) -> None:
    def write() -> None:
        with kept_in(folder, {"version": "2"}) as partial:
            (partial / "a.bin").write_bytes(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert fits(folder, FACTS, NAMES)


def test_the_altered_file_is_named(folder: Path) -> None:
    digests = json.loads((folder / SIDECAR).read_text())["sha256"]
    assert digests == {name: sha256_of(folder / name) for name in NAMES}
    assert altered(folder, digests) is None
    _flip(folder / "b.bin")
    assert altered(folder, digests) == "b.bin"
