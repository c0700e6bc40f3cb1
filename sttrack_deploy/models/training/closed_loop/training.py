"""The loop of the closed-loop recipe: optimize, average, keep a checkpoint, go on from it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.dense_network import DenseSTTrack
from sttrack_deploy.models.training.checkpoints import check_run_folder, checkpoint_of_a_run
from sttrack_deploy.models.training.clips.real.video_clips import Track
from sttrack_deploy.models.training.clips.synthetic.image_bank import SpriteSampler
from sttrack_deploy.models.training.closed_loop.clip_groups import ClipGroup, PhotographGroup, VideoGroup
from sttrack_deploy.models.training.closed_loop.following import Features, Terms, follow
from sttrack_deploy.models.training.closed_loop.stills import Still, StillGroup
from sttrack_deploy.models.training.trainer import StopRequest
from sttrack_deploy.records import Within, check

__all__ = ["CHECKPOINT", "ClosedLoopRecipe", "Material", "train"]

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"

TRAINED = (
    "embed",
    "target_norm",
    "position",
    "target_position",
    "encoder",
    "decoder",
    "memory_attention",
    "query_embed",
    "compare",
    "refine",
    "note",
    "judge",
    "verdict",
)
"""First words of the names of what is trained; the rest is NanoTrack's and stays."""
CONFIDENCE = ("decoder", "memory_attention", "query_embed", "note", "judge", "verdict")
"""Those that boxes do not depend on but through the confidence, as long as ``compare`` is zero."""


Share = Annotated[float, Within(0, 1)]
Weight = Annotated[float, Within(0)]


@dataclass(frozen=True, slots=True)
class ClosedLoopRecipe:
    """Settings of a run.

    Attributes:
        clips: in a batch.
        videos: share of the clips that are real video.
        stills: share of the clips that are photographs of several objects, as they are; the rest of the clips is
            made of photographs whose objects are set in motion.
        frames: lengths of clips, one of which is drawn for each step.
        trains: ``all`` that is not NanoTrack's; or, of a network whose score map is NanoTrack's own, ``boxes`` and
            their confidence, or the ``confidence`` alone. It decides whether a box's aspect is remembered
            (``TRUSTED`` in ``models/dense_network.py``); else boxes on equal crops stay as they are.
        misled: share of the clips whose crops are put on something else after one of the frames.
        on_target: between these overlaps with the truth the wanted confidence rises from 0 to 1.
        place, confidence: weights of the score map's and the confidence's cross entropy, beside the box's 1.
    """

    steps: Annotated[int, Within(1, 10**9)] = 2000
    clips: Annotated[int, Within(1, 4096)] = 12
    videos: Share = 0.67
    stills: Share = 0.0
    frames: tuple[Annotated[int, Within(2, 1000)], ...] = (6, 10, 14)
    learning_rate: Annotated[float, Within(0, 1, open_low=True)] = 1e-3
    trains: Literal["all", "boxes", "confidence"] = "all"
    misled: Share = 0.0
    on_target: tuple[Share, Share] = (0.3, 0.6)
    warmup: Annotated[int, Within(0)] = 60
    weight_decay: Weight = 1e-3
    clip_norm: Annotated[float, Within(0, open_low=True)] = 1.0
    ema: Share = 0.99
    place: Weight = 0.4
    confidence: Weight = 1.0
    seed: Annotated[int, Within(0)] = 0

    def __post_init__(self) -> None:
        check(self)
        if not self.frames:
            raise UserError("frames is a list of one or more lengths, not []")
        if self.videos + self.stills > 1:
            raise UserError(
                f"videos and stills are shares of the clips: {self.videos} and {self.stills} are over 1"
            )
        if not self.on_target[0] < self.on_target[1]:
            raise UserError(f"on_target is two overlaps, the less first, not {list(self.on_target)}")


@dataclass(frozen=True, slots=True)
class Material:
    """What to learn from: annotated tracks with how often each is used, and photographs (or none)."""

    tracks: Sequence[Track]
    weights: npt.NDArray[np.float64]
    sprites: SpriteSampler | None
    stills: Sequence[Still] = ()

    def groups(self, recipe: ClosedLoopRecipe, step: int, across: float) -> list[ClipGroup]:
        """The clips of a step, which follow from its number and the seed."""
        rng = np.random.default_rng((recipe.seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**60)))
        frames = int(rng.choice(recipe.frames))
        videos, stills = self._shares(recipe)
        out: list[ClipGroup] = []
        if videos:
            out.append(VideoGroup(self.tracks, self.weights, rng, videos, frames))
        if self.sprites is not None and (rest := recipe.clips - videos - stills) > 0:
            out.append(PhotographGroup(self.sprites, generator, rest, frames, across))
        if stills:
            out.append(StillGroup(self.stills, rng, stills, frames))
        return out

    def _shares(self, recipe: ClosedLoopRecipe) -> tuple[int, int]:
        """Clips of real video and stills; the rest is photographs in motion."""
        clips, stills = recipe.clips, 0
        if self.stills and recipe.stills > 0:
            stills = clips if recipe.stills == 1 else max(1, round(clips * recipe.stills))
        if self.sprites is None or recipe.videos + recipe.stills > 1 - 1e-9:
            return clips - stills, stills
        return min(round(clips * recipe.videos), clips - stills), stills


def check_trainable(network: DenseSTTrack, recipe: ClosedLoopRecipe) -> None:
    """Whether the part that the recipe names can be trained without moving what it wants to keep.

    Raises:
        UserError: the score map depends on it.
    """
    moved = any(bool(p.any()) for p in network.compare.parameters())
    if recipe.trains == "boxes":
        moved |= any(bool(p[0].any()) for p in network.refine.parameters())
    if recipe.trains != "all" and moved:
        raise UserError(
            f'trains = "{recipe.trains}" is for a network whose score map is NanoTrack\'s own; the training would move '
            'this one\'s choice among places: train "all"'
        )


def train(
    network: DenseSTTrack,
    frozen: Features,
    material: Material,
    recipe: ClosedLoopRecipe,
    folder: Path,
    seconds: float = math.inf,
    report: Callable[[str], None] = print,
    report_every: int = 10,
    save_every: int = 100,
    until: int | None = None,
) -> dict[str, Tensor]:
    """Train in ``folder``, going on from the checkpoint that lies there; returns the averaged weights.

    Args:
        seconds: stop, saved, after this time.
        report: is given a line of text now and then.
        until: stop, saved, after this step.

    Raises:
        UserError: the recipe's part of this network cannot be trained alone.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, saved after the step that was under way.
    """
    check_run_folder(folder, LOG, ("weights.safetensors",), CHECKPOINT)
    check_trainable(network, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    chosen = CONFIDENCE if recipe.trains == "confidence" else TRAINED
    kept = ("compare",) if recipe.trains == "boxes" else ()
    trained = {n: p for n, p in network.named_parameters() if n.startswith(chosen) and not n.startswith(kept)}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
    optimizer = torch.optim.AdamW(trained.values(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    average = {n: p.detach().clone() for n, p in trained.items()}
    step = samples = 0
    if checkpoint.is_file():
        with checkpoint_of_a_run(checkpoint):
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            average = {name: state["average"][name].to(p.device) for name, p in trained.items()}
            step, samples = int(state["step"]), int(state["samples"])

    def averaged() -> dict[str, Tensor]:
        return {**network.state_dict(), **average}

    def save() -> None:
        with atomic_path(checkpoint) as temporary:
            torch.save(
                {
                    "network": network.state_dict(),
                    "average": average,
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "samples": samples,
                },
                temporary,
            )

    begin = time.monotonic()
    counted, since = 0, begin
    seen: list[tuple[float, ...]] = []
    end = recipe.steps if until is None else min(until, recipe.steps)
    with StopRequest() as stop:
        while step < end and time.monotonic() - begin < seconds and not stop.made:
            rate = recipe.learning_rate * _share(step, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate
            groups = material.groups(recipe, step, network.config.search_size / network.config.search_factor)
            rng = np.random.default_rng((recipe.seed, step, 1))
            terms = follow(network, frozen, groups, rng, recipe.misled, recipe.on_target)
            loss = terms.box + recipe.place * terms.place + recipe.confidence * terms.confidence
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.trains == "boxes":
                _keep_scores(network)
            norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), recipe.clip_norm)
            if torch.isfinite(norm):
                optimizer.step()
            step += 1
            decay = min(recipe.ema, step / (step + 9))
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in trained.values()], 1 - decay)
            count = sum(w.boxes.shape[0] * (w.boxes.shape[1] - 1) for w in groups)
            counted += count
            samples += count
            seen.append(_figures(terms, float(norm)))
            if step % report_every == 0 or step == end:
                now = time.monotonic()
                figures = np.mean(seen, axis=0)
                _log(folder / LOG, step, samples, rate, figures)
                names = ("box", "place", "confidence", "IoU", "away", "correct", "gradient")
                shown = "  ".join(f"{n} {v:.3f}" for n, v in zip(names, figures, strict=True))
                report(
                    f"step {step:5d}  {samples:7d} frames  {shown}  {counted / (now - since):.0f} frames/s  {rate:.1e}"
                )
                counted, since, seen = 0, now, []
            if step % save_every == 0:
                save()
    save()
    if stop.made:
        report(f"stopped at step {step}; the same command goes on from there")
        raise KeyboardInterrupt
    return averaged()


def _keep_scores(network: DenseSTTrack) -> None:
    """No gradient for what changes the score map: the first of the outputs of ``refine``."""
    for parameter in network.refine.parameters():
        if parameter.grad is not None:
            parameter.grad[0] = 0.0


def _share(step: int, recipe: ClosedLoopRecipe) -> float:
    """The learning rate's part of its greatest value: a warm-up, then half a cosine."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done))) + 0.01


def _figures(terms: Terms, norm: float) -> tuple[float, ...]:
    losses = (float(terms.box.detach()), float(terms.place.detach()), float(terms.confidence.detach()))
    return (*losses, terms.iou, terms.away, terms.correct, norm)


def _log(path: Path, step: int, samples: int, rate: float, figures: npt.NDArray[np.float64]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            names = ("box", "place", "confidence", "iou", "away", "correct", "gradient")
            writer.writerow(("step", "frames", "rate", *names))
        writer.writerow((step, samples, f"{rate:.3e}", *(f"{v:.5f}" for v in figures)))
