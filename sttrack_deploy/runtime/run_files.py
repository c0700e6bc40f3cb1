"""The files that a run writes: their names, checked before any work, and their writers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sttrack_deploy.errors import UsageError
from sttrack_deploy.output_file import OutputFile, check_outputs
from sttrack_deploy.runtime.results import BoxesWriter, JsonToStdout, JsonWriter, ResultWriter
from sttrack_deploy.runtime.session import Outputs
from sttrack_deploy.runtime.track_formats import TRACK_FORMATS, open_tracks, track_format
from sttrack_deploy.video.file_types import CONTAINERS
from sttrack_deploy.video.frames import Note, SourceInfo
from sttrack_deploy.video.writer import VideoWriter, check_codec

__all__ = ["RunFiles", "boxes_files", "files_by_suffix"]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What a run writes.

    Attributes:
        codec: of the video; ``None`` for its suffix's default.
        quality: of the video, 0 to 100.
        sound: copy the source's sound into the video.
        boxes: files of boxes, one for each target, or none.
        json: ``-`` for standard output.
        tracks_format: ``None``: by the suffix of ``tracks``.
        overwrite: files that exist may be replaced.
    """

    video: Path | None
    codec: str | None
    quality: int
    sound: bool
    boxes: tuple[Path, ...]
    json: Path | None
    tracks: Path | None
    tracks_format: str | None
    overwrite: bool

    @property
    def prints(self) -> bool:
        """JSON lines go to standard output."""
        return self.json == Path("-")

    @property
    def paths(self) -> list[Path]:
        """The files by name, in the order in which they are opened."""
        named = [self.video, *self.boxes, None if self.prints else self.json, self.tracks]
        return [path for path in named if path is not None]

    def absolute(self) -> RunFiles:
        """The same for a process that works in another folder."""
        video, json, tracks = (
            None if path is None else path.absolute() for path in (self.video, self.json, self.tracks)
        )
        boxes = tuple(path.absolute() for path in self.boxes)
        return dataclasses.replace(self, video=video, json=json, tracks=tracks, boxes=boxes)

    def check(
        self, source: str | None, ours: Collection[Path] = (), further: Sequence[Path | None] = ()
    ) -> None:
        """Whether they can be written and nothing is lost by it; to be asked before the work.

        Args:
            source: what is read, as :func:`~sttrack_deploy.video.source.open_source` takes it.
            ours: files that are replaced unasked.
            further: what else is read: a detector's file, the bundle.

        Raises:
            UserError: one of the files cannot or must not be written.
        """
        self.check_formats()
        kept = [path for path in self.paths if path not in ours]
        sources = [*source_paths(source), *(path for path in further if path is not None)]
        check_outputs(self.paths, sources, overwrite=True)
        check_outputs(kept, sources, overwrite=self.overwrite)

    def check_formats(self) -> None:
        """Raises UserError where a suffix does not go with the codec or says no format."""
        if self.video is not None:
            check_codec(self.video, self.codec)
        if self.tracks is not None:
            track_format(self.tracks, self.tracks_format)

    @contextlib.contextmanager
    def open(self, source: SourceInfo, files: list[OutputFile], note: Note | None) -> Iterator[Outputs]:
        """Open the writers, and close them at the end; ``files`` gets them in the order of :attr:`paths`."""
        video = None
        writers: list[ResultWriter] = []
        with contextlib.ExitStack() as stack:
            if self.video is not None:
                video = stack.enter_context(
                    VideoWriter(
                        self.video,
                        source.fps,
                        codec=self.codec,
                        quality=self.quality,
                        sound=source.audio if self.sound else None,
                        note=note,
                    )
                )
                files.append(video)
            for target, path in enumerate(self.boxes):
                boxes = stack.enter_context(BoxesWriter(path, target))
                files.append(boxes)
                writers.append(boxes)
            if self.prints:
                writers.append(JsonToStdout())
            elif self.json is not None:
                lines = stack.enter_context(JsonWriter(self.json))
                files.append(lines)
                writers.append(lines)
            if self.tracks is not None:
                tracks = stack.enter_context(open_tracks(self.tracks, source.name, self.tracks_format))
                files.append(tracks)
                writers.append(tracks)
            yield Outputs(video, writers)


def source_paths(source: str | None) -> list[Path]:
    """What of a source lies on the disk: its file, or the folder of its images."""
    if source is None or "://" in source:
        return []
    path = Path(source)
    if not path.exists() and any(sign in path.name for sign in "%*?["):
        return [path.parent]  # images by a pattern
    return [path]


_TRACKS = [form for form in TRACK_FORMATS.values() if form.suffix != ".txt"]  # which is boxes here
_KINDS = {
    **dict.fromkeys(CONTAINERS, "video"),
    ".txt": "boxes",
    ".jsonl": "json",
    **{form.suffix: "tracks" for form in _TRACKS},
}
"""What a run writes into a file, by its suffix."""


def files_by_suffix(
    paths: Sequence[Path], targets: int | None, *, codec: str | None, quality: int, sound: bool
) -> RunFiles:
    """What to write into each file, told from its suffix.

    A video (``.mp4``, ``.mkv``, …) is annotated, ``.txt`` gets boxes, ``.jsonl`` JSON lines, ``.xml``, ``.json`` and
    ``.csv`` tracks.

    Args:
        targets: how many there are; ``None`` where a detector says it while the run goes on.

    Raises:
        UsageError: no path, a suffix that says nothing, two files of one kind, or boxes of targets that a detector
            starts.
    """
    if not paths:
        suffixes = [suffix for suffix in _KINDS if suffix == ".mp4" or suffix not in CONTAINERS]
        raise UsageError(f"there is no output; name a file: {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    kinds: dict[str, Path] = {}
    for path in paths:
        kind = _KINDS.get(path.suffix.lower())
        if kind is None:
            videos, tracks = " ".join(CONTAINERS), ", ".join(f"{f.suffix} ({f.title})" for f in _TRACKS)
            raise UsageError(
                f"{path} has no suffix of an output: {videos} (video), .txt (boxes), .jsonl (JSON lines), or tracks: "
                f"{tracks}"
            )
        if kind in kinds:
            raise UsageError(f"{kinds[kind]} and {path} are both {kind}; one a video is written")
        kinds[kind] = path
    if targets is None and "boxes" in kinds:
        raise UsageError(f"{kinds['boxes']}: boxes are of targets that are given; write .jsonl or tracks")
    return RunFiles(
        video=kinds.get("video"),
        codec=codec,
        quality=quality,
        sound=sound,
        boxes=boxes_files(kinds.get("boxes"), targets or 1),
        json=kinds.get("json"),
        tracks=kinds.get("tracks"),
        tracks_format=None,
        overwrite=True,
    )


def boxes_files(path: Path | None, targets: int) -> tuple[Path, ...]:
    """``street.txt``, or ``street_1.txt``, ``street_2.txt``, … for several targets."""
    if path is None or targets == 1:
        return () if path is None else (path,)
    return tuple(path.with_name(f"{path.stem}_{number}{path.suffix}") for number in range(1, targets + 1))
