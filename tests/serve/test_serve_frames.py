"""Frames by number are those that a run from the start sees, whatever the container."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from blobs import frame, truth, write_images

from sttrack_deploy.errors import UserError
from sttrack_deploy.video.reader import open_video

pytest.importorskip("starlette")

from sttrack_deploy.serve.frames import open_frames

FRAMES = 60
PIXELS = 10**7


def write(path: Path, codec: str, *, options: dict[str, str] | None = None, jitter: bool = False) -> Path:
    """A clip with key frames every 12 frames; ``jitter`` spaces its frames unevenly."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.gop_size = 12
        base = Fraction(1, 1000) if jitter else Fraction(1, 25)
        stream.codec_context.time_base = base
        for index in range(FRAMES):
            image = av.VideoFrame.from_ndarray(frame(truth(index % 40), seed=index), "bgr24")
            image.pts = 40 * index + index % 3 * 7 if jitter else index
            image.time_base = base
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options", "jitter"),
    [
        ("h264.mp4", "libx264", {"bf": "3"}, False),
        ("uneven.mkv", "libx264", {"bf": "2"}, True),
        ("old.avi", "mpeg4", {}, False),
        ("stream.ts", "libx264", {"bf": "2", "x264-params": "open-gop=1"}, False),
    ],
)
def test_a_frame_is_the_same_however_it_is_found(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], jitter: bool
) -> None:
    path = write(tmp_path / name, codec, options=options, jitter=jitter)
    with open_video(path) as video:
        expected = list(video)
    reader = open_frames(path, PIXELS)
    try:
        assert reader.frames in (len(expected), None) or name.endswith((".avi", ".ts"))
        for index in (0, 59, 30, 31, 35, 12, 11, 58, 1):
            found = reader.read(index)
            assert found is not None
            assert found.index == index
            assert found.time == pytest.approx(expected[index].time, abs=1e-6)
            assert np.array_equal(found.image, expected[index].image)
        assert reader.read(FRAMES) is None
        for start in (0, 17, 59):
            rest = list(reader.iterate(start))
            assert [one.index for one in rest] == list(range(start, FRAMES))
            assert all(np.array_equal(one.image, expected[one.index].image) for one in rest)
    finally:
        reader.close()


def test_a_folder(tmp_path: Path) -> None:
    reader = open_frames(write_images(tmp_path / "images", 4), PIXELS)
    assert reader.frames == 4
    third = reader.read(2)
    assert third is not None
    assert third.index == 2
    assert reader.read(4) is None
    assert [one.index for one in reader.iterate(1)] == [1, 2, 3]


def test_frames_that_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="160 x 96, larger than"):
        open_frames(write(tmp_path / "a.mp4", "libx264"), 160 * 96 - 1)
