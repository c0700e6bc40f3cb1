"""Which clips a run learns from: every batch has a number, and its clips follow from that number alone.

A step takes ``shares`` batches side by side, one for each process as a rule. Each is drawn from a generator of its
own, seeded with the run's seed, the batch's number and the share's. So a process generates its own share only; a run
can be cut anywhere and goes on with the same clips; batches can be made ahead, and several at a time; and one process
that takes the shares of several (see ``RunOptions.shares``) sees what they would see.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields

import torch

from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipSource, concatenate, seeded

__all__ = ["ClipFeed", "Prefetched"]


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
            self._streams.stream = torch.cuda.Stream(self.feed.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._streams.stream):
            yield
            self._streams.stream.synchronize()
