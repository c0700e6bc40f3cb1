from __future__ import annotations

import errno
import json
import os
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import SIZE, frame, read_video, truth

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.runtime import sink
from sttrack_deploy.runtime.sink import BoxesWriter, FrameResult, JsonToStdout, JsonWriter, VideoWriter

RESULT = FrameResult(3, 0.12, (1.234, 5.0, 6.789, 10.006), 0.91234, False)
Usage = namedtuple("Usage", "total used free")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.mkv", "out.mov", "OUT.MP4"])
@pytest.mark.parametrize("size", [SIZE, (91, 161)])
def test_video(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    path = tmp_path / "new" / name
    with VideoWriter(path, 30) as video:
        for index in range(10):
            video.write(frame(truth(index), size, index))
        assert not path.exists()
    assert video.kept
    assert leftovers(path.parent) == [name]
    frames = read_video(path)
    assert len(frames) == 10
    assert frames[0].shape[:2] in {size, (size[0] - size[0] % 2, size[1] - size[1] % 2)}
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30)


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("elsewhere"), RuntimeError])
def test_an_interrupted_video_is_complete(tmp_path: Path, error: BaseException) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "out.mp4", 25) as video:
            for index in range(7):
                video.write(frame(truth(index), seed=index))
            raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        interrupted()
    assert leftovers(tmp_path) == ["out.mp4"]
    assert len(read_video(tmp_path / "out.mp4")) == 7


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", 25), BoxesWriter(tmp_path / "b"), JsonWriter(tmp_path / "j"):
        pass
    assert leftovers(tmp_path) == []


def test_a_former_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("old")
    with BoxesWriter(path) as boxes:
        boxes.write([RESULT])
        assert path.read_text() == "old"
    assert path.read_text() == "1.23,5.00,6.79,10.01\n"


def test_mp4_falls_back_to_avi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sink.CODECS, ".mp4", ("ZZZZ",))
    with VideoWriter(tmp_path / "out.mp4", 25) as video:
        video.write(frame(truth(0)))
    assert video.path == tmp_path / "out.avi"
    assert leftovers(tmp_path) == ["out.avi"]
    assert len(read_video(tmp_path / "out.avi")) == 1


def test_no_codec_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sink.CODECS, ".mp4", ("ZZZZ",))
    monkeypatch.setitem(sink.CODECS, ".avi", ("ZZZZ",))
    with pytest.raises(UserError, match="--no-video"), VideoWriter(tmp_path / "out.mp4", 25) as video:
        video.write(frame(truth(0)))
    assert leftovers(tmp_path) == []


def test_a_suffix_that_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4"):
        VideoWriter(tmp_path / "out.txt", 25)


@pytest.mark.parametrize("make", [BoxesWriter, JsonWriter, lambda path: VideoWriter(path, 25)])
def test_a_folder_that_cannot_be_written(tmp_path: Path, make: type[BoxesWriter]) -> None:
    # The tests may run as root, who may write anywhere: a file in place of the folder stops root too.
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        make(tmp_path / "file" / "deeper" / "out.mp4")
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(UserError, match="is a folder; name a file"):
        make(tmp_path / "taken.mp4")
    assert leftovers(tmp_path) == ["file", "taken.mp4"]


def test_a_full_disk_stops_the_video_while_it_can_be_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frees = iter([10**9] * 7 + [sink.RESERVE_BYTES])
    monkeypatch.setattr(sink.shutil, "disk_usage", lambda _: Usage(0, 0, next(frees, 0)))

    def fill() -> None:
        with VideoWriter(tmp_path / "out.mp4", 25) as video:
            for index in range(20):
                video.write(frame(truth(index)))

    with pytest.raises(UserError, match=r"disk is full: no room for frame 6 .* kept in"):
        fill()
    assert len(read_video(tmp_path / "out.mp4")) == 6
    assert leftovers(tmp_path) == ["out.mp4"]


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink.shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    with pytest.raises(UserError, match="disk is full"), VideoWriter(tmp_path / "out.mp4", 25) as video:
        video.write(frame(truth(0)))
    assert leftovers(tmp_path) == []


def test_a_video_that_cannot_be_completed_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lossy:
        """Loses everything without a word, as OpenCV 4 does on a full disk."""

        def __init__(self, *_: object) -> None: ...

        def isOpened(self) -> bool:
            return True

        def write(self, image: np.ndarray) -> None: ...

        def release(self) -> None: ...

    monkeypatch.setattr(sink.cv2, "VideoWriter", type("V", (Lossy,), {"fourcc": staticmethod(lambda *_: 0)}))
    with (
        pytest.raises(UserError, match="could not be completed"),
        VideoWriter(tmp_path / "o.mp4", 25) as video,
    ):
        video.write(frame(truth(0)))
    assert leftovers(tmp_path) == []


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
    with JsonWriter(tmp_path / "out.jsonl") as lines:
        lines.write([RESULT])
        lines.write([RESULT._replace(frame=4, lost=True)])
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert first == {
        "frame": 3, "time": 0.12, "box": [1.234, 5.0, 6.789, 10.006], "confidence": 0.9123, "lost": False
    }  # fmt: skip
    assert second["frame"] == 4
    assert second["lost"] is True
    JsonToStdout().write([RESULT])
    assert json.loads(capsys.readouterr().out) == first
