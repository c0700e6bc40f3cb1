"""What the trainer feeds on: batches of clips, one template and ``T`` search frames each.

Sources (photographs set in motion, real videos, ...) all answer the same call, :meth:`ClipSource.sample`,
and are mixed by :class:`MixedSource`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from sttrack_deploy.errors import UserError

__all__ = ["ClipBatch", "ClipGeometry", "ClipSource", "MixedSource", "concatenate", "seeded"]


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
        box: float32 ``(B, T, 4)`` x1 y1 x2 y2 normalised to the search crop; the parts of a target that lie
            outside the crop count, so values may leave 0..1. Meaningless where not present.
        present: bool ``(B, T)``: enough of the target is in view and its centre lies in the crop.
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
