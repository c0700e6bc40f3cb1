from __future__ import annotations

import io
import os
import random
import sys
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import pytest
from clips import BASE, SIZE, level, picture, rotated, trimmed, write_clip

from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.video.frames import Frame
from sttrack_deploy.video.reader import VideoReader, open_video

EVAL = Path(__file__).resolve().parents[3] / "shared" / "videos" / "eval"
STEADY = [index / 25 for index in range(30)]


def drain(reader: VideoReader) -> tuple[list[Frame], str]:
    """All frames, and the error that ended them, or nothing."""
    frames: list[Frame] = []
    problem = ""
    with reader:
        try:
            frames.extend(reader)
        except UserError as error:
            problem = str(error)
    assert "\n" not in problem
    return frames, problem


def has(codec: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.Codec(codec, mode)
    except av.error.FFmpegError:
        return False
    return True


@pytest.mark.parametrize(
    ("encoder", "name", "pixels", "decoded"),
    [
        ("libx264", "a.mp4", "yuv420p", "h264"),
        ("libx264", "a.mkv", "yuv444p", "h264"),
        ("libx265", "a.mp4", "yuv420p10le", "hevc"),
        ("libsvtav1", "a.mp4", "yuv420p10le", "libdav1d"),
        ("libvpx-vp9", "a.webm", "yuv420p", "vp9"),
        ("prores_ks", "a.mov", "yuv422p10le", "prores"),
        ("mpeg4", "a.avi", "yuv420p", "mpeg4"),
        ("mjpeg", "a.avi", "yuvj420p", "mjpeg"),
        ("mpeg2video", "a.ts", "yuv420p", "mpeg2video"),
        ("ffv1", "a.mkv", "bgr0", "ffv1"),
    ],
)
def test_codecs(encoder: str, name: str, pixels: str, decoded: str, tmp_path: Path) -> None:
    if not has(encoder, "w"):
        pytest.skip(f"this PyAV cannot encode with {encoder}")
    path = write_clip(tmp_path / name, STEADY[:12], encoder, pixels=pixels, base=Fraction(1, 25))
    reader = open_video(path)
    assert reader.info.codec.removeprefix("lib") in (decoded.removeprefix("lib"), "av1")
    assert reader.info.fps == 25
    frames, problem = drain(reader)
    assert not problem
    assert [frame.index for frame in frames] == list(range(12))
    assert [level(frame.image) for frame in frames] == list(range(12))
    assert np.diff([frame.time for frame in frames]) == pytest.approx(0.04, abs=0.002)
    assert frames[0].image.shape == (*SIZE, 3)
    assert np.abs(frames[3].image.astype(int) - picture(3)).mean() < 3


def test_the_times_of_a_variable_frame_rate_are_kept(tmp_path: Path) -> None:
    times = [0, 0.04, 0.08, 0.5, 0.6, 1.25, 1.26]
    frames, problem = drain(open_video(write_clip(tmp_path / "a.mp4", times)))
    assert not problem
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-4)


@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.mkv"])
def test_a_file_that_starts_at_an_offset_starts_at_0(name: str, tmp_path: Path) -> None:
    reader = open_video(write_clip(tmp_path / name, STEADY, start=3.0))
    frames, problem = drain(reader)
    assert not problem
    assert [frame.time for frame in frames] == pytest.approx(STEADY, abs=2e-3)


def test_an_edit_list_hides_frames_and_no_frame_is_missed(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", STEADY, options={"g": "30", "bf": "2"})
    reader = open_video(trimmed(whole, tmp_path / "cut.mp4", 0.4))
    assert reader.info.frames == 20
    frames, problem = drain(reader)
    assert not problem
    assert [level(frame.image) for frame in frames] == list(range(10, 30))
    assert [frame.time for frame in frames] == pytest.approx(STEADY[:20], abs=1e-3)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_as_they_are_displayed(degrees: int, tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "a.mp4", STEADY[:3])
    frames, problem = drain(open_video(rotated(plain, tmp_path / "b.mp4", degrees)))
    assert not problem
    upright, _ = drain(open_video(plain))
    expected = np.rot90(upright[0].image, -degrees // 90)
    np.testing.assert_array_equal(frames[0].image, expected)


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (64, 192)), (Fraction(16, 11), (64, 140)), (Fraction(1, 2), (128, 96))]
)
def test_pixels_become_square(aspect: Fraction, size: tuple[int, int], tmp_path: Path) -> None:
    frames, problem = drain(open_video(write_clip(tmp_path / "a.mp4", STEADY[:2], aspect=aspect)))
    assert not problem
    assert frames[0].image.shape == (*size, 3)


def test_start_and_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", STEADY)
    frames, problem = drain(open_video(path, start=5, end=9))
    assert not problem
    assert [(frame.index, level(frame.image)) for frame in frames] == [(5, 5), (6, 6), (7, 7), (8, 8)]
    assert frames[0].time == pytest.approx(0.2)
    assert "has 30 frames; --start 30" in drain(open_video(path, start=30))[1]


def test_from_an_open_file(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.mp4", STEADY).read_bytes()
    assert len(drain(open_video(io.BytesIO(data)))[0]) == 30


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_cut_file_gives_every_frame_before_the_cut(name: str, tmp_path: Path) -> None:
    times = [index / 25 for index in range(60)]
    codec = "mjpeg" if name == "a.avi" else "libx264"
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {"movflags": "+faststart"} if name == "a.mp4" else {}
    path = write_clip(
        tmp_path / name, times, codec, pixels=pixels, container_options=options, base=Fraction(1, 25)
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames, problem = drain(open_video(path))
    assert 5 < len(frames) < 58
    assert [level(frame.image) for frame in frames[:-1]] == list(range(len(frames) - 1))
    assert "is truncated" in problem
    if name != "a.mkv":
        # The frame that was cut through may be decoded in part, or not.
        assert any(
            f"announces 60 frames, {60 - count} are missing" in problem
            for count in (len(frames), len(frames) + 1)
        )
    assert drain(open_video(path, end=5))[1] == ""  # a range that ends before the cut is whole


def test_an_avi_with_gaps_is_whole(tmp_path: Path) -> None:
    """Recorders write nothing for frames that they missed, and count them in the header."""
    times = [0.0, *(index / 25 for index in range(7, 18))]
    path = write_clip(tmp_path / "a.avi", times, "mjpeg", pixels="yuvj420p", base=Fraction(1, 25))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 18
    frames, problem = drain(open_video(path))
    assert problem == ""
    assert [frame.time for frame in frames] == pytest.approx(times)


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.1, "cannot be read as a video: it is damaged or cut short"),
        (0.66, "is truncated: it announces 0.56 s and ends at 0."),
    ],
)
def test_a_short_file_that_is_cut_is_told_too(share: float, told: str, tmp_path: Path) -> None:
    """Half a second is all that there is: the video's own duration tells, not a second that is missing."""
    path = write_clip(tmp_path / "a.webm", STEADY[:14], "libvpx", options={"g": "3"})
    assert drain(open_video(path))[1] == ""
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    with pytest.raises(UserError, match=told):
        list(open_video(path))


@pytest.mark.parametrize("threads", [1, 4])
def test_a_damaged_file_gives_every_good_frame_and_counts_the_bad(threads: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", STEADY, options={"g": "5", "bf": "0", "sc_threshold": "0"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    dice = random.Random(3)
    for number in (7, 12, 28):
        position, size = packets[number]
        data[position : position + size] = dice.randbytes(size)
    path.write_bytes(data)
    reader = open_video(path, threads=threads)
    frames, problem = drain(reader)
    assert reader.lost == 3
    assert len(frames) == 27
    assert "3 frames could not be decoded" in problem
    assert {level(frame.image) for frame in frames} >= {*range(7), *range(15, 28)}


def test_frames_with_errors_in_them_are_told(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", STEADY, "mpeg4", options={"g": "30"}, base=Fraction(1, 25))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    position, size = packets[0]
    data[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(data)
    notes: list[str] = []
    reader = open_video(path, note=notes.append)
    frames, problem = drain(reader)
    assert not problem
    assert len(frames) == 30
    assert reader.damaged >= 1
    assert f"{reader.damaged} of its frames hold errors" in notes[0]


def test_a_codec_that_nothing_here_decodes_is_named(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.mp4", STEADY[:3]).read_bytes()
    (tmp_path / "b.mp4").write_bytes(data.replace(b"avc1", b"evc1").replace(b"avcC", b"evcC"))
    with pytest.raises(UserError, match="is encoded with 'evc1'"):
        open_video(tmp_path / "b.mp4")
    data = write_clip(tmp_path / "a.mkv", STEADY[:3]).read_bytes()
    (tmp_path / "b.mkv").write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_UNHEARD/OF/XX"))
    with pytest.raises(UserError, match="is encoded with V_UNHEARD/OF/XX"):
        open_video(tmp_path / "b.mkv")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.mp4", b"", "is empty"),
        ("a.mp4", b"this is no video" * 50, "cannot be read as a video"),
        ("a.txt", b"hello\n" * 50, "a video"),
        ("a.vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n", "is not a video"),
        ("a.ffconcat", b"ffconcat version 1.0\nfile /etc/passwd\n", "Operation not permitted"),
        ("a.bin", cv2.imencode(".png", picture(0))[1].tobytes(), "single image"),
    ],
)
def test_what_is_no_video(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        open_video(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_sound_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    with pytest.raises(UserError, match="has no video in it, only audio"):
        open_video(tmp_path / "a.wav")


def test_a_server_that_is_not_there_and_its_password() -> None:
    with pytest.raises(UserError, match="Connection refused") as caught:
        open_video("http://user:secret@127.0.0.1:9/a.mp4?token=hidden")
    assert "http://127.0.0.1:9/a.mp4" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("name", [b"colon: a.mp4", b"\xff\xfe.mp4", b"%05d.mp4", b"-"])
def test_names(name: bytes, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("file names are bytes on Linux alone")
    plain = write_clip(tmp_path / "plain.mp4", STEADY[:3])
    odd = tmp_path / os.fsdecode(name)
    plain.rename(odd)
    assert len(drain(open_video(odd))[0]) == 3


def test_hardware_that_is_not_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", STEADY[:3])
    with pytest.raises(UsageError, match="cannot decode on 'abacus'"):
        open_video(path, hardware="abacus")


@pytest.mark.parametrize("path", sorted(EVAL.glob("*.mp4"))[::4] or [None])
def test_pixels_are_those_of_opencv(path: Path | None) -> None:
    """Accuracy was measured on OpenCV's frames."""
    if path is None:
        pytest.skip("shared/videos/eval is absent")
    capture = cv2.VideoCapture(str(path))
    with open_video(path, end=40) as reader:
        for frame in reader:
            np.testing.assert_array_equal(frame.image, capture.read()[1])
    capture.release()


def test_base_of_times_is_exact(tmp_path: Path) -> None:
    """240.002 frames a second: none of the times is off by more than the file's own unit."""
    times = [index / 240.002 for index in range(20)]
    frames, _ = drain(open_video(write_clip(tmp_path / "a.mp4", times)))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=float(BASE))
