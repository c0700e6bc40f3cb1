"""Counting what happens between two lines of the log, without making a GPU wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.distributed import Processes
from sttrack_deploy.models.training.losses import LossTerms
from sttrack_deploy.models.training.recipe import Recipe
from sttrack_deploy.models.training.training_log import Progress, Validation

__all__ = ["Meter"]

HOPELESS = 100
"""So many steps in a row without a finite gradient: it will not come back. (fp16's scale settles in 20.)"""


class Meter:
    """Sums since the last line, kept on the device until a line is due.

    Args:
        recipe: of the run.
        shares: batches of a step.
        processes: that the line is about; each keeps its own sums.
        device: where the losses are.
        steps_left: to the end of this leg.
    """

    def __init__(
        self, recipe: Recipe, shares: int, processes: Processes, device: str, steps_left: int
    ) -> None:
        self.processes, self.steps_left = processes, steps_left
        self.frames_a_step = recipe.data.clips * recipe.data.frames * recipe.optimizer.accumulate * shares
        self._in_a_row = torch.zeros((), device=device)
        self._clear()

    def _clear(self) -> None:
        device = self._in_a_row.device
        self._terms = torch.zeros(len(LossTerms._fields), device=device)
        self._skipped = torch.zeros((), device=device)
        self._batches = self._steps = 0
        self._waited, self._started = 0.0, time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for clips."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block does not count: validating and saving say nothing about the pace."""
        start = time.monotonic()
        yield
        self._started += time.monotonic() - start

    def add(self, terms: LossTerms) -> None:
        """The losses of a batch."""
        self._terms += torch.stack([term.detach() for term in terms])
        self._batches += 1

    def add_step(self, skipped: Tensor) -> None:
        """A step is over; ``skipped`` is bool ``()``."""
        self._steps += 1
        self.steps_left -= 1
        self._skipped += skipped
        self._in_a_row = (self._in_a_row + 1) * skipped

    def line(self, step: int, steps: int, learning_rate: float, validation: Validation | None) -> Progress:
        """The line of the log after ``step`` of ``steps``; all processes call it. The sums start again.

        Raises:
            UserError: the gradient has not been finite for long.
        """
        counts = torch.stack((self._skipped, self._in_a_row))
        sums = self.processes.average(torch.cat((self._terms, counts))).tolist()  # waits for the device
        terms = LossTerms(*(torch.tensor(value / max(1, self._batches)) for value in sums[:-2]))
        passed = max(1e-9, time.monotonic() - self._started)
        bare = max(1e-9, passed - self._waited)
        frames = self.frames_a_step * self._steps
        if sums[-1] >= HOPELESS:
            raise UserError(
                f"the gradient was not finite for {int(sums[-1])} steps up to step {step}: lower learning_rate, or "
                "choose autocast = 'none'; the last checkpoint is from before"
            )
        line = Progress(
            step=step,
            steps=steps,
            loss=float(terms.total),
            giou=float(terms.giou),
            l1=float(terms.l1),
            corner=float(terms.corner),
            foreground=float(terms.foreground),
            iou=float(terms.iou),
            frames_per_second=frames / passed,
            bare_frames_per_second=frames / bare,
            waiting=min(1.0, self._waited / passed),
            learning_rate=learning_rate,
            skipped=int(sums[-2]),
            seconds_left=self.steps_left * passed / max(1, self._steps),
            validation=validation,
        )
        self._clear()
        return line
