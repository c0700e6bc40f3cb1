"""A clip through the recurrent network, with the parts that do not depend on time done in one batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sttrack_deploy.models.head import Corners
from sttrack_deploy.models.network import SearchEncoding, STTrack
from sttrack_deploy.models.training.clips.batch import ClipBatch

__all__ = ["ClipNetwork", "ClipPrediction", "LikenessProbe", "forward_clip"]


class LikenessProbe(nn.Module):
    """Scale and offset that turn similarity to the temporal query into a logit; used in training only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(dim**-0.5))
        self.offset = nn.Parameter(torch.tensor(-2.0))

    def forward(self, tokens: Tensor, temporal_query: Tensor) -> Tensor:
        """``(N, cells^2, dim)`` and ``(N, dim)`` to logits ``(N, cells^2)``."""
        return (tokens @ temporal_query[:, :, None])[:, :, 0] * self.scale + self.offset


class ClipPrediction(NamedTuple):
    """Predictions for ``B * T`` frames, frame index fastest, and the probe's logits ``(B * T, cells^2)``."""

    corners: Corners
    similarity: Tensor


def forward_clip(
    network: STTrack, probe: LikenessProbe, clip: ClipBatch, truncate: int = 0
) -> ClipPrediction:
    """Run a batch of clips, the temporal query and the memory carried and back-propagated through.

    Equals calling :meth:`STTrack.step` frame by frame. Backbone and encoder see template and search
    region only, and the head only its frame's query, so both run on all frames at once.

    Args:
        network: may be in training or evaluation mode.
        probe: reads the foreground off the encoder's output.
        clip: the frames.
        truncate: the gradient does not pass from a frame whose number is a multiple of this to the one before
            through query and memory; 0: it passes always. The prediction is the same.
    """
    batch, frames = clip.search.shape[:2]
    state = network.initial_state(clip.template, clip.template_mask)
    repeated = state._replace(
        target_features=state.target_features.repeat_interleave(frames, 0),
        target_position=state.target_position.repeat_interleave(frames, 0),
        target_mask=state.target_mask.repeat_interleave(frames, 0),
    )
    encoding = network.encode(clip.search.flatten(0, 1), clip.search_mask.flatten(0, 1), repeated)
    views = [part.unflatten(0, (batch, frames)) for part in encoding]  # type: ignore[no-untyped-call]
    queries: list[Tensor] = []
    for frame in range(frames):
        if truncate and frame and frame % truncate == 0:
            state = state._replace(query=state.query.detach(), memory=state.memory.detach())
        _, state = network.advance(SearchEncoding(*(view[:, frame] for view in views)), state)
        queries.append(state.query)
    query = torch.stack(queries, dim=1).flatten(0, 1)
    corners, _ = network.predict(encoding, query)
    return ClipPrediction(corners, probe(network.search_tokens(encoding), query))


class ClipNetwork(nn.Module):
    """Network and probe as one module whose call is a training step's whole forward pass.

    That is what ``DistributedDataParallel`` wraps: it averages the gradients of one call.
    """

    def __init__(self, network: STTrack, probe: LikenessProbe, truncate: int = 0) -> None:
        super().__init__()
        self.network, self.probe, self.truncate = network, probe, truncate

    def forward(self, clip: ClipBatch) -> ClipPrediction:
        """See :func:`forward_clip`."""
        return forward_clip(self.network, self.probe, clip, self.truncate)
