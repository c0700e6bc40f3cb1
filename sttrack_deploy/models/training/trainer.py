"""The training loop: optimise, average, validate, keep checkpoints, resume exactly."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.confidence import auroc
from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.network import STTrack
from sttrack_deploy.models.training.clip_forward import LikenessProbe, forward_clip
from sttrack_deploy.models.training.clips import ClipBatch, ClipSource
from sttrack_deploy.models.training.losses import LossTerms, generalized_iou, grade
from sttrack_deploy.models.training.recipe import Recipe
from sttrack_deploy.models.weights import save_weights

__all__ = ["Progress", "Trainer", "Validation", "learning_rate_at"]

LAST, BEST, WEIGHTS, LOG = "last.pt", "best.safetensors", "weights.safetensors", "log.csv"


@dataclass(frozen=True, slots=True)
class Validation:
    """Teacher-forced quality on held-out clips: mean IoU where the target is present, and the AUROC of
    the confidence for its being present (NaN if all frames are alike)."""

    iou: float
    auroc: float


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the log; means since the line before."""

    step: int
    steps: int
    loss: float
    iou: float
    frames_per_second: float
    learning_rate: float
    validation: Validation | None


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero at the last step."""
    o = recipe.optimizer
    warm = min(1.0, (step + 1) / max(1, o.warmup))
    return o.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / o.steps)))


class Trainer:
    """One training run in a folder.

    Args:
        recipe: all settings.
        source: clips to learn from.
        folder: checkpoints and the log go here; a run that lies here is resumed.
        held_out: clips to validate on, or ``None``.
        initial: network to start from instead of random weights (fine-tuning).
        device: where to train.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: ClipSource,
        folder: Path,
        held_out: ClipBatch | None = None,
        initial: STTrack | None = None,
        device: str = "cpu",
    ) -> None:
        self.recipe, self.source, self.folder, self.held_out, self.device = (
            recipe,
            source,
            folder,
            held_out,
            device,
        )
        torch.manual_seed(recipe.seed)
        if initial is None:
            initial = STTrack(recipe.model)
            _tie_encoder_keys(initial)
        self.network = initial.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.probe = LikenessProbe(recipe.model.hidden_dim).to(device)
        self.average = STTrack(recipe.model).to(device).requires_grad_(False).eval()
        self.average.load_state_dict(self.network.state_dict())
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.optimizer = self._make_optimizer()
        self.step, self.best = 0, -1.0
        if (folder / LAST).is_file():
            self._resume(folder / LAST)

    def run(
        self,
        report: Callable[[Progress], None],
        until: int | None = None,
        report_every: int = 50,
        validate_every: int = 1000,
        seconds: float = math.inf,
    ) -> None:
        """Train to step ``until`` (the schedule's end by default) or for about ``seconds``; always ends saved.

        Ctrl-C saves as well and is raised again.
        """
        steps = self.recipe.optimizer.steps
        until = steps if until is None else min(until, steps)
        started = window = time.monotonic()
        totals, count = torch.zeros(2), 0
        try:
            while self.step < until and time.monotonic() - started < seconds:
                terms = self._train_step()
                totals += torch.stack((terms.total.detach(), terms.iou)).cpu()
                count += 1
                at_end = self.step == until
                validated = self._validate_and_save() if self.step % validate_every == 0 or at_end else None
                if validated or self.step % report_every == 0:
                    frames = count * self.recipe.data.clips * self.recipe.data.frames
                    loss, iou = (totals / count).tolist()
                    rate = frames / max(1e-9, time.monotonic() - window)
                    line = Progress(
                        self.step,
                        steps,
                        loss,
                        iou,
                        rate,
                        learning_rate_at(self.step - 1, self.recipe),
                        validated,
                    )
                    self._log(line)
                    report(line)
                    totals, count, window = torch.zeros(2), 0, time.monotonic()
        finally:
            self._save()

    def validate(self) -> Validation:
        """Grade the averaged weights on the held-out clips."""
        if self.held_out is None:
            return Validation(math.nan, math.nan)
        network = self.average
        boxes, confidences = [], []
        with torch.no_grad():
            for start in range(0, len(self.held_out.template), 16):
                index = torch.arange(start, min(start + 16, len(self.held_out.template)))
                corners = forward_clip(
                    network, self.probe, self.held_out.select(index).to(self.device)
                ).corners
                boxes.append(corners.box.cpu())
                confidences.append(corners.confidence.cpu())
        present, truth = self.held_out.present.flatten(), self.held_out.box.flatten(0, 1).clamp(0, 1)
        overlap, _ = generalized_iou(torch.cat(boxes)[present].float(), truth[present])
        confidence = torch.cat(confidences).float()
        return Validation(
            float(overlap.sum()) / max(1, len(overlap)), auroc(confidence.numpy(), present.numpy())
        )

    def _train_step(self) -> LossTerms:
        recipe, network = self.recipe, self.network
        network.train()
        if self.step >= recipe.optimizer.freeze_norm_at * recipe.optimizer.steps:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        clip = self.source.sample(recipe.data.clips, recipe.data.frames, self.generator).to(self.device)
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16) if recipe.bfloat16 else nullcontext():
            prediction = forward_clip(network, self.probe, clip)
        corners = prediction.corners
        terms = grade(
            corners.box.float(),
            corners.score_top_left,
            corners.score_bottom_right,
            prediction.likeness,
            clip.box.flatten(0, 1),
            clip.present.flatten(),
            recipe.losses,
        )
        rate = learning_rate_at(self.step, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.optimizer.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        self._update_average()
        return terms

    def _update_average(self) -> None:
        # A young average would remember the random start for too long.
        decay = min(self.recipe.optimizer.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mine, theirs in zip(
                self.average.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                if mine.is_floating_point():
                    mine.lerp_(theirs, 1 - decay)
                else:
                    mine.copy_(theirs)

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(parameter)
        o = self.recipe.optimizer
        described: list[dict[str, Any]] = [
            {
                "params": parameters,
                "rate": o.backbone_rate if backbone else 1.0,
                "weight_decay": o.weight_decay if matrix else 0.0,
            }
            for (backbone, matrix), parameters in groups.items()
        ]
        described.append({"params": list(self.probe.parameters()), "rate": 1.0, "weight_decay": 0.0})
        return torch.optim.AdamW(described, lr=o.learning_rate)

    def _validate_and_save(self) -> Validation:
        result = self.validate()
        score = result.iou if math.isfinite(result.iou) else float(self.step)
        if score > self.best:
            self.best = score
            save_weights(self.folder / BEST, self.recipe.model, self.average.state_dict())
        self._save()
        return result

    def _save(self) -> None:
        save_weights(self.folder / WEIGHTS, self.recipe.model, self.average.state_dict())
        with atomic_path(self.folder / LAST) as temporary:
            torch.save(
                {
                    "config": self.recipe.model.to_json(),
                    "step": self.step,
                    "best": self.best,
                    "network": self.network.state_dict(),
                    "average": self.average.state_dict(),
                    "probe": self.probe.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "generator": self.generator.get_state(),
                    "random": torch.get_rng_state(),
                },
                temporary,
            )

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != self.recipe.model.to_json():
            raise UserError(
                f"{path} is a run of another network; choose another --out, or delete that folder"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.probe.load_state_dict(state["probe"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["random"].cpu())
        self.step, self.best = int(state["step"]), float(state["best"])

    def _log(self, line: Progress) -> None:
        path = self.folder / LOG
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(
                    ("step", "loss", "iou", "frames_per_second", "learning_rate", "val_iou", "val_auroc")
                )
            v = line.validation
            writer.writerow(
                (
                    line.step,
                    f"{line.loss:.4f}",
                    f"{line.iou:.4f}",
                    f"{line.frames_per_second:.1f}",
                    f"{line.learning_rate:.3g}",
                    *((f"{v.iou:.4f}", f"{v.auroc:.4f}") if v else ("", "")),
                )
            )


def _tie_encoder_keys(network: STTrack) -> None:
    """Start every encoder key projection equal to its query projection.

    Attention then begins as likeness of tokens, which is what matching a template to a search region
    needs; from random projections it first has to be found.
    """
    for layer in network.encoder.layers:
        attention = layer.self_attention
        attention.k_proj.load_state_dict(attention.q_proj.state_dict())  # type: ignore[union-attr]
