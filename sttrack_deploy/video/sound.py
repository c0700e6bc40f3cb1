"""Copies a video's sound, as it is, beside newly encoded pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from sttrack_deploy.video.container import open_container, shown_name
from sttrack_deploy.video.frames import Note

__all__ = ["SoundCopy"]


class SoundCopy:
    """The sound of a source, given out up to a time, so that it is interleaved with the pictures."""

    def __init__(self, source: str, output: OutputContainer, start: float, note: Note) -> None:
        """Add a stream to ``output``, if its format takes the source's codec.

        Args:
            source: what :func:`av.open` opens.
            output: nothing has been written to it yet.
            start: time in the source, seconds, that becomes 0.
            note: is told where there is no sound, and why.
        """
        self._note = note
        self._packets: Iterator[Packet[Any]] | None = None
        self._waiting: Packet[Any] | None = None
        self._input: InputContainer | None = None
        self._input = container = open_container(source, shown_name(source))
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            return
        context: object = stream.codec_context
        codec = "an unknown codec" if context is None else stream.codec_context.name
        if context is None or codec not in output.supported_codecs:
            note(f"note: a {output.format.name} file does not take sound in {codec}; the video has none")
            return
        self._late = start > 0
        self._origin = start + (container.start_time or 0) / 1e6
        self._stream = output.add_stream_from_template(stream)
        self._output = output
        self._packets = container.demux(stream)

    def copy_until(self, seconds: float) -> None:
        """Write what is heard before ``seconds`` of the output."""
        while (packet := self._next()) is not None:
            base, pts = packet.time_base, packet.pts
            assert base is not None
            assert pts is not None
            begin = float(pts * base) - self._origin
            if begin >= seconds:
                self._waiting = packet
                return
            # What lies before a file's first picture primes the decoder; before a later one it is left out.
            if self._late and begin + float((packet.duration or 0) * base) <= 0:
                continue
            shift = round(self._origin / float(base))
            packet.pts = pts - shift
            if packet.dts is not None:
                packet.dts -= shift
            packet.stream = self._stream
            self._output.mux(packet)

    def _next(self) -> Packet[Any] | None:
        if self._waiting is not None:
            packet, self._waiting = self._waiting, None
            return packet
        if self._packets is None:
            return None
        try:
            for packet in self._packets:
                if packet.pts is not None and packet.size:
                    return packet
        except av.error.FFmpegError as error:
            self._note(f"note: the sound ends early, it is damaged ({error.strerror})")
        self._packets = None
        return None

    def close(self) -> None:
        """Release the source."""
        if self._input is not None:
            self._input.close()
