"""Load on ``sttrack-serve``: viewers of several tracks in one live stream.

    python -m benchmarks.serve_load --viewers 24 --tracks 8 --seconds 120

The demo clip is sent to the server over UDP at its own rate, forwards and backwards without end. Each track
has a client that follows its events, the other viewers follow one of the tracks and fetch pictures. Reported:
the time from a frame's arrival to its results (the server's own histogram), the server's memory, breaks in the
order of frames, and whether a client that vanishes frees its track. Exit code 1 where one of the last two fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import httpx

from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.video.writer import VideoWriter

IDLE = 15.0  # seconds after which the server stops a track that nobody watches
FPS = 30
BOX = [106, 181, 94, 59]


def make_clip(path: Path) -> None:
    """The demo clip there and back, so that it can be sent again and again."""
    frames = [frame.image for frame in DemoClip().frames()]
    with VideoWriter(path, FPS) as writer:
        for image in (*frames, *frames[::-1]):
            writer.write(image)


def send(clip: Path, port: int, ended: threading.Event) -> None:
    """Send the clip as MPEG-TS over UDP, one frame after the other in real time."""
    begun, sent = time.monotonic(), 0
    with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as out:
        stream = None
        while not ended.is_set():
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(video)
                offset = None
                for packet in source.demux(video):
                    if packet.size == 0 or ended.is_set():
                        break
                    if offset is None:  # times go on from one round to the next
                        offset = round(Fraction(sent, FPS) / packet.time_base) - (packet.dts or 0)
                    packet.pts, packet.dts = (packet.pts or 0) + offset, (packet.dts or 0) + offset
                    packet.stream = stream
                    out.mux(packet)
                    sent += 1
                    time.sleep(max(0.0, begun + sent / FPS - time.monotonic()))


@dataclass
class Viewer:
    """Follows one track until it is told to end, or vanishes.

    Attributes:
        breaks: results that were not of a later frame than the one before.
    """

    url: str
    track: str
    pictures: bool
    ended: threading.Event
    results: int = 0
    images: int = 0
    breaks: int = 0
    gaps: int = 0
    error: str = ""
    last: dict[int, int] = field(default_factory=dict)

    def follow(self) -> None:
        try:
            path = f"{self.url}/api/tracks/{self.track}/events"
            with httpx.stream("GET", path, timeout=30) as stream:
                self._read(stream.iter_lines())
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"

    def _read(self, lines: Iterator[str]) -> None:
        for line in lines:
            if self.ended.is_set():
                return
            if line.startswith("event: gap"):
                self.gaps += 1
            if line.startswith('data: {"version"'):
                found = json.loads(line[6:])
                self.breaks += found["frame"] <= self.last.get(found["id"], -1)
                self.last[found["id"]] = found["frame"]
                self.results += 1

    def look(self) -> None:
        """Fetch pictures as the page does."""
        frame = -1
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.ended.is_set():
                answer = client.get(
                    f"/api/tracks/{self.track}/snapshot.jpg", params={"after": frame, "width": 640}
                )
                if answer.status_code != 200:
                    time.sleep(0.2)
                    continue
                frame = int(answer.headers["sttrack-frame"])
                self.images += 1


def memory(pid: int) -> float:
    """Resident memory, MiB."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else float("nan")


def processor_seconds(pid: int) -> float:
    """Time that a process has spent on the processors, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def quantile(text: str, stage: str, share: float) -> float:
    """Seconds, between the bounds of the histogram's bucket."""
    pattern = rf'sttrack_stage_seconds_bucket{{le="([^"]+)",stage="{stage}"}} (\S+)'
    buckets = [(float(bound), float(count)) for bound, count in re.findall(pattern, text)]
    wanted, low, before = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            return (
                low
                if bound == float("inf")
                else low + (bound - low) * (wanted - before) / max(1, count - before)
            )
        low, before = bound, count
    return low


def start_server(port: int, tracks: int, arguments: list[str]) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-c", "from sttrack_deploy.cli.serve import main; main()"]
    source = f"udp://127.0.0.1:{port}?fifo_size=100000&overrun_nonfatal=1"
    command += [source, "--port", "0", "--idle", str(IDLE), "--max-tracks", str(tracks), *arguments]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"http://\S+", line)
        if found:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, found[0].rstrip("/")
    raise SystemExit("the server did not start")


def run(options: argparse.Namespace, server: subprocess.Popen[str], url: str) -> bool:
    client = httpx.Client(base_url=url, timeout=60)
    (source,) = client.get("/api/sources").json()
    first = client.get(f"/api/sources/{source['id']}/snapshot.jpg")
    if first.status_code != 200:
        raise SystemExit(f"no picture of the stream: {first.text}")
    body = {"source": source["id"], "boxes": [BOX]}
    tracks = [client.post("/api/tracks", json=body).json()["id"] for _ in range(options.tracks)]
    ends = [threading.Event() for _ in range(options.viewers)]
    viewers = [
        Viewer(url, tracks[index % len(tracks)], index >= len(tracks), end) for index, end in enumerate(ends)
    ]
    for viewer in viewers:
        threading.Thread(target=viewer.follow, daemon=True).start()
        if viewer.pictures:
            threading.Thread(target=viewer.look, daemon=True).start()
    begun, samples, spent = time.monotonic(), [], processor_seconds(server.pid)
    load = processor_seconds(os.getpid())
    while time.monotonic() - begun < options.seconds:
        time.sleep(min(5.0, options.seconds / 8))
        samples.append((time.monotonic() - begun, memory(server.pid)))
    text = client.get("/metrics").text
    spent, load = processor_seconds(server.pid) - spent, processor_seconds(os.getpid()) - load
    half = [size for _, size in samples[len(samples) // 2 :]]
    frames, dropped = metric(text, "sttrack_frames_total"), metric(text, "sttrack_dropped_frames_total")
    breaks = sum(viewer.breaks for viewer in viewers)
    print(f"{options.viewers} viewers, {options.tracks} tracks in one stream, {options.seconds:.0f} s")
    print(f"frames tracked {frames:.0f} ({frames / options.seconds:.1f} a second), dropped {dropped:.0f}")
    for stage in ("total", "inference", "crop", "publish"):
        low, high = quantile(text, stage, 0.5), quantile(text, stage, 0.95)
        print(f"{stage:>10}: median {1e3 * low:.0f} ms, p95 {1e3 * high:.0f} ms")
    print(
        f"processor time: server {spent:.0f} s, viewers and sender {load:.0f} s, "
        f"of {options.seconds * (os.cpu_count() or 1):.0f} s that this machine has"
    )
    print(f"memory {samples[0][1]:.0f} MiB at first, second half {min(half):.0f} to {max(half):.0f} MiB")
    print("memory by time: " + ", ".join(f"{second:.0f} s {size:.0f}" for second, size in samples))
    print(f"results received {sum(v.results for v in viewers)}, pictures {sum(v.images for v in viewers)}, "
          f"breaks in order {breaks}, gaps {sum(v.gaps for v in viewers)}")  # fmt: skip
    for viewer in viewers:
        if viewer.error:
            print(f"viewer failed: {viewer.error}")
    # Everybody who follows the first track vanishes.
    for viewer in viewers:
        if viewer.track == tracks[0]:
            viewer.ended.set()
    gone = time.monotonic()
    freed = None
    while freed is None and time.monotonic() - gone < IDLE + 30:
        state = next(t for t in client.get("/api/tracks").json() if t["id"] == tracks[0])
        freed = time.monotonic() - gone if state["state"] == "stopped" else None
        time.sleep(0.2)
    print("a vanished client's track: " + ("not freed" if freed is None else f"freed after {freed:.1f} s"))
    for viewer in viewers:
        viewer.ended.set()
    return breaks == 0 and freed is not None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--viewers", type=int, default=24)
    parser.add_argument("--tracks", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("server", nargs="*", help="further arguments of sttrack-serve, after --")
    options = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip)
        ended = threading.Event()
        sender = threading.Thread(target=send, args=(clip, port, ended), daemon=True)
        sender.start()
        server, url = start_server(port, options.tracks, options.server)
        good = False
        try:
            good = run(options, server, url)
        finally:
            ended.set()
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                print("the server did not end within a minute of SIGTERM")
                good = False
            sender.join(5)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
