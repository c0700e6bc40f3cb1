from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from clips import level, picture, write_clip

from sttrack_deploy import files
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.output_file import check_outputs
from sttrack_deploy.video import writer
from sttrack_deploy.video.file_types import CODECS
from sttrack_deploy.video.reader import open_video
from sttrack_deploy.video.writer import VideoWriter, check_codec, time_base

STEADY = [index / 25 for index in range(20)]


def written(path: Path, times: list[float], fps: float | None = 25.0, **options: object) -> Path:
    with VideoWriter(path, fps, **options) as video:  # type: ignore[arg-type]
        for index, time in enumerate(times):
            video.write(picture(index), time)
    assert video.kept
    return path


def write_until(path: Path, count: int, error: type[BaseException] | None = None) -> None:
    with VideoWriter(path, 25) as video:
        for index in range(count):
            video.write(picture(index))
        if error is not None:
            raise error


def codec_of(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.name


@pytest.mark.skipif(sys.platform != "linux", reason="threads' scheduling is looked up as Linux has it")
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_no_thread_becomes_a_real_time_one(codec: str, tmp_path: Path) -> None:
    """SVT-AV1 does that as root; the process and all it starts would starve the machine."""
    with VideoWriter(tmp_path / "a.mp4", 25, codec=codec) as video:
        for index in range(3):
            video.write(picture(index))
            policies = {os.sched_getscheduler(int(t.name)) for t in Path("/proc/self/task").iterdir()}
            assert policies == {os.SCHED_OTHER}


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("a.mp4", None, "h264"),
        ("a.mp4", "av1", "libdav1d"),
        ("a.mp4", "mpeg4", "mpeg4"),
        ("a.m4v", None, "h264"),
        ("a.mov", None, "h264"),
        ("a.mkv", "av1", "libdav1d"),
        ("a.webm", None, "libdav1d"),
        ("a.avi", None, "mpeg4"),
        ("a.avi", "h264", "h264"),
    ],
)
def test_formats(name: str, codec: str | None, expected: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, STEADY, codec=codec)
    assert codec_of(path).removeprefix("lib") in (expected.removeprefix("lib"), "av1")
    frames = list(open_video(path))
    assert len(frames) == 20
    for index, frame in enumerate(frames):
        height, width = picture(0).shape[:2]
        wanted = picture(index).astype(int)
        assert np.abs(frame.image[:height, :width].astype(int) - wanted).mean() < 6
    assert [frame.time - frames[0].time for frame in frames] == pytest.approx(STEADY, abs=1e-3)


def test_a_browser_can_start_before_it_has_all(tmp_path: Path) -> None:
    data = written(tmp_path / "a.mp4", STEADY).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_colors_are_kept(tmp_path: Path) -> None:
    """Flat colors come back within the rounding of 8-bit YUV, and are tagged as what they are."""
    colors = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (30, 30, 230), (230, 40, 20), (40, 200, 60)]
    with VideoWriter(tmp_path / "a.mp4", 25, quality=100) as video:
        for color in colors:
            video.write(np.full((64, 96, 3), color, np.uint8))
    for frame, color in zip(open_video(tmp_path / "a.mp4"), colors, strict=True):
        assert np.abs(frame.image.astype(int) - color).mean() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (6, 1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("fps", [65.537, 100.001, 119.999, 120.001, 239.677, 240.002, 29.97, 0.1, 480.0])
def test_any_frame_rate_is_written_under_the_name_that_was_asked_for(
    codec: str, fps: float, tmp_path: Path
) -> None:
    times = [index / fps for index in range(8)]
    path = written(tmp_path / "a.mp4", times, fps, codec=codec)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    found = [frame.time for frame in open_video(path)]
    assert found == pytest.approx(times, abs=2e-5)


@pytest.mark.parametrize("fps", [65.537, 239.677, 25.0, 30000 / 1001])
def test_an_avi_has_one_rate_close_to_the_one_asked_for(fps: float, tmp_path: Path) -> None:
    path = written(tmp_path / "a.avi", [index / fps for index in range(20)], fps)
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(fps, rel=1e-3)
    assert len(list(open_video(path))) == 20


@pytest.mark.parametrize(
    ("fps", "finest", "unit"),
    [
        (25, 65_535, Fraction(1, 65_525)),
        (30000 / 1001, 100_000, Fraction(1, 90_000)),
        (1000, 65_535, Fraction(1, 65_000)),
    ],
)
def test_time_base(fps: float, finest: int, unit: Fraction) -> None:
    assert time_base(fps, finest) == unit


def test_a_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    times = [2.0, 2.04, 2.08, 2.5, 2.6, 3.25, 3.26, 3.26]
    frames = list(open_video(written(tmp_path / "a.mp4", times)))
    assert len(frames) == 8  # two at one time are one unit apart
    assert [frame.time for frame in frames] == pytest.approx([time - 2 for time in times], abs=1e-3)


def test_frames_without_times_come_at_the_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for index in range(4):
            video.write(picture(index))
    assert [frame.time for frame in open_video(tmp_path / "a.mp4")] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("size", "padded"), [((479, 853), (480, 854)), ((1, 1), (2, 2)), ((480, 853), (480, 854))]
)
def test_odd_sizes_are_padded_and_said(
    size: tuple[int, int], padded: tuple[int, int], tmp_path: Path
) -> None:
    notes: list[str] = []
    with VideoWriter(tmp_path / "a.mp4", 25, quality=100, note=notes.append) as video:
        video.write(np.full((*size, 3), 200, np.uint8))
    (frame,) = open_video(tmp_path / "a.mp4")
    assert frame.image.shape == (*padded, 3)
    assert np.abs(frame.image.astype(int) - 200).max() <= 3  # the edge goes on, no black line
    assert f"{size[1]} x {size[0]} are padded to {padded[1]} x {padded[0]}" in notes[0]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("start", [0, 10])
def test_sound_is_copied_in_step(name: str, start: int, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "source.mp4", [index / 25 for index in range(50)], audio="aac")
    frames = list(open_video(source, start=start))
    with VideoWriter(tmp_path / name, 25, sound=f"file:{source}") as video:
        for frame in frames:
            video.write(frame.image, frame.time)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        samples = [frame for frame in container.decode(audio=0)]
    length = sum(frame.samples for frame in samples) / 48_000
    assert length == pytest.approx(len(frames) / 25, abs=0.06)
    begin = (samples[0].time or 0) - next(
        iter(open_video(tmp_path / name))
    ).time  # Matroska starts at the priming
    assert begin == pytest.approx(0, abs=0.03)
    # The same sound: a sine of 76 Hz from the source's time on.
    wave = np.concatenate([frame.to_ndarray()[0] for frame in samples])
    position = round(begin * 48_000) + start * 1920
    expected = np.sin((np.arange(4800, 9600) + position) / 100)
    assert np.corrcoef(wave[4800:9600], expected)[0, 1] > 0.95


def test_sound_that_the_container_does_not_take_is_said(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "source.mp4", STEADY, audio="aac")
    notes: list[str] = []
    written(tmp_path / "a.webm", STEADY, sound=f"file:{source}", note=notes.append)
    assert any("webm file does not take sound in aac" in note for note in notes)
    with av.open(str(tmp_path / "a.webm")) as container:
        assert not container.streams.audio


def test_a_source_without_sound(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "source.mp4", STEADY)
    notes: list[str] = []
    written(tmp_path / "a.mp4", STEADY, sound=f"file:{source}", note=notes.append)
    assert notes == []


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "h264"), ("a.avi", "av1"), ("a.gif", None), ("a", None)]
)
def test_a_name_that_is_no_video(name: str, codec: str | None, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check_codec(tmp_path / name, codec)
    with pytest.raises(UsageError):
        VideoWriter(tmp_path / name, 25, codec=codec)
    assert list(tmp_path.iterdir()) == []


def test_no_frame_is_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 25) as video:
        pass
    assert not video.kept
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_video_is_complete_up_to_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_until(tmp_path / "a.mp4", 7, KeyboardInterrupt)
    assert len(list(open_video(tmp_path / "a.mp4"))) == 7
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage(tmp_path)
    room = iter([2**30] * 6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=next(room, 2**20)))
    with pytest.raises(UserError, match=r"disk is full: no room for frame 5 of .*a\.mp4 .* kept"):
        write_until(tmp_path / "a.mp4", 20)
    monkeypatch.undo()
    assert len(list(open_video(tmp_path / "a.mp4"))) == 5


def test_a_write_that_fails_in_the_thread_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, image: object, seconds: float) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer._Encoding, "add", broken)
    with pytest.raises(UserError, match="disk is full"):
        write_until(tmp_path / "a.mp4", 50)
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.mp4"
    target.write_bytes(b"old")
    (tmp_path / "link.mp4").symlink_to(target)
    written(tmp_path / "link.mp4", STEADY)
    assert (tmp_path / "link.mp4").is_symlink()
    assert len(list(open_video(target))) == 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.mp4"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    reader.start()
    written(fifo, STEADY)
    reader.join(10)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert len(list(open_video(io.BytesIO(got[0])))) == 20


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe: a.mp4")
    written(path, STEADY)
    assert len(list(open_video(path))) == 20


class TestCheckOutputs:
    def test_what_exists_is_kept_unless_asked(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"x")
        with pytest.raises(UsageError, match="--overwrite"):
            check_outputs([tmp_path / "a.mp4"], [], overwrite=False)
        check_outputs([tmp_path / "a.mp4"], [], overwrite=True)
        check_outputs([tmp_path / "new" / "a.mp4"], [], overwrite=False)
        assert not (tmp_path / "new").exists()

    def test_the_source_is_never_written_over(self, tmp_path: Path) -> None:
        source = tmp_path / "clip.avi"
        source.write_bytes(b"x")
        os.link(source, tmp_path / "hard.mp4")
        (tmp_path / "soft.mp4").symlink_to(source)
        folder = tmp_path / "images"
        folder.mkdir()
        (folder / "1.png").write_bytes(b"x")
        for name in ("clip.avi", "hard.mp4", "soft.mp4", "images/1.png", "images/../clip.avi"):
            with pytest.raises(UsageError, match="never written over"):
                check_outputs([tmp_path / name], [source, folder], overwrite=True)

    def test_two_outputs_are_two_files(self, tmp_path: Path) -> None:
        (tmp_path / "same").symlink_to(tmp_path / "a.txt")
        with pytest.raises(UsageError, match="named twice"):
            check_outputs([tmp_path / "a.txt", tmp_path / "same"], [], overwrite=True)
        check_outputs([Path("/dev/null"), Path("/dev/null")], [], overwrite=False)

    @pytest.mark.parametrize("name", ["", "x" * 300, "loop", "folder", "file/x", "a\0b"])
    def test_impossible_names(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("loop").symlink_to("loop")
        Path("folder").mkdir()
        Path("file").write_text("x")
        with pytest.raises(UserError) as caught:
            check_outputs([Path(name)], [], overwrite=True)
        assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def _few_frames_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUEUE_DEPTH", 2)


def test_quality_costs_bytes(tmp_path: Path) -> None:
    noise: list[npt.NDArray[np.uint8]] = [
        np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8) for seed in range(6)
    ]
    for codec in CODECS:
        sizes = []
        for quality in (10, 50, 90):
            with VideoWriter(tmp_path / f"{codec}{quality}.mp4", 25, codec=codec, quality=quality) as video:
                for image in noise:
                    video.write(image)
            sizes.append(video.path.stat().st_size)
        assert sizes == sorted(set(sizes))


def test_levels_are_those_of_the_clip(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp4", STEADY, quality=100)
    assert [abs(level(frame.image) - frame.index) <= 1 for frame in open_video(path)] == [True] * 20
    assert files.sha256_of(path)
