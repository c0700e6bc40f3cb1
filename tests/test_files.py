"""Files appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sttrack_deploy import files
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_directory, atomic_path, cache_home, check_file, check_folder, expanded


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for text in ("one", "two"):
        with atomic_directory(path) as temporary:
            (temporary / text).write_text(text)
    assert [p.name for p in path.iterdir()] == ["two"]

    def fail() -> None:
        with atomic_directory(path) as temporary:
            (temporary / "three").write_text("")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for manager in (atomic_path, atomic_directory):
        with pytest.raises(UserError, match="cannot write"), manager(tmp_path / "file" / "x"):
            pass

    def full() -> None:
        with atomic_path(tmp_path / "y"):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        full()
    assert not (tmp_path / "y").exists()


def write(path: Path, text: str = "new") -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(Path("data") / "real.txt")
    write(tmp_path / "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "data" / "real.txt").read_text() == "new"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("later.txt")
    write(tmp_path / "link.txt")
    assert (tmp_path / "later.txt").read_text() == "new"


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_directory(tmp_path / "link") as temporary:
        (temporary / "one").write_text("")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "one").is_file()


def test_a_device_stays_one(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (Path("/dev/null"), tmp_path / "null"):
        write(path)
        assert path.is_char_device()
    assert [p.name for p in tmp_path.iterdir()] == ["null"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_reaches_its_reader(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe, "through")
    reader.join(10)
    assert got == ["through"]
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        write(Path("/dev/full"))


def test_a_loop_of_links_and_a_long_name_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"cannot write .*loop: Too many levels of symbolic links"):
        write(tmp_path / "loop")
    with pytest.raises(UserError, match="File name too long"):
        write(tmp_path / ("n" * 300))
    write(
        tmp_path / ("é" * 120 + ".json")
    )  # 245 bytes: a name of its own, though the temporary's would be too long
    for check in (check_file, check_folder):
        with pytest.raises(UserError, match="File name too long"):
            check(tmp_path / ("n" * 300))


def test_a_mode_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    write(path)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["", "\0"])
def test_no_name(name: str) -> None:
    with pytest.raises(UserError, match="name a file"):
        check_file(Path(name))


def test_a_folder_with_other_files_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "samples" / "x").mkdir(parents=True)
    (tmp_path / "samples" / "0.npz").write_bytes(b"")
    (tmp_path / "manifest.json").write_bytes(b"")
    own = ["manifest.json", "samples/*.npz"]
    files.check_only(tmp_path, own, "a set")
    (tmp_path / "samples" / "x" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is a set, but samples/x/notes\.txt in it is not part of it"):
        files.check_only(tmp_path, own, "a set")


def test_what_others_wrote_is_not_replaced_unasked(tmp_path: Path) -> None:
    thesis, report = tmp_path / "thesis.json", tmp_path / "report.json"
    thesis.write_text("[1, 2]")
    report.write_text('{"tools": {"sttrack-deploy": "1"}}')
    check_file(report, overwrite=False)
    check_file(tmp_path / "new.json", overwrite=False)
    with pytest.raises(
        UserError, match="was not written by sttrack-deploy; choose another name, or say --overwrite"
    ):
        check_file(thesis, overwrite=False)
    check_file(thesis)


KILLED = """
import sys, time
from pathlib import Path
from sttrack_deploy.files import atomic_directory, atomic_path
with atomic_path(Path(sys.argv[1]) / "a.mp4") as file, atomic_directory(Path(sys.argv[1]) / "d") as folder:
    file.write_text("half")
    (folder / "half").write_text("")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="files cannot be locked like this on Windows")
def test_what_a_killed_run_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SETTLED", 0.0)
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        write(tmp_path / "b.txt")
        names = {path.name for path in tmp_path.iterdir()}
        assert len(names) == 4, f"what a living run writes was removed: {names}"
        process.send_signal(signal.SIGKILL)
    monkeypatch.setattr(files, "_swept", set())
    (tmp_path / ".profile.2024.old").write_text("somebody's own")
    time.sleep(0.01)
    write(tmp_path / "b.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".profile.2024.old", "b.txt"]


def test_a_folder_that_a_killed_run_had_moved_away_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SETTLED", 0.0)
    (tmp_path / ".d.sttrack-abc.old").mkdir()
    (tmp_path / ".d.sttrack-abc.old" / "mine").write_text("")
    time.sleep(0.01)
    write(tmp_path / "b.txt")
    assert (tmp_path / "d" / "mine").is_file()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 999_999)
    assert cache_home().is_absolute()
    assert str(expanded("~/x")) == "~/x"
