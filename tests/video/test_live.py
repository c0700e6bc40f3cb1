"""Live sources: scripted ones, whose clock is the test's, and real servers on this machine."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import SIZE, level, picture
from live_frames import drain
from servers import jpeg, send_motion_jpeg, serve_rtsp, tcp_server, transport_stream

from sttrack_deploy.errors import UserError
from sttrack_deploy.video import live
from sttrack_deploy.video.decoded import DisplayedImage
from sttrack_deploy.video.frames import SourceInfo
from sttrack_deploy.video.live import LiveOptions, LiveSource, Received
from sttrack_deploy.video.source import open_source


class Clock:
    """Time that passes only where the test lets it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, _: threading.Event, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Script:
    """A connection that gives frames, one every ``step`` of the clock, and then ends or fails."""

    fps: float | None = None

    def __init__(
        self,
        clock: Clock,
        frames: range,
        step: float = 0.1,
        error: Exception | None = None,
        ends: bool = False,
        gate: Callable[[int], object] = lambda _: None,
        first_time: float = 0.0,
    ) -> None:
        self.clock, self.frames, self.step, self.error, self.ends = clock, frames, step, error, ends
        self.gate, self.first_time = gate, first_time
        self.closed = False

    def __iter__(self) -> Iterator[Received]:
        for number, index in enumerate(self.frames):
            self.gate(index)
            self.clock.now += self.step
            yield Received(self.first_time + number * self.step, lambda index=index: picture(index))  # type: ignore[misc]
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed = True


def scripted(
    clock: Clock, connections: list[Script | UserError], options: LiveOptions, **more: object
) -> tuple[LiveSource, list[str]]:
    notes: list[str] = []
    waiting = iter(connections)

    def connect() -> live.Connection:
        made = next(waiting)
        if isinstance(made, UserError):
            raise made
        return made

    return (
        LiveSource(
            SourceInfo("cam", "cam", None, None, True),
            connect,
            connect(),
            options,
            note=notes.append,
            clock=clock,
            pause=clock.pause,
            **more,  # type: ignore[arg-type]
        ),
        notes,
    )


def test_the_newest_frame_comes_and_the_overtaken_are_counted() -> None:
    clock, taken, sent = Clock(), threading.Event(), threading.Event()

    def gate(index: int) -> None:
        if index == 1:
            assert taken.wait(10)  # the first frame was fetched
        if index == 9:
            sent.set()
            taken.clear()
            assert taken.wait(10)

    opened, _ = scripted(clock, [Script(clock, range(10), ends=True, gate=gate)], LiveOptions())
    with opened:
        first = next(opened)
        taken.set()
        assert sent.wait(10)
        second = next(opened)
        taken.set()
        rest = list(opened)
    assert [level(frame.image) for frame in (first, second, *rest)] == [0, 8, 9]
    assert [frame.index for frame in (first, second, *rest)] == [0, 8, 9]
    assert opened.dropped == 7
    assert second.time == pytest.approx(0.8)
    assert second.arrived == pytest.approx(100.9)


def test_every_frame_where_that_is_asked_for() -> None:
    clock = Clock()
    opened, _ = scripted(clock, [Script(clock, range(40), ends=True)], LiveOptions(every_frame=True))
    frames, problem = drain(opened)
    assert not problem
    assert [frame.index for frame in frames] == list(range(40))
    assert opened.dropped == 0


def test_start_and_end() -> None:
    clock = Clock()
    options = LiveOptions(every_frame=True)
    opened, _ = scripted(clock, [Script(clock, range(40))], options, start=3, end=6)
    frames, problem = drain(opened)
    assert not problem
    assert [frame.index for frame in frames] == [3, 4, 5]
    assert [frame.time for frame in frames] == pytest.approx([0.3, 0.4, 0.5])


def test_it_comes_back_after_a_drop_with_growing_pauses() -> None:
    clock = Clock()
    script: list[Script | UserError] = [
        Script(clock, range(5), error=ConnectionResetError(104, "Connection reset by peer")),
        UserError("refused"),
        UserError("refused"),
        Script(clock, range(5, 8), first_time=77.0),
        Script(clock, range(8, 9), ends=True),
    ]
    opened, notes = scripted(clock, script, LiveOptions(reconnect=20, every_frame=True))
    frames, problem = drain(opened)
    assert not problem
    assert [frame.index for frame in frames] == list(range(9))
    assert clock.pauses == [0.5, 1.0, 2.0, 0.5]
    assert opened.reconnected == 2
    # The media's time goes on by the time that passed: 0.4, then 3.5 s of pauses and one step.
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 4.0, 4.1, 4.2, 4.8])
    assert all(one.time < two.time for one, two in itertools.pairwise(frames))
    assert (
        "note: cam stopped sending after 5 frames (Connection reset by peer); trying again for 20 s" in notes
    )
    assert "note: cam is back after 3.5 s" in notes
    assert all(one.closed for one in script if isinstance(one, Script))


def test_it_gives_up_in_time_and_says_so() -> None:
    clock = Clock()
    script: list[Script | UserError] = [Script(clock, range(3)), *[UserError("refused")] * 20]
    opened, _ = scripted(clock, script, LiveOptions(reconnect=10, every_frame=True))
    frames, problem = drain(opened)
    assert len(frames) == 3
    assert "cam stopped sending after 3 frames (the other side ended it)" in problem
    assert "did not come back within 10 s" in problem
    assert sum(clock.pauses) <= 10
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0]


def test_without_reconnecting_an_end_is_an_error() -> None:
    clock = Clock()
    opened, _ = scripted(clock, [Script(clock, range(3))], LiveOptions(reconnect=0, every_frame=True))
    frames, problem = drain(opened)
    assert len(frames) == 3
    assert "stopped sending after 3 frames" in problem
    assert "--reconnect SECONDS" in problem


def test_a_stall_is_told_once_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.01)
    clock, go, taken = Clock(), threading.Event(), threading.Event()

    def gate(index: int) -> None:
        if index == 1:
            assert taken.wait(10)
            clock.now += 4.0
            assert go.wait(10)

    opened, notes = scripted(clock, [Script(clock, range(2), ends=True, gate=gate)], LiveOptions(stall=3))
    told = threading.Event()

    def note(text: str) -> None:
        notes.append(text)
        told.set()

    def let_go() -> None:
        told.wait(10)
        go.set()

    opened._note = note
    with opened:
        next(opened)
        taken.set()
        release = threading.Thread(target=let_go, daemon=True)
        release.start()
        next(opened)
    assert [text for text in notes if "no frame from cam for" in text] == [notes[0]]
    assert "cam sends again, after 4." in notes[1]
    assert len(notes) == 2


def test_fifty_drops_cost_no_file_descriptors_and_no_threads() -> None:
    stream = [jpeg(index) for index in range(3)]

    def serve(connection: socket.socket, number: int) -> None:
        send_motion_jpeg(connection, range(number % 60, number % 60 + 2), lambda _: None)

    with tcp_server(serve) as port:
        clock = Clock()
        url = f"http://127.0.0.1:{port}/video.mjpg"
        displayed = DisplayedImage()

        def connect() -> live.Connection:
            return live.StreamConnection(url, url, displayed, 5.0, format="mpjpeg")

        info = SourceInfo("cam", "cam", None, None, True)
        opened = LiveSource(
            info, connect, connect(), LiveOptions(every_frame=True), clock=clock, pause=clock.pause, end=104
        )
        before = None
        with opened:
            for frame in opened:
                if frame.index == 9:
                    before = descriptors(), threading.active_count()
        assert opened.reconnected >= 50
        assert before is not None
        assert descriptors() <= before[0] + 2
        assert threading.active_count() <= before[1] + 2
    assert len(stream) == 3


def descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_motion_jpeg_over_http() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        send_motion_jpeg(connection, range(20), lambda _: None)

    with tcp_server(serve) as port:
        opened = open_source(
            f"http://user:secret@127.0.0.1:{port}/video.mjpg?token=hidden",
            live=LiveOptions(reconnect=0, every_frame=True),
        )
        assert opened.info.live
        assert opened.info.stem == "video"
        frames, problem = drain(opened)
    assert [level(frame.image) for frame in frames] == list(range(20))
    assert frames[0].image.shape == (*SIZE, 3)
    assert all(frame.arrived is not None for frame in frames)
    assert "stopped sending after 20 frames" in problem
    assert "secret" not in problem
    assert "hidden" not in problem


def test_a_server_that_drops_and_returns() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        send_motion_jpeg(connection, range(10 * number, 10 * number + 5), lambda _: None)

    notes: list[str] = []
    with tcp_server(serve) as port:
        opened = open_source(
            f"http://127.0.0.1:{port}/a.mjpg",
            end=10,
            live=LiveOptions(reconnect=30, every_frame=True),
            note=notes.append,
        )
        frames, problem = drain(opened)
    assert not problem
    assert [level(frame.image) for frame in frames] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert all(one.time < two.time for one, two in itertools.pairwise(frames))
    assert any("is back after" in note for note in notes)


def test_a_server_that_stalls_counts_as_broken() -> None:
    over = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        send_motion_jpeg(connection, range(5), lambda index: index == 4 and over.wait(30))

    with tcp_server(serve) as port:
        options = LiveOptions(reconnect=0, timeout=0.5, every_frame=True)
        frames, problem = drain(open_source(f"http://127.0.0.1:{port}/a.mjpg", live=options))
        over.set()
    assert 4 <= len(frames) <= 5
    assert "stopped sending" in problem
    assert "(no answer)" in problem


def test_rtsp() -> None:
    stream = transport_stream(40)

    def serve(connection: socket.socket, number: int) -> None:
        serve_rtsp(connection, stream, lambda: None)

    with tcp_server(serve) as port:
        url = f"rtsp://user:secret@127.0.0.1:{port}/door"
        opened = open_source(url, live=LiveOptions(reconnect=0, every_frame=True), end=30)
        assert opened.info.name == f"rtsp://127.0.0.1:{port}/door"
        frames, problem = drain(opened)
    assert not problem
    assert len(frames) == 30
    levels = [level(frame.image) for frame in frames]
    assert max(abs(found - number) for number, found in enumerate(levels)) <= 2
    assert np.diff([frame.time for frame in frames]) == pytest.approx(0.04, abs=0.005)


def test_udp() -> None:
    stream = transport_stream(60)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    over = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not over.is_set():  # nobody knows when the receiver is there
                for start in range(0, len(stream), 7 * 188):
                    sender.sendto(stream[start : start + 7 * 188], ("127.0.0.1", port))
                    if over.wait(0.002):
                        return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        opened = open_source(f"udp://127.0.0.1:{port}", live=LiveOptions(reconnect=0), end=25)
        frames, problem = drain(opened)
    finally:
        over.set()
        thread.join(5)
    assert not problem
    assert frames
    assert frames[0].image.shape == (*SIZE, 3)
