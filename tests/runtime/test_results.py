from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.runtime.results import BoxesWriter, FrameResult, JsonToStdout, JsonWriter, json_line

RESULT = FrameResult(3, 0.12, (1.234, 5.0, 6.789, 10.006), 0.91234, False)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    with BoxesWriter(tmp_path / "b"), JsonWriter(tmp_path / "j"):
        pass
    assert leftovers(tmp_path) == []


def test_a_former_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("old")
    with BoxesWriter(path) as boxes:
        boxes.write([RESULT])
        assert path.read_text() == "old"
    assert path.read_text() == "1.23,5.00,6.79,10.01\n"


@pytest.mark.parametrize("make", [BoxesWriter, JsonWriter])
def test_a_folder_that_cannot_be_written(tmp_path: Path, make: type[BoxesWriter]) -> None:
    # The tests may run as root, who may write anywhere: a file in place of the folder stops root too.
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        make(tmp_path / "file" / "deeper" / "out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="is a folder; name a file"):
        make(tmp_path / "taken")
    assert leftovers(tmp_path) == ["file", "taken"]


class Full:
    """A file on a disk that takes ``room`` more bytes."""

    def __init__(self, file: object, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(self.room, len(data))
        self.room -= taken
        return int(self.file.write(data[:taken]))  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def test_a_full_disk_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"

    def fill() -> None:
        with BoxesWriter(path) as boxes:
            boxes._file = Full(boxes._file, 50)  # type: ignore[assignment]
            for _ in range(10):
                boxes.write([RESULT])

    with pytest.raises(UserError, match="disk is full"):
        fill()
    assert path.read_text() == "1.23,5.00,6.79,10.01\n" * 2
    assert leftovers(tmp_path) == ["boxes.txt"]


def test_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = RESULT._replace(id=2, lost=True, age=0.0321987)
    with JsonWriter(tmp_path / "out.jsonl") as lines:
        lines.write([RESULT])
        lines.write([RESULT._replace(frame=4), second._replace(frame=4)])
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert records[0] == {
        "version": 1, "frame": 3, "time": 0.12, "id": 1, "box": [1.234, 5.0, 6.789, 10.006], "confidence": 0.9123,
        "lost": False,
    }  # fmt: skip
    assert [(record["frame"], record["id"], record["lost"]) for record in records] == [
        (3, 1, False),
        (4, 1, False),
        (4, 2, True),
    ]
    assert records[2]["age"] == 0.0322
    assert set(records[2]) == {*records[0], "age"}
    JsonToStdout().write([RESULT])
    assert json.loads(capsys.readouterr().out) == records[0]


@pytest.mark.parametrize("change", [{"confidence": float("nan")}, {"box": (0, 0, float("inf"), 1)}])
def test_no_line_holds_what_is_no_number(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match="frame 3 is not a number"):
        json_line(RESULT._replace(**change))  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_links_are_followed_and_fifos_and_devices_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real.txt")
    fifo, device = tmp_path / "fifo", tmp_path / "null"
    os.mkfifo(fifo)
    device.symlink_to("/dev/null")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()), daemon=True)
    reader.start()
    with BoxesWriter(tmp_path / "link") as one, BoxesWriter(fifo) as two, BoxesWriter(device) as three:
        for writer in (one, two, three):
            writer.write([RESULT])
    reader.join(10)
    line = "1.23,5.00,6.79,10.01\n"
    assert got == [line]
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real.txt").read_text() == line
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert device.is_symlink()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert leftovers(tmp_path) == ["fifo", "link", "null", "real.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_device_that_is_full() -> None:
    writer = BoxesWriter(Path("/dev/full"))
    with pytest.raises(UserError, match="cannot write /dev/full: No space left"):
        writer.write([RESULT])
