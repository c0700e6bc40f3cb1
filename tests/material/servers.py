"""Servers of live streams on the loopback interface: HTTP (Motion JPEG), RTSP and UDP, that stall, drop and return."""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import cv2
from clips import picture

TS_PACKET = 188


def jpeg(index: int) -> bytes:
    """A picture of a clip as JPEG."""
    done, data = cv2.imencode(".jpg", picture(index % 60), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert done
    return bytes(data.tobytes())


def transport_stream(frames: int) -> bytes:
    """An MPEG transport stream of that many frames at 25 a second, all of them key frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=25, options={"g": "1", "b": "3000000"})
        stream.height, stream.width, stream.pix_fmt = *picture(0).shape[:2], "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index % 60), "bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextlib.contextmanager
def tcp_server(serve: Callable[[socket.socket, int], None], port: int = 0) -> Iterator[int]:
    """Answers each connection by ``serve(connection, number of the connection)``; gives the port."""
    count = iter(range(1_000_000))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                serve(self.request, next(count))

    with _Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(5)


def send_motion_jpeg(connection: socket.socket, frames: range, pause: Callable[[int], object]) -> None:
    """Answer an HTTP request by frames as cameras do; ``pause`` is called after each."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
    for index in frames:
        data = jpeg(index)
        connection.sendall(
            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data)
        )
        pause(index)


def serve_rtsp(connection: socket.socket, stream: bytes, pause: Callable[[], object]) -> None:
    """One RTSP session: a transport stream in RTP over the same connection (RFC 2326, RFC 2250)."""
    reader = connection.makefile("rb")
    while True:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            line = reader.readline()
            if not line:
                return
            request += line
        method = request.split()[0]
        number = next(line for line in request.splitlines() if line.lower().startswith(b"cseq"))
        head = b"RTSP/1.0 200 OK\r\n" + number + b"\r\nSession: 1\r\n"
        if method == b"OPTIONS":
            connection.sendall(head + b"Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n")
        elif method == b"DESCRIBE":
            body = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
            connection.sendall(
                head + b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
        elif method == b"SETUP":
            connection.sendall(head + b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n")
        elif method == b"PLAY":
            connection.sendall(head + b"\r\n")
            break
        else:
            connection.sendall(head + b"\r\n")
    for sent, start in enumerate(range(0, len(stream), 7 * TS_PACKET)):
        payload = stream[start : start + 7 * TS_PACKET]
        packet = struct.pack(">BBHII", 0x80, 33, sent & 0xFFFF, sent * 100, 1) + payload
        connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
        pause()
