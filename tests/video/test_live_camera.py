"""Live sources that are cameras, and addresses where nobody answers."""

from __future__ import annotations

import socket

import cv2
import numpy as np
import pytest
from clips import SIZE, picture
from live_frames import drain
from servers import tcp_server

from sttrack_deploy.errors import UserError
from sttrack_deploy.video.live import LiveOptions
from sttrack_deploy.video.source import open_source


class FakeCapture:
    """Stands in for cv2.VideoCapture: there is no camera on a test machine."""

    def __init__(self, images: list[np.ndarray], opened: bool = True) -> None:
        self.images, self.opened, self.released = iter(images), opened, False

    def isOpened(self) -> bool:
        return self.opened

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        image = next(self.images, None)
        return image is not None, image

    def release(self) -> None:
        self.released = True


def test_a_camera_by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [picture(0), picture(1), picture(2, (128, 192))]
    fake = FakeCapture(images)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: fake)
    frames, problem = drain(open_source("0", live=LiveOptions(reconnect=0, every_frame=True)))
    assert [frame.image.shape for frame in frames] == [(*SIZE, 3)] * 3
    assert "camera 0 stopped sending after 3 frames" in problem
    assert fake.released
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: FakeCapture([], opened=False))
    with pytest.raises(UserError, match="cannot open camera 7: no such camera"):
        open_source("7")


@pytest.mark.parametrize("url", ["rtsp://127.0.0.1:9/a", "http://127.0.0.1:9/a.mjpg", "tcp://127.0.0.1:9"])
def test_nobody_there(url: str) -> None:
    with pytest.raises(UserError, match=r"Connection refused; check the address"):
        open_source(url)


def test_a_web_page_is_no_video() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(65_536)
        page = b"<!DOCTYPE html><html><body>watch me</body></html>" * 20
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
        )

    with tcp_server(serve) as port, pytest.raises(UserError, match="yt-dlp"):
        open_source(f"http://127.0.0.1:{port}/watch?v=1")
