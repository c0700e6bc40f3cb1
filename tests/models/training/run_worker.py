"""One process of a training run on noise, for tests that kill it or start several.

Usage: run_worker.py OUT RECIPE_ARGUMENTS_JSON RUN_ARGUMENTS_JSON [RANK_THAT_IS_INTERRUPTED STEP]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from noise_clips import NoiseClips, noise_recipe

from sttrack_deploy.models.training import trainer as trainer_module
from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.distributed import launched_processes
from sttrack_deploy.models.training.trainer import RunOptions, Trainer
from sttrack_deploy.models.training.training_log import LogLine


class Interrupting(NoiseClips):
    """Sends this process a Ctrl-C while it makes its ``step``th batch."""

    def __init__(self, step: int) -> None:
        self.left = step

    def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().sample(batch, frames, generator)


def main(out: str, recipe: str, run: str, rank: str = "-1", step: str = "0") -> None:
    torch.set_num_threads(1)
    setattr(trainer_module, "draw_curves", lambda *_: None)  # noqa: B010  # takes longer than all steps
    with launched_processes("cpu") as processes:
        source = Interrupting(int(step)) if processes.rank == int(rank) else NoiseClips()
        held_out = NoiseClips().sample(20, 2, torch.Generator().manual_seed(5))
        trainer = Trainer(
            noise_recipe(**json.loads(recipe)),
            source,
            Path(out),
            held_out,
            options=RunOptions(processes=processes),
        )

        def show(line: LogLine) -> None:
            print(json.dumps({"step": line.step, "loss": line.loss}), flush=True)

        try:
            trainer.run(show, **{"report_every": 1, **json.loads(run)})
        except KeyboardInterrupt:
            print(f"rank {processes.rank} stopped at {trainer.step}", flush=True)
            raise SystemExit(130) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
