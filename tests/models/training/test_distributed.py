"""Two processes on the CPU train what one does with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from noise_clips import NoiseClips, noise_recipe, train

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.checkpoints import unpack
from sttrack_deploy.models.training.clips.batch import ClipBatch, ClipFeed, Prefetched
from sttrack_deploy.models.training.distributed import Processes, launched_processes
from sttrack_deploy.models.training.losses import LossWeights, grade
from sttrack_deploy.models.training.trainer import RunOptions, Trainer
from sttrack_deploy.models.training.training_log import LogLine, read_log

# Exactly or nearly no gradient reaches these, but its rounding errors do, which AdamW makes as large as any other:
# biases before a batch norm or a softmax, and the window's penalty at the top of p (1 - p).
INVISIBLE = (".conv.bias", "score.bias", "window_penalty", "k_proj.bias")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sttrack_deploy.models.training.trainer.draw_curves", lambda log, out: None)


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Started by torch's launcher, two batches of each in every step; the second one gets a Ctrl-C in the fifth
    step, and both end saved. One process then goes on alone with the shares of both.
    """
    recipe: dict[str, Any] = {"steps": 6, "clips": 1, "accumulate": 2, "freeze_norm_at": 0.5}
    script = Path(__file__).with_name("run_worker.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    arguments = [str(tmp_path / "two"), json.dumps(recipe), '{"validate_every": 2}', "1", "9"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(script), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode != 0
    assert done.stdout.count("stopped at 4") == 2, done.stderr

    held_out = NoiseClips().sample(20, 2, torch.Generator().manual_seed(5))
    one = Trainer(
        noise_recipe(**recipe), NoiseClips(), tmp_path / "one", held_out, options=RunOptions(shares=2)
    )
    lines: list[LogLine] = []
    one.run(lines.append, report_every=1, validate_every=2, until=4)
    losses = [json.loads(line)["loss"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert losses == pytest.approx([line.loss for line in lines], rel=1e-4)
    # Validation was divided between the processes.
    validated = [
        [row["val_iou"] for row in read_log(tmp_path / run / "log.csv")[1::2]] for run in ("one", "two")
    ]
    assert validated[0] == pytest.approx(validated[1], abs=2e-4)
    # The gradients of two steps, and where four led.
    early, late = (
        [unpack((tmp_path / run / "checkpoints" / file).read_bytes(), one.network) for run in ("one", "two")]
        for file in ("step-00000002.pt", "step-00000004.pt")
    )
    for name, moments in early[0]["optimizer"]["moments"].items():
        if not name.endswith(INVISIBLE):
            mine, theirs = moments["exp_avg"], early[1]["optimizer"]["moments"][name]["exp_avg"]
            assert float((mine - theirs).abs().max()) <= 1e-3 * float(mine.abs().max()) + 1e-7, name
    for name, value in late[0]["average"].items():
        if not name.endswith((*INVISIBLE, "running_mean")):
            assert float((value - late[1]["average"][name]).abs().float().mean()) < 3e-3 / 50, name

    resumed, more = train(noise_recipe(**recipe), tmp_path / "two", RunOptions(shares=2))
    assert [line.step for line in more] == [5, 6]
    _, expected = train(noise_recipe(**recipe), tmp_path / "one", RunOptions(shares=2))
    assert [line.loss for line in more] == pytest.approx([line.loss for line in expected], rel=1e-3)
    with pytest.raises(UserError, match="batches side by side: 2 there, 1 here"):
        Trainer(noise_recipe(**recipe), NoiseClips(), tmp_path / "two")
    assert resumed.shares == 2


def test_shares_are_divided_evenly(tmp_path: Path) -> None:
    options = RunOptions(processes=Processes(0, 2), shares=3)
    with pytest.raises(UserError, match="3 shares cannot be divided among 2 processes"):
        Trainer(noise_recipe(), NoiseClips(), tmp_path, options=options)


def test_a_share_does_not_depend_on_who_makes_it() -> None:
    def feed(mine: tuple[int, ...]) -> ClipFeed:
        return ClipFeed(NoiseClips(), 2, 2, seed=3, mine=mine)

    both, second = feed((0, 1)).batch(7), feed((1,)).batch(7)
    assert torch.equal(both.search[2:], second.search)
    assert not torch.equal(both.search[:2], second.search)
    assert not torch.equal(feed((1,)).batch(8).search, second.search)


def test_batches_made_ahead_are_the_same_and_no_more_than_wanted() -> None:
    class Counting(NoiseClips):
        calls = 0

        def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
            self.calls += 1
            return super().sample(batch, frames, generator)

    source = Counting()
    plain, ahead = (Prefetched(ClipFeed(source, 1, 1, seed=3), n, end=7) for n in (0, 2))
    for number in range(4, 7):
        assert torch.equal(plain.batch(number).search, ahead.batch(number).search)
    ahead.close()
    plain.close()
    assert source.calls == 6


def test_parts_of_a_batch_average_to_the_whole() -> None:
    """Although they show the target in different numbers of frames."""
    generator = torch.Generator().manual_seed(0)
    cells = 8
    scores = torch.randn(2, 6, cells, cells, generator=generator)
    similarity = torch.randn(6, cells**2, generator=generator)
    box, truth = (torch.rand(2, 6, 4, generator=generator).sort(-1).values).unbind()
    present = torch.tensor([True, True, True, True, False, False])
    weights = LossWeights(corner=0.5, foreground=1.0)

    def terms(part: slice, average: Any = lambda counts: counts) -> torch.Tensor:
        inputs = (box[part], scores[0][part], scores[1][part], similarity[part], truth[part], present[part])
        return torch.stack(list(grade(*inputs, weights, average=average)))

    counted: list[torch.Tensor] = []

    def kept(counts: torch.Tensor) -> torch.Tensor:
        counted.append(counts)
        return counts

    for part in (slice(0, 3), slice(3, 6)):
        terms(part, kept)
    mean = torch.stack(counted).mean(0)
    halves = [terms(part, lambda _: mean) for part in (slice(0, 3), slice(3, 6))]
    assert torch.allclose(torch.stack(halves).mean(0), terms(slice(0, 6)), rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "there is no CUDA device"),
        ("warp9", "there is no device 'warp9'"),
        ("meta", "there is no device 'meta'"),
    ],
)
def test_a_device_that_is_not_there(device: str, message: str) -> None:
    with pytest.raises(UserError, match=message), launched_processes(device):
        pass


def test_one_process_needs_no_launcher() -> None:
    with launched_processes("cpu") as processes:
        assert processes.is_main
        assert processes.gather(3) == [3]
        assert processes.highest(2) == 2
        assert torch.equal(processes.average(torch.ones(2)), torch.ones(2))
        assert processes.from_main(lambda: "it") == "it"
