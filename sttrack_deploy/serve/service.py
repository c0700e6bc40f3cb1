"""The service behind the page: sources, tracks, and the readings that run them on one engine."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

from sttrack_deploy.bundle import Bundle, TrackingPolicy
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.runtime.batch import SharedEngine
from sttrack_deploy.serve.downloads import FORMATS, LiveRecorder, VideoRenderer
from sttrack_deploy.serve.metrics import Metrics
from sttrack_deploy.serve.reading import FileReading, LiveReading, Reading, Tools
from sttrack_deploy.serve.settings import Conflict, NotFound, Refusal, Settings, TooMany, checked_box, whole
from sttrack_deploy.serve.sources import Source, SourceStore
from sttrack_deploy.serve.track import Start, Target, Track

__all__ = ["Service"]

CLOSE_SECONDS = 5.0  # for all threads together; they are daemons, and one may hang in a driver


class Service:
    """Everything that the API does; its methods block and are called from worker threads.

    Attributes:
        viewers: event streams and waiting snapshots that are open.
        ending: the server ends; nobody waits for anything any more.
    """

    def __init__(self, settings: Settings, bundle: Bundle, engine: Engine, policy: TrackingPolicy) -> None:
        self.settings = settings
        self.bundle = bundle
        self.metrics = Metrics()
        self.sources = SourceStore(settings)
        self.viewers = 0
        self.ending = False
        self._tools = Tools(bundle, SharedEngine(engine), policy, self.metrics)
        self._tracks: dict[str, Track] = {}
        self._readings: dict[str, Reading] = {}
        self._live: dict[str, LiveReading] = {}
        self._renderers: dict[str, VideoRenderer] = {}
        self._keys = itertools.count(1)
        self._lock = threading.RLock()
        self._engine_name = engine.name
        gauge = self.metrics.gauge
        gauge("sttrack_tracks", "Tracks that exist", lambda: len(self._tracks))
        gauge("sttrack_running_tracks", "Tracks that run", lambda: sum(t.active for t in self.tracks()))
        gauge("sttrack_streams", "Sources that are read", self._streams)
        gauge("sttrack_viewers", "Event streams and waiting snapshots", lambda: self.viewers)
        gauge("sttrack_stored_bytes", "Uploads and videos in the temporary folder", self.sources.stored_bytes)

    def end_waiting(self) -> None:
        """End event streams and waiting snapshots, which would last as long as their clients like."""
        self.ending = True
        for track in self.tracks():
            track.waiters.wake()
        for reading in self._all_readings():
            reading.waiters.wake()

    def close(self) -> None:
        """End all threads and delete all files."""
        self.end_waiting()
        readings = self._all_readings()
        for reading in readings:  # all at once: each may need a moment
            reading.end()
        deadline = time.monotonic() + CLOSE_SECONDS
        for reading in readings:
            reading.close(max(0.0, deadline - time.monotonic()))
        for track in self.tracks():
            self.delete(track)
        self.sources.close()

    def describe(self) -> dict[str, Any]:
        """What the page needs to know."""
        settings, limits = self.settings, self.settings.limits
        return {
            "bundle": self.bundle.manifest.name,
            "engine": self._engine_name,
            "files": settings.root is not None,
            "urls": settings.allow_url,
            "cameras": settings.allow_camera,
            "formats": [{"name": f.name, "title": f.title, "meta": f.meta} for f in FORMATS.values()],
            "limits": {
                "tracks": limits.tracks,
                "targets": limits.targets,
                "streams": limits.streams,
                "upload_bytes": limits.upload_bytes,
            },
        }

    # --- tracks --------------------------------------------------------------------------------------

    def tracks(self) -> list[Track]:
        """All tracks."""
        return list(self._tracks.values())

    def track(self, name: str) -> Track:
        """Raises NotFound where there is none of that name."""
        track = self._tracks.get(name)
        if track is None:
            raise NotFound("there is no such track; it was never started, or it was deleted")
        track.touched = time.monotonic()
        return track

    def reading(self, track: Track) -> Reading:
        """The reading that a track belongs to."""
        return self._readings[track.name]

    def create(
        self,
        source: Source,
        boxes: Sequence[object],
        frame: object = None,
        *,
        end: object = None,
        keep: bool = False,
        record: bool = False,
    ) -> Track:
        """Start a track.

        Args:
            boxes: x, y, w, h in pixels of the displayed frame, one for each target.
            frame: that the boxes are on; a live source's must have been held, ``None`` is its newest one.
            end: frame to stop before; ``None`` for the source's end.
            keep: go on though nobody watches.
            record: of a live source: write the annotated video as it goes.
        """
        limits = self.settings.limits
        if not isinstance(boxes, list) or not boxes:
            raise Refusal("boxes is a list of at least one box [x, y, w, h]")
        if len(boxes) > limits.targets:
            raise TooMany(f"a track has at most {limits.targets} targets on this server")
        last = None if end is None else whole(end, "end")
        with self._lock:
            self._make_room()
            reading = self._reading_for(source)
            starts = self._starts(reading, boxes, frame)
            if last is not None and last <= starts[0].frame:
                raise Refusal(f"end {last} must be greater than frame {starts[0].frame}")
            self._check_streams(reading)
            track = Track(
                secrets.token_urlsafe(9),
                source,
                reading.lock,
                keep=keep,
                end=last,
                kept=limits.results if source.live else None,
            )
            with reading.lock:
                for start in starts:
                    track.add(next(self._keys), start)
                if record and source.live:
                    track.recorder = LiveRecorder(self.sources.folder, source.fps, self.sources.has_room)
                reading.tracks.append(track)
            self._tracks[track.name] = track
            self._readings[track.name] = reading
        self.metrics.tracks_started.inc()
        reading.go()
        return track

    def correct(
        self, track: Track, number: object, frame: object, box: object, *, resume: bool = True
    ) -> None:
        """Start a target again on a frame; its results from there on are void, the other targets' stay."""
        reading = self.reading(track)
        (start,) = self._starts(reading, [box], frame)
        self._check_end(track, start)
        with reading.lock:
            target = track.target(whole(number, "target"))
            target.restart(start)
            self._rewound(track, [target], start.frame)
            self._go_on(track, reading, resume=resume)

    def add_target(self, track: Track, frame: object, box: object, *, resume: bool = True) -> Target:
        """One more target."""
        limit = self.settings.limits.targets
        reading = self.reading(track)
        (start,) = self._starts(reading, [box], frame)
        self._check_end(track, start)
        with reading.lock:
            if len(track.targets) >= limit:
                raise TooMany(f"a track has at most {limit} targets on this server")
            target = track.add(next(self._keys), start)
            self._rewound(track, [target], start.frame)
            self._go_on(track, reading, resume=resume)
        return target

    def remove_target(self, track: Track, number: int) -> None:
        """Forget a target and its results."""
        reading = self.reading(track)
        with reading.lock:
            target = track.target(number)
            if len(track.targets) == 1:
                raise Conflict("it is the track's only target; delete the track instead")
            del track.targets[number]
            self._rewound(track, [target], 0)

    def pause(self, track: Track) -> None:
        """Halt; :meth:`resume` goes on from here."""
        with track.lock:
            if track.state not in ("running", "paused"):
                raise Conflict(f"the track is {track.state}; only a running one can be paused")
            track.set_state("paused")

    def resume(self, track: Track) -> None:
        """Go on."""
        reading = self.reading(track)
        with track.lock:
            if track.state in ("done", "failed"):
                raise Conflict(f"the track is {track.state}; correct a box or restart it")
            self._go_on(track, reading, resume=True)

    def stop(self, track: Track, message: str = "") -> None:
        """End; the results stay until the track is deleted."""
        with track.lock:
            if track.state in ("running", "paused"):
                track.set_state("stopped", message)
            if track.recorder is not None:
                track.recorder.close()

    def restart(self, track: Track) -> None:
        """Begin again with the boxes that each target was first given."""
        reading = self.reading(track)
        if track.source.live:
            raise Conflict(
                "a live source cannot be started again from the beginning; correct the box instead"
            )
        with reading.lock:
            for target in track.targets.values():
                target.restart(target.given[0])
            self._rewound(track, list(track.targets.values()), min(t.next for t in track.targets.values()))
            self._go_on(track, reading, resume=True)

    def delete(self, track: Track) -> None:
        """Stop and forget a track."""
        with self._lock:
            self._tracks.pop(track.name, None)
            reading = self._readings.pop(track.name, None)
            renderer = self._renderers.pop(track.name, None)
        self.stop(track)
        if reading is not None:
            reading.forget(track)
            if isinstance(reading, FileReading):
                reading.close()
        if renderer is not None:
            renderer.delete()
        if track.recorder is not None:
            track.recorder.delete()
        track.tell("state", {**track.describe(), "state": "deleted"})

    def remove_source(self, source: Source) -> None:
        """Forget a source with its tracks."""
        for track in self.tracks():
            if track.source is source:
                self.delete(track)
        with self._lock:
            live = self._live.pop(source.name, None)
        if live is not None:
            live.close()
        self.sources.remove(source)

    # --- live sources, videos ------------------------------------------------------------------------

    def live(self, source: Source) -> LiveReading:
        """The reading of a live source, opened for whoever looks."""
        if not source.live:
            raise Conflict("the source is not live; ask for its frames by number")
        with self._lock:
            reading = self._reading_for(source)
            assert isinstance(reading, LiveReading)
            self._check_streams(reading)
        reading.look()
        return reading

    def renderer(self, track: Track) -> VideoRenderer:
        """What writes a track's annotated video; there is one a track."""
        if track.source.live:
            raise Conflict(
                "a live source's video is written while it runs, where the track was created with record"
            )
        with self._lock:
            found = self._renderers.get(track.name)
            if found is None or found.outdated:
                if found is not None:
                    found.delete()
                if sum(renderer.running for renderer in self._renderers.values()) >= 2:
                    raise TooMany("two videos are being written already; ask again in a moment")
                found = self._renderers[track.name] = VideoRenderer(track, self.sources.folder)
                found.start()
            return found

    def tidy(self) -> None:
        """Stop what nobody watches and delete what nobody has asked for; called every few seconds."""
        limits, now = self.settings.limits, time.monotonic()
        for track in self.tracks():
            idle = now - track.touched
            if track.viewers:
                track.touched = now
            elif track.active and not track.keep and idle > limits.idle_seconds:
                self.stop(track, "nobody was watching")
            elif not track.active and idle > limits.keep_seconds:
                self.delete(track)
        used = {track.source.name for track in self.tracks()}
        for source in self.sources:
            if source.name not in used and not source.given and now - source.touched > limits.keep_seconds:
                self.remove_source(source)

    # --- helpers -------------------------------------------------------------------------------------

    def _all_readings(self) -> list[Reading]:
        with self._lock:
            readings = (*self._readings.values(), *self._live.values())
        return list({id(reading): reading for reading in readings}.values())

    def _streams(self) -> int:
        return sum(reading.busy for reading in self._all_readings())

    def _check_streams(self, reading: Reading) -> None:
        limit = self.settings.limits.streams
        if not reading.busy and self._streams() >= limit:
            raise TooMany(
                f"the server reads {limit} sources at once, which is its limit; stop a track, or wait"
            )

    def _make_room(self) -> None:
        """Raises TooMany; a track that is over and that nobody looks at gives way first."""
        limit = self.settings.limits
        if len(self._tracks) < limit.tracks:
            return
        old = [t for t in self.tracks() if not t.active and not t.viewers]
        old = [t for t in old if time.monotonic() - t.touched > limit.idle_seconds]
        if not old:
            raise TooMany(f"the server has {limit.tracks} tracks, which is its limit; stop and delete one")
        self.delete(min(old, key=lambda track: track.touched))

    def _reading_for(self, source: Source) -> Reading:
        if not source.live:
            return FileReading(source, self._tools)
        if source.name not in self._live:
            self._live[source.name] = LiveReading(source, self._tools)
        return self._live[source.name]

    def _starts(self, reading: Reading, boxes: Sequence[object], frame: object) -> list[Start]:
        source = reading.source
        image = None
        index = 0 if frame is None else whole(frame, "frame")
        if isinstance(reading, LiveReading):
            held = reading.hold(None if frame is None else index)
            index, image = held.index, held.image
        elif source.frames is not None and index >= source.frames:
            raise Refusal(f"the source has {source.frames} frames; there is no frame {index}")
        return [Start(index, checked_box(box, source.height, source.width), image) for box in boxes]

    def _check_end(self, track: Track, start: Start) -> None:
        if track.end is not None and start.frame >= track.end:
            raise Refusal(f"the track ends before frame {track.end}")

    def _rewound(self, track: Track, targets: Sequence[Target], frame: int) -> None:
        renderer = self._renderers.get(track.name)
        if renderer is not None:
            renderer.outdated = True
        track.tell("rewind", {"targets": [target.number for target in targets], "frame": frame})

    def _go_on(self, track: Track, reading: Reading, *, resume: bool) -> None:
        if resume:
            if not track.active:
                self._check_streams(reading)
            track.set_state("running")
            reading.go()
        elif track.active or track.state in ("done", "failed"):
            track.set_state("paused")
        track.tell_state()
