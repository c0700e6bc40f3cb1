"""Video files as cameras, phones and editors make them, written with PyAV."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer, OutputContainer
from av.video.reformatter import Interpolation

from sttrack_deploy.video.writer import scheduling_kept

BASE = Fraction(1, 90_000)
SIZE = (64, 96)  # height, width


def picture(index: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """A gradient with a bright corner at the top left, and a level that tells the index (up to 60)."""
    height, width = size
    image = np.empty((height, width, 3), np.uint8)
    image[:] = 60 + 3 * index
    image[: height // 4, : width // 4] = 255
    return image


def level(image: npt.NDArray[np.uint8]) -> int:
    """The index that :func:`picture` drew."""
    height, width = image.shape[:2]
    return round((float(image[height // 2 :, width // 2 :].mean()) - 60) / 3)


def write_clip(
    path: Path,
    times: Sequence[float],
    codec: str = "libx264",
    *,
    size: tuple[int, int] = SIZE,
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    audio: str | None = None,
    base: Fraction = BASE,
    start: float = 0.0,
) -> Path:
    """Frames at those times in seconds, and a tone of the same length where ``audio`` names a codec."""
    with scheduling_kept(), av.open(f"file:{path}", "w", options=container_options or {}) as output:
        # Few losses, so that the level tells the index.
        sharp = {"crf": "1"} if codec in ("libx264", "libx265") else {"b": "4000000"}
        stream = output.add_stream(codec, rate=25, options=sharp | (options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        sound = None if audio is None else output.add_stream(audio, rate=48_000)
        assert sound is None or isinstance(sound, av.AudioStream)
        for index, time in enumerate(times):
            # Exact: the fast conversion is up to four levels too dark.
            frame = av.VideoFrame.from_ndarray(picture(index, size), "bgr24").reformat(
                format=pixels, interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND
            )
            frame.pts, frame.time_base = round((time + start) / base), base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None:
            _write_tone(output, sound, times[-1] + 0.04, start)
    return path


def _write_tone(output: OutputContainer, stream: av.AudioStream, seconds: float, start: float) -> None:
    size = stream.codec_context.frame_size or 1024
    for position in range(0, int(seconds * 48_000), size):
        wave = np.sin(np.arange(position, position + size) / 100).astype(np.float32)[None]
        samples = wave if stream.format.name == "fltp" else (wave * 20_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format=stream.format.name, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = (
            48_000,
            position + round(start * 48_000),
            Fraction(1, 48_000),
        )
        output.mux(stream.encode(frame))
    output.mux(stream.encode())


def trimmed(source: Path, target: Path, seconds: float) -> Path:
    """The same packets from the last key frame before ``seconds``, hidden up to there by an edit list."""
    with av.open(f"file:{source}") as reader, av.open(f"file:{target}", "w") as output:
        assert isinstance(reader, InputContainer)
        stream = reader.streams.video[0]
        copy = output.add_stream_from_template(stream)
        assert stream.time_base is not None
        reader.seek(round(seconds * 1_000_000))
        shift = round(seconds / stream.time_base)
        for packet in reader.demux(stream):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copy
            output.mux(packet)
    return target


def rotated(source: Path, target: Path, degrees: int) -> Path:
    """The same file, told to be displayed turned clockwise by quarter turns."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    data = source.read_bytes()
    header = data.index(b"tkhd")  # the movie's own header, before it, has a matrix as well
    assert plain in data[header:]
    target.write_bytes(data[:header] + data[header:].replace(plain, turned, 1))
    return target
