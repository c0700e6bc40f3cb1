"""What a run starts from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from noise_clips import noise_recipe
from tiny import TINY, lively_network

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.checkpoint_file import read_weights
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.published import config_from_yaml
from sttrack_deploy.models.training.checkpoints import fresh_network, load_backbone, load_initial
from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.trainer import WEIGHTS, Trainer
from sttrack_deploy.models.training.validation import SimilarityProbe, predict_clips
from sttrack_deploy.models.weights import load_weights, save_weights

RESNET = dataclasses.replace(TINY, name="small", backbone="resnet18", plain_channels=(), plain_blocks=())


def test_fresh_weights_follow_from_the_seed() -> None:
    state = torch.get_rng_state()
    one, same, other = (fresh_network(TINY, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.bottleneck.weight, same.bottleneck.weight)
    assert not torch.equal(one.bottleneck.weight, other.bottleneck.weight)


def test_own_weights_are_taken(tmp_path: Path) -> None:
    network = lively_network(TINY)
    save_weights(tmp_path / "own.safetensors", TINY, network.state_dict())
    loaded = load_initial(tmp_path / "own.safetensors", TINY)
    assert torch.equal(loaded.bottleneck.weight, network.bottleneck.weight)
    with pytest.raises(UserError, match="does not fit its configuration"):
        load_initial(tmp_path / "own.safetensors", dataclasses.replace(TINY, head_dim=64))


def test_a_published_checkpoint_is_fine_tuned(reference: Path, tmp_path: Path) -> None:
    """One step from the small published checkpoint: it starts where that is, and what it makes loads again."""
    config = config_from_yaml(reference / "tiny.yaml").with_memory(4, "train")
    network = load_initial(reference / "sttrack_tiny.pth.tar", config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    frozen = ("backbone.conv1", "backbone.layer1")
    recipe = noise_recipe(1, clips=1, warmup=0, learning_rate=1e-4, rates={"backbone": 0.1}, freeze=frozen)
    recipe = dataclasses.replace(recipe, model=config)

    class Clips:
        def sample(self, batch: int, frames: int, generator: torch.Generator) -> ClipBatch:
            pixels = [
                torch.randint(0, 256, (batch, *size, 3), generator=generator, dtype=torch.uint8)
                for size in ((128, 128), (frames, 320, 320))
            ]
            masks = [torch.zeros(s, dtype=torch.bool) for s in ((batch, 8, 8), (batch, frames, 20, 20))]
            box = torch.tensor([0.4, 0.4, 0.6, 0.6]).expand(batch, frames, 4)
            present = torch.ones(batch, frames, dtype=torch.bool)
            return ClipBatch(pixels[0], masks[0], pixels[1], masks[1], box, present)

    clip = Clips().sample(1, 1, torch.Generator().manual_seed(0))
    probe = SimilarityProbe(config.hidden_dim)
    published = load_initial(reference / "sttrack_tiny.pth.tar", config).eval()
    trainer = Trainer(recipe, Clips(), tmp_path, initial=network)
    assert torch.equal(
        predict_clips(trainer.average, probe, clip).box, predict_clips(published, probe, clip).box
    )
    trainer.run(lambda _: None)
    tuned: Any = load_weights(tmp_path / WEIGHTS)
    assert tuned.config == config
    for name, value in tuned.state_dict().items():
        is_frozen = name.startswith(frozen) or ".bn" in name or "downsample.1" in name
        if is_frozen:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(tuned.backbone.layer2[0].conv1.weight, before["backbone.layer2.0.conv1.weight"])
    assert not torch.equal(predict_clips(tuned, probe, clip).box, predict_clips(published, probe, clip).box)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_classifiers_backbone_is_taken(tmp_path: Path, wrapped: bool) -> None:
    """torchvision's file has the last stage and the classifier too."""
    source = STTrack(RESNET).backbone.state_dict()
    file = {**source, "fc.weight": torch.zeros(10, 512), "layer4.0.conv1.weight": torch.zeros(2)}
    torch.save({"state_dict": file} if wrapped else file, tmp_path / "resnet.pth")
    network = fresh_network(RESNET, 1)
    load_backbone(network, tmp_path / "resnet.pth")
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, source[name]), name


def test_a_backbone_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_backbone(fresh_network(TINY, 1), path)
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match="is not a PyTorch checkpoint"):
        load_backbone(fresh_network(TINY, 1), path)
    torch.save(STTrack(RESNET).backbone.state_dict(), path)
    with pytest.raises(
        UserError, match=r"does not fit the backbone 'plain': .* first is stages.0.conv.weight"
    ):
        load_backbone(fresh_network(TINY, 1), path)


class Statistics:
    """Stands for a trainer's own class, which is not there where the checkpoint is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it-was-run",)


@pytest.mark.parametrize("wrap", ["net", "state_dict", "module."])
def test_a_backbone_of_any_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrap: str) -> None:
    monkeypatch.chdir(tmp_path)
    source = STTrack(RESNET).backbone.state_dict()
    named = (
        {f"{wrap}{name}": value for name, value in source.items()} if wrap == "module." else {wrap: source}
    )
    torch.save({**named, "stats": Statistics()}, "resnet.pth")
    network = fresh_network(RESNET, 1)
    load_backbone(network, Path("resnet.pth"))
    assert torch.equal(network.backbone.state_dict()["conv1.weight"], source["conv1.weight"])
    assert not Path("it-was-run").exists()


SPOILED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "NaN": (lambda v: v * float("nan"), "holds NaN or infinity"),
    "complex": (lambda v: v.to(torch.complex64), "is complex64, not floating-point numbers"),
    "integers": (lambda v: v.to(torch.int32), "is int32, not floating-point numbers"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_no_run_starts_from_weights_that_are_not_numbers(tmp_path: Path, reference: Path, kind: str) -> None:
    spoil, message = SPOILED[kind]
    path = tmp_path / "x.pth"
    torch.save({k: spoil(v) if v.ndim else v for k, v in STTrack(RESNET).backbone.state_dict().items()}, path)
    with pytest.raises(UserError, match=f"{path} cannot be used: .*{message}"):
        load_backbone(fresh_network(RESNET, 1), path)
    config = config_from_yaml(reference / "tiny.yaml")
    good = read_weights(reference / "sttrack_tiny.pth.tar")
    torch.save({"net": {k: spoil(v) if v.ndim else v for k, v in good.items()}, "stats": Statistics()}, path)
    with pytest.raises(UserError, match=f"{path} cannot be used: .*{message}"):
        load_initial(path, config)


def test_foreign_checkpoints_are_told(tmp_path: Path, reference: Path) -> None:
    """Another architecture's, one with holes, one of half precision, which is taken."""
    config = config_from_yaml(reference / "tiny.yaml")
    good = read_weights(reference / "sttrack_tiny.pth.tar")
    path = tmp_path / "x.pth"
    torch.save({"net": torch.nn.Linear(3, 4).state_dict()}, path)
    with pytest.raises(UserError, match=r"x.pth does not fit .*unexpected key weight \(4, 3\)") as raised:
        load_initial(path, config)
    assert len(str(raised.value)) < 1000
    torch.save({"net": dict(list(good.items())[3:])}, path)
    with pytest.raises(UserError, match=r"\(3 problems\): missing key"):
        load_initial(path, config)
    torch.save({"net": {k: v.half() for k, v in good.items()}, "epoch": Statistics()}, path)
    assert load_initial(path, config).bottleneck.weight.dtype == torch.float32
    (tmp_path / "own.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="is not a safetensors file"):
        load_initial(tmp_path / "own.safetensors", config)
