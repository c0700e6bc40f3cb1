"""The optimizer of a run: settings and schedule, groups, what is frozen, a step that survives a bad gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sttrack_deploy.errors import UserError

__all__ = ["Autocast", "Optimizer", "OptimizerRecipe", "freeze_parts", "learning_rate_at", "train_mode"]

Autocast = Literal["none", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class OptimizerRecipe:
    """AdamW, its groups, its schedule.

    Attributes:
        steps: updates of the weights in the whole schedule; 0: it follows from ``samples``.
        samples: clips seen in the whole schedule, by all processes together; 0: it follows from ``steps``.
        accumulate: batches of each process whose gradients are averaged into one step.
        schedule: ``cosine`` to zero, or ``step``: ``drop_factor`` times the rate after each ``drop_at`` share.
        warmup: steps over which the rate rises to its peak.
        learning_rate: at its peak.
        rates: factors on it for parts of the network, by the start of their parameters' names
            (``{backbone = 0.1}``); the longest that fits counts.
        freeze: parts that are not trained, named in the same way.
        decay_on: ``matrices``: no weight decay on biases, norms and other vectors; ``all`` as published.
        clip_norm: largest norm of the gradient; 0: it is not clipped.
        ema: decay of the running average of the weights, which is what is validated and kept; 0: none, the
            weights themselves are.
        freeze_norm_at: from this share of the steps on, batch norm uses its running statistics.
            The rest of the network then adapts to what it is deployed with.
        truncate: the gradient goes back through so many frames of the temporal state; 0: through the whole clip.
    """

    steps: int = 10_000
    samples: int = 0
    accumulate: int = 1
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: int = 300
    drop_at: float = 0.8
    drop_factor: float = 0.1
    learning_rate: float = 8e-4
    rates: Mapping[str, float] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    weight_decay: float = 1e-4
    decay_on: Literal["matrices", "all"] = "matrices"
    clip_norm: float = 1.0
    ema: float = 0.999
    freeze_norm_at: float = 0.75
    truncate: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "warmup", "weight_decay", "clip_norm", "truncate"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        if bool(self.steps) == bool(self.samples):
            raise UserError(
                f"one of steps and samples gives the schedule's length and the other is 0, not steps = {self.steps} "
                f"and samples = {self.samples}"
            )
        _check("accumulate", self.accumulate, 1 <= self.accumulate <= 10_000, "from 1 to 10000")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate <= 1, "above 0 and at most 1")
        _check("drop_at", self.drop_at, 0 < self.drop_at <= 1, "above 0 and at most 1")
        _check("drop_factor", self.drop_factor, 0 < self.drop_factor <= 1, "above 0 and at most 1")
        _check("ema", self.ema, 0 <= self.ema < 1, "from 0 to below 1")
        _check("freeze_norm_at", self.freeze_norm_at, 0 <= self.freeze_norm_at <= 1, "from 0 to 1")
        for part, rate in self.rates.items():
            _check(
                f"rates.{part}", rate, rate > 0 and math.isfinite(rate), "above 0 (freeze names what stays)"
            )

    def length(self, clips_a_step: int) -> int:
        """Steps of the whole schedule.

        Args:
            clips_a_step: of all processes and accumulated batches together.
        """
        return self.steps or math.ceil(self.samples / clips_a_step)


def _check(name: str, value: float, allowed: bool, what: str) -> None:
    if not allowed or not math.isfinite(value):
        raise UserError(f"{name} is {what}, not {value}")


def learning_rate_at(step: int, steps: int, recipe: OptimizerRecipe) -> float:
    """The rate of the step with this number (from 0), before the parts' own factors.

    A linear warm-up, under a cosine that reaches zero after the last step, or under steps down as
    ``torch.optim.lr_scheduler.StepLR`` takes them: by ``drop_factor`` after each ``drop_at`` share of the run.

    Args:
        step: of the run, from 0.
        steps: length of the run.
        recipe: the schedule's form.
    """
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    if recipe.schedule == "cosine":
        level = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    else:
        # In whole steps, so that rounding does not move a drop.
        level = recipe.drop_factor ** (step // max(1, round(recipe.drop_at * steps)))
    return recipe.learning_rate * warm * level


class Optimizer:
    """AdamW over all parameters of a module that are trained.

    Args:
        module: holds the network (as ``network``) and what is trained beside it.
        recipe: groups, weight decay, largest gradient.
        autocast: ``fp16`` scales the loss.
        device: kind of device, ``cpu`` or ``cuda``.

    Raises:
        UserError: the recipe names a part that the network has not.
    """

    def __init__(self, module: nn.Module, recipe: OptimizerRecipe, autocast: Autocast, device: str) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        _check_parts(recipe.rates, self.parameters, "rates")
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            decays = recipe.decay_on == "all" or parameter.ndim > 1
            key = _rate_of(name, recipe.rates), recipe.weight_decay if decays else 0.0
            groups.setdefault(key, []).append(parameter)
        described = [
            {"params": parameters, "rate": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
        self.clip_norm = recipe.clip_norm
        # Fused: it takes the order to skip a step as a tensor, so that nobody waits for the gradient's norm.
        self.adamw = torch.optim.AdamW(described, lr=recipe.learning_rate, fused=True)
        self.scaler = torch.amp.GradScaler(device, enabled=autocast == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to what is there."""
        self.scaler.scale(loss).backward()

    def step(self, learning_rate: float) -> Tensor:
        """Change the weights and clear the gradients.

        Returns:
            whether the step was skipped, since its gradient was not finite: bool ``()`` on the device.
        """
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self.scaler.unscale_(self.adamw)
        parameters = list(self.parameters.values())
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf)
        skipped = ~torch.isfinite(norm)
        if self.scaler.is_enabled():
            self.scaler.step(self.adamw)
            self.scaler.update()
        else:
            self.adamw.found_inf = skipped.float()  # type: ignore[attr-defined]
            self.adamw.grad_scale = None  # type: ignore[attr-defined]
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return skipped

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the moments of each parameter by its name, and the scale of the loss."""
        moments = {
            name: dict(self.adamw.state[parameter])
            for name, parameter in self.parameters.items()
            if parameter in self.adamw.state
        }
        return {"moments": moments, "scaler": self.scaler.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state`; parameters that it does not know start fresh."""
        for name, moments in state["moments"].items():
            if name in self.parameters:
                parameter = self.parameters[name]
                self.adamw.state[parameter] = {
                    key: value.to(parameter.device, copy=True) for key, value in moments.items()
                }
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])


def freeze_parts(network: nn.Module, parts: Iterable[str]) -> None:
    """Stop the gradient at the parameters whose names start with one of ``parts``.

    Raises:
        UserError: the network has no such part.
    """
    _check_parts(parts, dict(network.named_parameters()), "freeze")
    for name, parameter in network.named_parameters():
        if any(_is_in(name, part) for part in parts):
            parameter.requires_grad_(False)


def train_mode(network: nn.Module, frozen: Iterable[str], norm_is_frozen: bool) -> None:
    """Training mode, but for batch norm that keeps its statistics: in frozen parts, or everywhere."""
    network.train()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and (norm_is_frozen or any(_is_in(name, p) for p in frozen)):
            module.eval()


def _rate_of(name: str, rates: Mapping[str, float]) -> float:
    """The factor of the longest part that a parameter lies in."""
    fitting = [part for part in rates if _is_in(name, part)]
    return rates[max(fitting, key=len)] if fitting else 1.0


def _is_in(name: str, part: str) -> bool:
    return f"{name}.".removeprefix("network.").startswith(f"{part}.")


def _check_parts(parts: Iterable[str], parameters: Mapping[str, nn.Parameter], key: str) -> None:
    for part in parts:
        if not any(_is_in(name, part) for name in parameters):
            roots = sorted({".".join(n.removeprefix("network.").split(".")[:2]) for n in parameters})
            raise UserError(
                f"[optimizer] {key}: there is no part {part!r} to train; parts are {', '.join(roots)}"
            )
