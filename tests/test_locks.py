"""One writer at a time, and nothing left of the locks; see ``cli/test_at_once.py`` for whole commands."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_directory
from sttrack_deploy.locks import alone, alone_in, in_turn

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such locks on Windows")


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.mp4"
    link = tmp_path / "link.mp4"
    link.symlink_to(path)
    with alone(path):
        for name in (path, link):
            with (
                pytest.raises(UserError, match=rf"another process \({os.getpid()}\) is writing"),
                alone(name),
            ):
                pass
        with alone(path.with_name("other.mp4")):
            pass
    with alone(path):
        pass
    assert list(tmp_path.iterdir()) == [link]


def test_long_names_that_begin_alike_are_others(tmp_path: Path) -> None:
    with alone(tmp_path / ("é" * 110 + "1")), alone(tmp_path / ("é" * 110 + "2")):
        assert len(list(tmp_path.iterdir())) == 2
    assert not any(tmp_path.iterdir())


def test_a_folder_is_kept_if_something_is_in_it(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a" / "b"):
        pass
    assert not any(tmp_path.iterdir())
    with alone_in(tmp_path / "a" / "b"):
        with (
            pytest.raises(UserError, match="another process is writing into"),
            alone_in(tmp_path / "a" / "b"),
        ):
            pass
        (tmp_path / "a" / "b" / "log.csv").write_text("")
    assert (tmp_path / "a" / "b" / "log.csv").is_file()


@pytest.mark.parametrize("context", [alone, alone_in, in_turn])
def test_where_nothing_can_be_made_there_is_no_lock(tmp_path: Path, context: type) -> None:
    """Whoever writes there says why it cannot be."""
    (tmp_path / "file").write_text("")
    with context(tmp_path / "file" / "x"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_all_get_their_turn(tmp_path: Path) -> None:
    inside, most, waited = 0, 0, threading.Event()
    counts = threading.Lock()
    entered = threading.Event()

    def take() -> None:
        nonlocal inside, most
        with in_turn(tmp_path / "engine", waited.set):
            with counts:
                inside += 1
                most = max(most, inside)
            entered.set()
            waited.wait(60)  # until another one waits, for the first of them
            with counts:
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    threads[0].start()
    entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)
    assert not any(tmp_path.iterdir())


def test_folders_that_are_shared_replace_each_other(tmp_path: Path) -> None:
    """Engines of one bundle that two processes build: the last one counts, and is whole."""
    path = tmp_path / "engine"
    with atomic_directory(path, shared=True) as one, atomic_directory(path, shared=True) as two:
        for name, folder in (("one", one), ("two", two)):
            (folder / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["one"]  # it ended last
    assert list(tmp_path.iterdir()) == [path]
