"""Recording a calibration set: track once to see what there is, choose, track again and write.

Two passes, because what makes a choice fair is known only at the end, and keeping every frame's state until then
would take gigabytes. The second pass repeats the first exactly, which needs an engine that gives the same numbers
for the same input: ONNX Runtime does with one thread.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from sttrack_deploy import __version__
from sttrack_deploy.bundle import Bundle, GraphSpec, TrackingPolicy
from sttrack_deploy.calib.calibration_set import (
    MANIFEST,
    CalibrationManifest,
    CalibrationSet,
    Confidence,
    Feeds,
    SampleEntry,
    SourceEntry,
    graphs_of,
    open_calibration,
)
from sttrack_deploy.calib.sampling import (
    SCAN_PER_SAMPLE,
    Candidates,
    PlannedTrack,
    band_counts,
    choose,
    confidence_edges,
    pick_sequences,
    plan_tracks,
)
from sttrack_deploy.calib.set_writer import SetWriter
from sttrack_deploy.calib.sources import boxes_hash, source_hash
from sttrack_deploy.calib.tracking_pass import FollowedRun, track_sequence
from sttrack_deploy.engines.base import Engine
from sttrack_deploy.engines.recording import RecordingEngine
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.runner import SingleTargetTracker
from sttrack_deploy.files import atomic_directory, check_only
from sttrack_deploy.progress import SILENT, Progress
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.sequences.sequence import TrackRun, VideoSequence

__all__ = ["Progress", "Recording", "check_output", "estimated_bytes", "record"]


SPARE_BYTES = 64 << 20
"""What is left free on the disk."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What to record.

    Attributes:
        samples: how many are wanted.
        starts: tracks started in each sequence.
        seed: of the choice.
        policy: what the tracker does while lost.
        command: what records the set again, without ``--bundle`` and ``--out``.
        runs: evaluation runs to follow instead of tracking, by sequence.
    """

    samples: int
    starts: int
    seed: int
    policy: TrackingPolicy
    command: str
    runs: Mapping[str, TrackRun] = field(default_factory=dict)


def record(
    bundle: Bundle,
    engine: Engine,
    sequences: Sequence[VideoSequence],
    recording: Recording,
    out: Path,
    progress: Progress = SILENT,
) -> CalibrationSet:
    """Record a set; a set that was at ``out`` is replaced when the new one is complete.

    Raises:
        UserError: a video cannot be read, nothing could be tracked, the disk is full, or ``out`` is something else.
        UsageError: the box given lies outside the image.
    """
    check_output(out)
    _check_space(out, bundle, recording, len(sequences))
    run = _Run(bundle, engine, sequences, recording, progress)
    with atomic_directory(out) as folder:
        candidates = run.scan()
        edges = confidence_edges(candidates.confidence, recording.policy.lost_below)
        chosen = choose(candidates, recording.samples, edges, np.random.default_rng((recording.seed, 1)))
        run.write(folder, out.name, candidates, chosen.tolist(), edges)
    return open_calibration(out, bundle)


def estimated_bytes(bundle: Bundle, samples: int, templates: int) -> int:
    """Size of a set on disk, from the graphs' inputs."""
    return samples * _row_bytes(bundle.manifest.search) + templates * _row_bytes(bundle.manifest.template)


def check_output(out: Path) -> None:
    """A set may be replaced, nothing else.

    Raises:
        UserError: there is something else at ``out``.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_set(out))):
        raise UserError(f"{out} exists and is not a calibration set; name another folder with --out DIR")
    check_only(out, [MANIFEST, "samples/*.npz", "templates/*.npz"], "a calibration set")


class _Run:
    """One recording on its way."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        sequences: Sequence[VideoSequence],
        recording: Recording,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._tap = RecordingEngine(engine, enabled=False)
        self._recording = recording
        self._progress = progress
        random = np.random.default_rng((recording.seed, 0))
        self._sequences = pick_sequences(sequences, recording.samples, random)
        self._plans = plan_tracks(self._sequences, recording.starts, SCAN_PER_SAMPLE * recording.samples)

    def scan(self) -> Candidates:
        """The first pass.

        Raises:
            UserError: nothing could be tracked.
        """
        rows: list[tuple[int, int, int, int, float, bool]] = []
        self._progress.stage("tracking", sum(plan.steps for plan in self._plans))
        for index, sequence in enumerate(self._sequences):
            tracks = self._tracks_of(index)
            plans = [self._plans[track] for track in tracks]
            for step in track_sequence(sequence, plans, self._tracker):
                if step.result is not None:
                    track, confidence = tracks[step.track], step.result.confidence
                    rows.append((index, track, step.frame, step.number, confidence, self._tap.padded))
                    self._progress.advance()
        if not rows:
            raise UserError(
                f"nothing could be tracked in {len(self._sequences)} sequence(s): no box lies inside its image; "
                "boxes are x,y,w,h in pixels"
            )
        sequences, track_ids, frames, steps, confidences, padded = zip(*rows, strict=True)
        return Candidates(
            sequence=np.array(sequences, np.int64),
            track=np.array(track_ids, np.int64),
            frame=np.array(frames, np.int64),
            step=np.array(steps, np.int64),
            confidence=np.array(confidences, np.float64),
            padded=np.array(padded, np.bool_),
        )

    def write(
        self,
        folder: Path,
        name: str,
        candidates: Candidates,
        chosen: list[int],
        edges: tuple[float, ...],
    ) -> None:
        """The second pass: the same tracks again, up to the last frame that was chosen.

        Raises:
            UserError: the second pass did not repeat the first.
        """
        numbers = {
            (int(candidates.track[row]), int(candidates.frame[row])): number
            for number, row in enumerate(chosen)
        }
        writer = SetWriter(folder)
        self._progress.stage("recording", len(numbers))
        for index, sequence in enumerate(self._sequences):
            self._write_sequence(writer, index, sequence, numbers)
        if len(writer.samples) != len(chosen):
            raise UserError(
                f"the engine '{self._tap.name}' did not repeat its first pass: {len(writer.samples)} of "
                f"{len(chosen)} samples came again; use --engine onnxruntime --threads 1"
            )
        writer.finish(self._manifest(name, writer, candidates, edges))

    def _write_sequence(
        self,
        writer: SetWriter,
        index: int,
        sequence: VideoSequence,
        numbers: Mapping[tuple[int, int], int],
    ) -> None:
        last = {track: frame for track, frame in sorted(numbers) if self._plans[track].sequence == index}
        tracks = [track for track in self._tracks_of(index) if track in last]
        if not tracks:
            return
        plans = [dataclasses.replace(self._plans[track], end=last[track] + 1) for track in tracks]
        if any(plan.box is None for plan in plans):
            # They start on the first track's box, so that one runs as it did.
            tracks, plans = self._with_first(index, tracks, plans)
        templates: dict[int, tuple[Feeds, int]] = {}

        def listen(track: int, frame: int) -> None:
            self._tap.enabled = (tracks[track], frame) in numbers

        for step in track_sequence(sequence, plans, self._tracker, listen):
            track = tracks[step.track]
            if step.result is None:
                assert self._tap.start is not None
                templates[track] = self._tap.start.inputs(), step.frame
            elif self._tap.enabled:
                assert self._tap.last is not None
                template = writer.template(track, *templates[track], sequence.name)
                inputs = self._tap.last.inputs(self._bundle.manifest.state)
                writer.sample(numbers[track, step.frame], inputs, template, sequence.name, step)
                self._progress.advance()

    def _with_first(
        self, index: int, tracks: list[int], plans: list[PlannedTrack]
    ) -> tuple[list[int], list[PlannedTrack]]:
        first = self._tracks_of(index)[0]
        others = [pair for pair in zip(tracks, plans, strict=True) if pair[0] != first]
        return [first, *(t for t, _ in others)], [self._plans[first], *(p for _, p in others)]

    def _tracks_of(self, index: int) -> list[int]:
        return [track for track, plan in enumerate(self._plans) if plan.sequence == index]

    def _tracker(self, plan: PlannedTrack) -> SingleTargetTracker:
        followed = self._recording.runs.get(self._sequences[plan.sequence].name)
        if followed is not None and plan.number == 0 and plan.frame == 0:
            return FollowedRun(self._bundle, self._tap, self._recording.policy, followed)
        return Tracker(self._bundle, self._tap, self._recording.policy)

    def _manifest(
        self, name: str, writer: SetWriter, candidates: Candidates, edges: tuple[float, ...]
    ) -> CalibrationManifest:
        samples, recording = writer.samples, self._recording
        taken = np.array([sample.confidence for sample in samples])
        return CalibrationManifest(
            name=name,
            bundle=graphs_of(self._bundle),
            batch=self._bundle.manifest.smallest_batch,
            command=recording.command,
            seed=recording.seed,
            samples=samples,
            templates=writer.templates,
            sources=tuple(self._sources(samples, candidates)),
            inputs=writer.search_ranges,
            template_inputs=writer.template_ranges,
            confidence=Confidence(
                edges, band_counts(candidates.confidence, edges), band_counts(taken, edges)
            ),
            padded_share=round(float(np.mean([sample.padded for sample in samples])), 6),
            tracking={
                "engine": self._tap.describe(),
                "policy": dataclasses.asdict(recording.policy),
                "starts": recording.starts,
                "tracked": len(candidates),
                "followed": sorted(s.name for s in self._sequences if s.name in recording.runs),
            },
            tools={"sttrack-deploy": __version__, "numpy": np.__version__, "opencv": cv2.__version__},
        )

    def _sources(self, samples: Sequence[SampleEntry], candidates: Candidates) -> list[SourceEntry]:
        hashes: dict[Path, str] = {}
        sources = []
        for index, sequence in enumerate(self._sequences):
            taken = sum(sample.sequence == sequence.name for sample in samples)
            if not taken:
                continue
            if sequence.source not in hashes:
                hashes[sequence.source] = source_hash(sequence.source)
            sources.append(
                SourceEntry(
                    sequence=sequence.name,
                    file=sequence.source.name,
                    sha256=hashes[sequence.source],
                    boxes_sha256=boxes_hash(sequence),
                    tracked=int((candidates.sequence == index).sum()),
                    samples=taken,
                )
            )
        return sources


def _is_set(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and (folder / "samples").is_dir()


def _check_space(out: Path, bundle: Bundle, recording: Recording, sequences: int) -> None:
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    templates = min(recording.samples, sequences * recording.starts)
    needed = estimated_bytes(bundle, recording.samples, templates)
    free = shutil.disk_usage(parent).free
    if needed + SPARE_BYTES > free:
        raise UserError(
            f"{recording.samples} samples of {bundle.manifest.name} take about {needed / 2**20:.0f} MiB, but {parent} "
            f"has {free / 2**20:.0f} MiB free; free some space, name another disk with --out, or record fewer "
            "(--samples)"
        )


def _row_bytes(graph: GraphSpec) -> int:
    """Of every input with batch 1, and of the file around them."""
    total = 0
    for tensor in graph.inputs:
        rows = [int(size) for size in tensor.shape[1:]]
        total += int(np.prod(rows, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize + 400
    return total
