"""Batches of clips, one template and ``T`` search frames each, and how the trainer is fed with them.

Sources (photographs set in motion, real videos, ...) all answer the same call, :meth:`ClipSource.sample`,
and are mixed by :class:`MixedSource`. Random numbers (:class:`Draws`) are drawn on the CPU from one generator and
then moved, so the same seed gives the same clips on every device.

Every batch of a run has a number, and its clips follow from that number alone. A step takes ``shares`` batches side by
side, one for each process as a rule. Each is drawn from a generator of its own, seeded with the run's seed, the
batch's number and the share's. So a process generates its own share only; a run can be cut anywhere and goes on with
the same clips; batches can be made ahead, and several at a time; and one process that takes the shares of several (see
``RunOptions.shares``) sees what they would see.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from sttrack_deploy.errors import UserError

__all__ = [
    "ClipBatch",
    "ClipFeed",
    "ClipGeometry",
    "ClipSource",
    "Draws",
    "MixedSource",
    "Prefetched",
    "concatenate",
    "seeded",
]


class Draws:
    """Random tensors from ``generator``, delivered on ``device`` (float32 unless said otherwise)."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator = generator
        self.device = device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in ``low .. high``."""
        drawn = torch.rand(shape, generator=self.generator) * (high - low) + low
        return drawn.to(self.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in the logarithm, ``low .. high``, both above 0."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, scale: float, *shape: int) -> Tensor:
        """Normal with mean 0 and standard deviation ``scale``."""
        return (torch.randn(shape, generator=self.generator) * scale).to(self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Bool, True with that probability."""
        return (torch.rand(shape, generator=self.generator) < probability).to(self.device)

    def sign(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return self.chance(0.5, *shape).float() * 2 - 1

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 in ``0 .. high - 1``."""
        return torch.randint(high, shape, generator=self.generator).to(self.device)

    def subset(self, count: int, probability: float) -> Tensor:
        """The indices, int64, of those of ``count`` things that are hit, each with that probability."""
        return torch.nonzero(torch.rand(count, generator=self.generator) < probability)[:, 0].to(self.device)

    def number(self, low: float, high: float) -> float:
        """One Python float, uniform."""
        return float(torch.rand((), generator=self.generator)) * (high - low) + low

    def permutation(self, count: int) -> Tensor:
        """int64 ``(count,)``."""
        return torch.randperm(count, generator=self.generator).to(self.device)


@dataclass(frozen=True, slots=True)
class ClipGeometry:
    """Crop sizes in pixels, crop factors (crop side over ``sqrt(w * h)``), pixels for each mask cell."""

    template_size: int = 96
    template_factor: float = 2.0
    search_size: int = 192
    search_factor: float = 4.0
    stride: int = 16


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """``B`` clips of one template and ``T`` search frames, all on one device.

    Attributes:
        template: uint8 ``(B, Ht, Wt, 3)`` RGB, 0 to 255.
        template_mask: bool ``(B, Ht/16, Wt/16)``, True = padding.
        search: uint8 ``(B, T, Hs, Ws, 3)`` RGB, 0 to 255.
        search_mask: bool ``(B, T, Hs/16, Ws/16)``, True = padding.
        box: float32 ``(B, T, 4)`` x1 y1 x2 y2 normalized to the search crop; the parts of a target that lie
            outside the crop count, so values may leave 0..1. Meaningless where not present.
        present: bool ``(B, T)``: enough of the target is in view and its center lies in the crop.
    """

    template: Tensor
    template_mask: Tensor
    search: Tensor
    search_mask: Tensor
    box: Tensor
    present: Tensor

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch on another device."""
        return ClipBatch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def select(self, index: Tensor) -> ClipBatch:
        """The clips of ``index`` (int64 ``(K,)``), in that order."""
        return ClipBatch(*(getattr(self, f.name)[index] for f in fields(self)))


class ClipSource(Protocol):
    """Anything that makes clips."""

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        """``batch`` clips of ``frames`` search frames; the same for the same (CPU) generator state."""
        ...


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator whose state is a hash of whole numbers: (seed, step, portion of the batch), say.

    What a source makes from it does not depend on what was drawn before or elsewhere. So a batch that is made
    in portions is the same whatever the number of processes that share them, and a resumed run goes on alike.
    """
    digest = hashlib.blake2b(repr(tuple(map(int, numbers))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def concatenate(batches: Sequence[ClipBatch]) -> ClipBatch:
    """The clips of all batches, one after the other."""
    if len(batches) == 1:
        return batches[0]
    return ClipBatch(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(ClipBatch)))


class MixedSource:
    """Several sources in one: every clip of a batch is drawn from source ``i`` with probability ``ratios[i]``."""

    def __init__(self, sources: Sequence[ClipSource], ratios: Sequence[float]) -> None:
        if not sources or len(sources) != len(ratios):
            raise UserError(
                f"a mixture needs one ratio for each source, got {len(sources)} sources and {len(ratios)} ratios"
            )
        if min(ratios) < 0 or sum(ratios) <= 0:
            raise UserError(f"the ratios of a mixture are 0 or more and not all 0, not {list(ratios)}")
        self.sources = tuple(sources)
        self.ratios = tuple(float(r) / sum(ratios) for r in ratios)

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        """See :meth:`ClipSource.sample`; the clips of the sources are shuffled together."""
        # Systematic sampling: one random offset, so a batch holds the ratios as nearly as whole clips allow,
        # and over many batches exactly.
        offset = torch.rand((), generator=generator)
        position = (torch.arange(batch) + offset) / batch
        edges = torch.tensor(self.ratios).cumsum(0)[:-1]
        counts = torch.bincount(torch.bucketize(position, edges, right=True), minlength=len(self.sources))
        parts = [
            source.sample(int(count), frames, generator)
            for source, count in zip(self.sources, counts.tolist(), strict=True)
            if count
        ]
        # Videos are cut on the CPU, photographs perhaps on a GPU.
        devices = [part.box.device for part in parts]
        device = next((d for d in devices if d.type != "cpu"), devices[0])
        joined = concatenate([part.to(device) for part in parts])
        if len(parts) == 1:
            return joined
        order = torch.randperm(batch, generator=generator)
        return joined.select(order.to(joined.box.device))


class ClipFeed:
    """The batches of one process.

    Args:
        source: makes the clips.
        clips: in a share.
        frames: in a clip.
        seed: of the run.
        mine: numbers of the shares that this process takes, from 0.
        device: where the batches are wanted.
    """

    def __init__(
        self,
        source: ClipSource,
        clips: int,
        frames: int,
        seed: int,
        mine: Sequence[int] = (0,),
        device: str = "cpu",
    ) -> None:
        self.source, self.clips, self.frames, self.seed = source, clips, frames, seed
        self.mine, self.device = tuple(mine), torch.device(device)

    def batch(self, number: int) -> ClipBatch:
        """The clips of batch ``number`` (from 0), on the device."""
        parts = []
        for share in self.mine:
            generator = seeded(self.seed, number, share)
            parts.append(self.source.sample(self.clips, self.frames, generator))
        joined = concatenate(parts)
        if self.device.type == "cuda" and joined.box.device.type == "cpu":
            # Pinned memory is copied while the GPU computes.
            joined = ClipBatch(*(getattr(joined, f.name).pin_memory() for f in fields(joined)))
        return joined.to(self.device)


class Prefetched:
    """Batches of a feed made ahead in threads, in order; threads, because torch and OpenCV leave Python's lock.

    Args:
        feed: makes them; its source must bear so many calls at a time as there are threads.
        ahead: batches that are made ahead, each in a thread of its own; 0: a batch is made when it is asked for.
        end: number of the first batch that is not wanted any more.
    """

    def __init__(self, feed: ClipFeed, ahead: int, end: int) -> None:
        self.feed, self.ahead, self.end = feed, ahead, end
        self._queue: deque[tuple[int, Future[ClipBatch]]] = deque()
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="clips") if ahead else None
        self._streams = threading.local()

    def batch(self, number: int) -> ClipBatch:
        """Batch ``number``, of which each call asks for the next one.

        Raises:
            Whatever the source raised.
        """
        if self._pool is None:
            return self.feed.batch(number)
        while self._queue and self._queue[0][0] != number:
            self._queue.popleft()[1].cancel()
        begin = self._queue[-1][0] + 1 if self._queue else number
        for later in range(begin, min(number + self.ahead + 1, self.end)):
            self._queue.append((later, self._pool.submit(self._make, later)))
        made = self._queue.popleft()[1].result()
        if self.feed.device.type == "cuda":
            # The tensors belong to another stream; their memory may not be reused before this one has read them.
            for field in fields(made):
                getattr(made, field.name).record_stream(torch.cuda.current_stream())
        return made

    def close(self) -> None:
        """Stop the threads; waits for the batches that are being made."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _make(self, number: int) -> ClipBatch:
        with self._own_stream():
            return self.feed.batch(number)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """On a GPU a stream of the thread's own, so that waiting for clips is not waiting for the training."""
        if self.feed.device.type != "cuda":
            yield
            return
        if not hasattr(self._streams, "stream"):
            self._streams.stream = torch.cuda.Stream(self.feed.device)
        with torch.cuda.stream(self._streams.stream):
            yield
            self._streams.stream.synchronize()
