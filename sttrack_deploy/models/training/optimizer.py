"""The optimiser of a run: groups, what is frozen, a step that survives a bad gradient, state kept by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.optimizer_recipe import OptimizerRecipe
from sttrack_deploy.models.training.recipe import Autocast

__all__ = ["Optimizer", "freeze_parts", "train_mode"]


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
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

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
