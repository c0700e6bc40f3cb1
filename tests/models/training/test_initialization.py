"""What a run starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from noise_clips import noise_recipe
from tiny import TINY, lively_network

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.network import STTrack
from sttrack_deploy.models.published import config_from_yaml
from sttrack_deploy.models.training.clips.batch import ClipBatch
from sttrack_deploy.models.training.initialization import fresh_network, load_backbone, load_initial
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
    with pytest.raises(UserError, match="there is no file"):
        load_backbone(fresh_network(TINY, 1), path)
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match="is not a PyTorch file"):
        load_backbone(fresh_network(TINY, 1), path)
    torch.save(STTrack(RESNET).backbone.state_dict(), path)
    with pytest.raises(
        UserError, match=r"does not fit the backbone 'plain': .* first is stages.0.conv.weight"
    ):
        load_backbone(fresh_network(TINY, 1), path)
