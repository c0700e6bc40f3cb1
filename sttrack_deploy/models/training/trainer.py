"""The training loop: optimize, average, validate, keep checkpoints, resume exactly."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.training.checkpoints import (
    CheckpointFolder,
    check_belongs,
    check_run_folder,
    checkpoint_of_a_run,
    fresh_network,
    unpack,
)
from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipFeed, ClipSource, Prefetched, seeded
from sttrack_deploy.models.training.distributed import ALONE, Processes, synchronize_batch_norm
from sttrack_deploy.models.training.losses import grade
from sttrack_deploy.models.training.optimizer import Optimizer, freeze_parts, learning_rate_at, train_mode
from sttrack_deploy.models.training.recipe import Recipe
from sttrack_deploy.models.training.training_log import (
    CURVES,
    LOG,
    LogLine,
    Meter,
    TrainingLog,
    Validation,
    draw_curves,
)
from sttrack_deploy.models.training.validation import (
    STRIP,
    ClipNetwork,
    SimilarityProbe,
    draw_validation_strip,
    grade_predictions,
    predict_clips,
)
from sttrack_deploy.models.weights import save_weights

__all__ = ["BEST", "WEIGHTS", "RunOptions", "StopRequest", "Trainer"]


_SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))


class StopRequest(contextlib.AbstractContextManager["StopRequest"]):
    """Within the block the first signal is remembered in :attr:`made`; a second Ctrl-C interrupts at once.

    Args:
        launched: this process belongs to a launcher. That gets the Ctrl-C of a terminal too and passes it on, so
            a second signal tells nothing, and all are remembered only.
    """

    def __init__(self, launched: bool = False) -> None:
        self.made, self.launched = False, launched
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in _SIGNALS:
                if number in _SIGNALS[:2] or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays so
                    self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.made and number == signal.SIGINT and not self.launched:
            raise KeyboardInterrupt
        self.made = True


BEST, WEIGHTS = "best.safetensors", "weights.safetensors"

_GO_ON, _TIME_IS_OVER, _INTERRUPTED, _FAILED = range(4)


def _say_nothing(text: str) -> None:
    del text


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is carried out. Only ``shares`` changes what comes out of it.

    Attributes:
        processes: that carry it out together.
        shares: batches that a step takes side by side, a multiple of the number of processes; ``None``: one for each.
        ahead: batches made ahead, each in a thread of its own; the source must bear so many calls at a time.
        keep: checkpoints that stay.
        tensorboard: write TensorBoard's log.
        changed_recipe: go on from a checkpoint of another recipe (of the same network).
        note: is told, in the main process, what a person should know.
    """

    processes: Processes = ALONE
    shares: int | None = None
    ahead: int = 0
    keep: int = 3
    tensorboard: bool = False
    changed_recipe: bool = False
    note: Callable[[str], None] = _say_nothing


class Trainer:
    """One training run in a folder.

    Args:
        recipe: all settings.
        source: clips to learn from.
        folder: checkpoints and the log go here; a run that lies here is resumed.
        held_out: clips to validate on, on the CPU, or ``None``; equal in all processes.
        initial: network to start from instead of random weights (fine-tuning).
        options: how it is carried out, and on which device.

    Raises:
        UserError: the recipe does not fit the network, or the folder holds another run.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: ClipSource,
        folder: Path,
        held_out: ClipBatch | None = None,
        initial: STTrack | None = None,
        options: RunOptions = RunOptions(),
    ) -> None:
        self.recipe, self.source, self.folder, self.held_out = recipe, source, folder, held_out
        self.options, self.processes = options, options.processes
        self.device = self.processes.device
        self.shares = options.shares or self.processes.count
        if self.shares % self.processes.count:
            raise UserError(
                f"{self.shares} shares cannot be divided among {self.processes.count} processes: --shares is a multiple"
            )
        if self.processes.is_main:
            check_run_folder(folder, LOG, (WEIGHTS, BEST, CURVES, STRIP))
        self.steps = recipe.length(self.shares)
        kind = torch.device(self.device).type
        network = initial or fresh_network(recipe.model, recipe.seed)
        self.network = network.requires_grad_(True).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze_parts(self.network, recipe.optimizer.freeze)
        self.probe = SimilarityProbe(recipe.model.hidden_dim).to(self.device)
        self.average = STTrack(recipe.model).to(self.device).requires_grad_(False).eval()
        self.average.load_state_dict(self.network.state_dict())
        whole = ClipNetwork(self.network, self.probe, recipe.optimizer.truncate)
        self.optimizer = Optimizer(whole, recipe.optimizer, recipe.autocast, kind)
        self.checkpoints = CheckpointFolder(folder, options.keep)
        self.step, self.best, self.saved = 0, -1.0, -1
        self._resume()
        if self.processes.count > 1:
            synchronize_batch_norm(self.network)
        self.parallel = self.processes.parallel(whole)

    def run(
        self,
        report: Callable[[LogLine], None],
        until: int | None = None,
        report_every: int = 50,
        validate_every: int = 1000,
        seconds: float = math.inf,
    ) -> None:
        """Train to step ``until`` (the schedule's end by default) or for about ``seconds``; always ends saved.

        Ctrl-C and SIGTERM, in any of the processes, end the step, save, and are raised again; so does an
        exception of the clip source.

        Args:
            report: is given each line of the log, in the main process.
            until: stop after this step; a later run goes on.
            report_every: steps for each line.
            validate_every: steps from one validation, with a checkpoint, to the next.
            seconds: stop after this time.
        """
        end = self.steps if until is None else min(until, self.steps)
        started = time.monotonic()
        o = self.recipe.optimizer
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequest(self.processes.launched))
            clips = stack.enter_context(contextlib.closing(self._clips(end)))
            log = self._open_log(stack)
            meter = Meter(self.recipe, self.shares, self.processes, self.device, end - self.step)
            error: BaseException | None = None
            verdict = _GO_ON
            while self.step < end:
                first = self.step * o.accumulate
                batches: list[ClipBatch] = []
                with meter.waiting():
                    try:
                        batches = [clips.batch(first + i) for i in range(o.accumulate)]
                    except (Exception, KeyboardInterrupt) as raised:  # it is raised again below
                        error = raised
                verdict = self._verdict(error, stop.made, time.monotonic() - started >= seconds)
                if verdict != _GO_ON:
                    break
                self._train_step(batches, meter)
                is_milestone = self.step % validate_every == 0 or self.step == end
                with meter.paused():
                    validation = self._validate() if is_milestone else None
                if is_milestone or self.step % report_every == 0:
                    line = meter.line(self.step, self.steps, self._rate(self.step - 1), validation)
                    if log is not None:
                        log.write(line)
                        report(line)
                if is_milestone:
                    with meter.paused():
                        self._draw_curves()
                        self._save()
            self._save()
            # A launcher stops all processes as soon as one of them ends.
            self.processes.wait_for_all()
        if error is not None:
            raise error
        if verdict == _INTERRUPTED:
            raise KeyboardInterrupt
        if verdict == _FAILED:
            raise UserError("another process of this run failed; its own line says why")

    def _verdict(self, error: BaseException | None, stopped: bool, late: bool) -> int:
        """What all processes do now: they must agree, since none can train alone."""
        mine = _TIME_IS_OVER if late else _GO_ON
        if stopped or isinstance(error, KeyboardInterrupt):
            mine = _INTERRUPTED
        elif error is not None:
            mine = _FAILED
        return self.processes.highest(mine)

    def _clips(self, end: int) -> Prefetched:
        data, each = self.recipe.data, self.shares // self.processes.count
        mine = range(self.processes.rank * each, (self.processes.rank + 1) * each)
        feed = ClipFeed(self.source, data.clips, data.frames, self.recipe.seed, mine, self.device)
        return Prefetched(feed, self.options.ahead, end * self.recipe.optimizer.accumulate)

    def _open_log(self, stack: contextlib.ExitStack) -> TrainingLog | None:
        if not self.processes.is_main:
            return None
        log = TrainingLog(self.folder, self.step, self.options.tensorboard)
        return stack.enter_context(contextlib.closing(log))

    def _rate(self, step: int) -> float:
        return learning_rate_at(step, self.steps, self.recipe.optimizer)

    def _train_step(self, batches: list[ClipBatch], meter: Meter) -> None:
        recipe, o = self.recipe, self.recipe.optimizer
        train_mode(self.network, o.freeze, self.step >= o.freeze_norm_at * self.steps)
        # Dropout is the only randomness here; seeded by the step, it needs no place in a checkpoint. The last number
        # tells these seeds from those of the clips.
        torch.manual_seed(seeded(recipe.seed, self.step, self.processes.rank, 1).initial_seed())
        for number, clip in enumerate(batches):
            is_last = number + 1 == len(batches)
            with self._unsynchronized() if not is_last else nullcontext():
                with self._autocast():
                    prediction = self.parallel(clip)
                corners = prediction.corners
                terms = grade(
                    corners.box.float(),
                    corners.score_top_left,
                    corners.score_bottom_right,
                    prediction.similarity,
                    clip.box.flatten(0, 1),
                    clip.present.flatten(),
                    recipe.losses,
                    clip.box.shape[1],
                    self.processes.average,
                )
                self.optimizer.backward(terms.total / len(batches))
            meter.add(terms)
        meter.add_step(self.optimizer.step(self._rate(self.step)))
        self.step += 1
        self._update_average()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.recipe.autocast == "none":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, kinds[self.recipe.autocast])

    def _unsynchronized(self) -> contextlib.AbstractContextManager[Any]:
        """Gradients are averaged over the processes once a step, with the last of its batches."""
        if isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            return self.parallel.no_sync()
        return nullcontext()

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average would remember the random start for too long.
        decay = min(self.recipe.optimizer.ema, (1 + self.step) / (10 + self.step))
        mine, theirs = self.average.state_dict().values(), self.network.state_dict().values()
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for a, b in zip(mine, theirs, strict=True):
            if a.is_floating_point():
                floats[0].append(a)
                floats[1].append(b)
            else:
                a.copy_(b)
        torch._foreach_lerp_(floats[0], floats[1], 1 - decay)

    def _validate(self) -> Validation | None:
        """Grade the averaged weights on the held-out clips; keep them if they are the best so far."""
        if self.held_out is None:
            return None
        predictions = predict_clips(self.average, self.probe, self.held_out, self.processes)
        result = grade_predictions(predictions, self.held_out)
        is_best = result.iou > self.best
        self.best = result.iou if is_best else self.best
        if self.processes.is_main:
            draw_validation_strip(self.held_out, predictions, self.folder / STRIP)
            if is_best:
                save_weights(self.folder / BEST, self.recipe.model, self.average.state_dict())
        return result

    def _draw_curves(self) -> None:
        if self.processes.is_main:
            with contextlib.suppress(MissingDependencyError):  # matplotlib; the CSV has the same numbers
                draw_curves(self.folder / LOG, self.folder / CURVES)

    def _save(self) -> None:
        """Write weights and checkpoint, unless this step's are written."""
        if self.processes.is_main and self.saved != self.step:
            save_weights(self.folder / WEIGHTS, self.recipe.model, self.average.state_dict())
            self.checkpoints.save(
                {
                    "recipe": json.dumps(self.recipe.to_dict(), sort_keys=True),
                    "shares": self.shares,
                    "step": self.step,
                    "best": self.best,
                    "network": self.network.state_dict(),
                    "average": self.average.state_dict(),
                    "probe": self.probe.state_dict(),
                    "optimizer": self.optimizer.state(),
                }
            )
        self.saved = self.step

    def _resume(self) -> None:
        # The main process alone reads: the folder need not be on every machine, and all go on from the same bytes.
        content = self.processes.from_main(lambda: self.checkpoints.newest(self.options.note))
        if content is None:
            return
        with checkpoint_of_a_run(self.folder):
            state = unpack(content, self.network)
            check_belongs(state, self.recipe, self.shares, self.folder, self.options.changed_recipe)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.probe.load_state_dict(state["probe"])
            self.optimizer.load_state(state["optimizer"])
            self.step, self.best = int(state["step"]), float(state["best"])
        self.saved = self.step
