"""Standard input and named pipes: read to their end, and left at once where they say nothing."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from live_frames import drain
from servers import transport_stream

from sttrack_deploy.video import source
from sttrack_deploy.video.container import Pipe
from sttrack_deploy.video.live import LiveOptions, LiveSource
from sttrack_deploy.video.source import open_source


def test_a_pipe_ends_and_nothing_is_wrong(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    data = transport_stream(30)

    def send() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    options = LiveOptions(every_frame=True)
    opened = source._open_pipe(Pipe(reading, ""), "standard input", "stdin", 0, None, None, options, None)
    frames, problem = drain(opened)
    thread.join(5)
    os.close(reading)
    assert not problem
    assert len(frames) == 30


def test_a_silent_pipe_can_be_closed() -> None:
    reading, writing = os.pipe()
    os.write(writing, transport_stream(30))
    options = LiveOptions(every_frame=True)
    opened = source._open_pipe(Pipe(reading, ""), "standard input", "stdin", 0, None, None, options, None)
    next(iter(opened))
    opened.close()
    assert isinstance(opened, LiveSource)
    assert not opened._thread.is_alive()
    os.close(writing)
    os.close(reading)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
@pytest.mark.parametrize("stalls", [False, True])
def test_ctrl_c_while_a_pipe_is_silent(stalls: bool, tmp_path: Path) -> None:
    """Before its writer comes, and before the first byte."""
    fifo = tmp_path / "f"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR) if stalls else None
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            open_source(str(fifo))
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
        if writer is not None:
            os.close(writer)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_named_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "camera.ts"
    os.mkfifo(fifo)
    data = transport_stream(30)
    thread = threading.Thread(target=lambda: fifo.write_bytes(data), daemon=True)
    thread.start()
    frames, problem = drain(open_source(str(fifo), live=LiveOptions(every_frame=True)))
    thread.join(5)
    assert not problem
    assert len(frames) == 30
