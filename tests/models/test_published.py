"""Published checkpoints and experiment files are taken strictly, and never run code."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import TINY, lively_network

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.checkpoint_file import read_weights
from sttrack_deploy.models.config import PRESETS, ModelConfig
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.published import config_from_yaml, load_published, published_keys

RESNET = dataclasses.replace(TINY, name="published", backbone="resnet18", plain_channels=(), plain_blocks=())


def published_state(network: STTrack) -> dict[str, torch.Tensor]:
    """The network's weights under the published names."""
    own = network.state_dict()
    return {key: torch.cat([own[n] for n in names]) if len(names) > 1 else own[names[0]].clone()
            for key, names in published_keys(network).items()}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> STTrack:
    return lively_network(RESNET)


def save(path: Path, data: Any) -> Path:
    torch.save(data, path)
    return path


def test_a_checkpoint_comes_back_whole(network: STTrack, tmp_path: Path) -> None:
    path = save(tmp_path / "ok.pth.tar", {"net": published_state(network), "epoch": 500})
    other = STTrack(RESNET)
    load_published(other, path)
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_published_names_are_those_of_the_reference(reference: Path) -> None:
    network = STTrack(config_from_yaml(reference / "tiny.yaml"))
    keys = torch.load(reference / "sttrack_tiny.pth.tar", weights_only=True)["net"].keys()
    assert set(published_keys(network)) == set(keys)


def test_every_wrong_key_is_named(network: STTrack, tmp_path: Path) -> None:
    state = published_state(network)
    state["surplus.weight"] = torch.zeros(2)
    del state["query_embed.weight"], state["bottleneck.bias"]
    state["window_penalty"] = torch.zeros(3)
    with pytest.raises(UserError) as caught:
        load_published(STTrack(RESNET), save(tmp_path / "bad.pth", {"net": state}))
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "4 problems",
        "unexpected key surplus.weight (2,)",
        "missing key query_embed.weight (1, 32)",
        "missing key bottleneck.bias (32,)",
        "window_penalty has shape (3,), the configuration wants (1,)",
        "--config",
    ):
        assert part in text


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_run(network: STTrack, tmp_path: Path, zipped: bool) -> None:
    """Trainers save objects of their own classes beside the weights: those are passed over, and never made."""
    target = tmp_path / "it-ran"
    data = {
        "epoch": 3,
        "stats": Malicious(target),
        "net": published_state(network),
        "settings": [Malicious(target)],
    }
    path = tmp_path / "evil.pth"
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    other = STTrack(RESNET)
    load_published(other, path)
    assert not target.exists()
    assert all(torch.equal(other.state_dict()[name], value) for name, value in network.state_dict().items())
    with pytest.raises(UserError, match="expected"):
        load_published(STTrack(RESNET), save(tmp_path / "only.pth", {"net": Malicious(target)}))
    plain = tmp_path / "evil.pkl"
    plain.write_bytes(pickle.dumps({"net": Malicious(target)}))
    with pytest.raises(UserError, match="not a PyTorch checkpoint"):
        load_published(STTrack(RESNET), plain)
    assert not target.exists()


def test_classes_that_are_not_installed_do_no_harm(network: STTrack, tmp_path: Path) -> None:
    module = types.ModuleType("a_trainer_of_their_own")

    class Stats(list):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__([1, 2])
            self.history = {"loss": 0.5}

    Stats.__module__, Stats.__qualname__ = module.__name__, "Stats"
    module.Stats = Stats  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        path = save(tmp_path / "theirs.pth", {"net": published_state(network), "stats": {"a": Stats()}})
    finally:
        del sys.modules[module.__name__]
    load_published(STTrack(RESNET), path)


@pytest.mark.parametrize(
    "dress",
    [
        lambda w: {"state_dict": w, "optimizer": {"lr": 1.0}},
        lambda w: {"model": w},
        lambda w: {"model": {"state_dict": w}},
        lambda w: w,
        lambda w: {"net": {f"module.{k}": v for k, v in w.items()}},
        lambda w: {"net": {f"_orig_mod.module.{k}": v for k, v in w.items()}},
        lambda w: {"net": {**w, "backbone.0.body.bn1.num_batches_tracked": torch.tensor(7)}},
        lambda w: {"net": {k: torch.nn.Parameter(v, requires_grad=False) for k, v in w.items()}},
        lambda w: {"net": {k: v.double() for k, v in w.items()}},
    ],
)
def test_other_trainers_ways_to_save(network: STTrack, tmp_path: Path, dress: Any) -> None:
    other = STTrack(RESNET)
    load_published(other, save(tmp_path / "x.pth", dress(published_state(network))))
    assert all(torch.equal(other.state_dict()[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda v: v * float("nan"), "holds NaN or infinity"),
        (lambda v: v.to(torch.complex64), "is complex64, not floating-point numbers"),
        (lambda v: v.to(torch.int32), "is int32, not floating-point numbers"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(
    network: STTrack, tmp_path: Path, break_it: Any, message: str
) -> None:
    state = {key: break_it(value) for key, value in published_state(network).items()}
    with pytest.raises(UserError, match=message) as caught:
        load_published(STTrack(RESNET), save(tmp_path / "x.pth", {"net": state}))
    assert len(str(caught.value)) < 600


def test_a_checkpoint_of_another_network_is_told_shortly(tmp_path: Path) -> None:
    state = {f"layer{n}.weight": torch.zeros(1) for n in range(500)}
    with pytest.raises(UserError, match=r"and [0-9]+ more") as caught:
        load_published(STTrack(RESNET), save(tmp_path / "x.pth", {"net": state}))
    assert len(str(caught.value)) < 800


def test_a_torchscript_program_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), str(path))
    with pytest.raises(UserError, match="is a TorchScript program"):
        load_published(STTrack(RESNET), path)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.pth") as caught:
        load_published(STTrack(RESNET), path)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint(network: STTrack, tmp_path: Path) -> None:
    path = save(tmp_path / "cut.pth", {"net": published_state(network)})
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cut short or corrupt"):
        load_published(STTrack(RESNET), path)


@pytest.mark.parametrize("data", [{"model": {}}, [1, 2], {"net": {"a": 1}}, {"net": {}}])
def test_a_checkpoint_of_something_else(tmp_path: Path, data: Any) -> None:
    with pytest.raises(UserError, match=r"expected \{'net': state_dict\}"):
        load_published(STTrack(RESNET), save(tmp_path / "x.pth", data))


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_published(STTrack(RESNET), tmp_path / "none.pth")


EXPERIMENT: dict[str, Any] = {
    "DATA": {"MEAN": [0.485, 0.456, 0.406], "STD": [0.229, 0.224, 0.225]},
    "MODEL": {
        "BACKBONE": {"TYPE": "resnet50", "OUTPUT_LAYERS": ["layer3"], "DILATION": False},
        "HEAD_TYPE": "CORNER",
        "HIDDEN_DIM": 256,
        "NUM_OBJECT_QUERIES": 1,
        "POSITION_EMBEDDING": "sine",
        "TRANSFORMER": {
            "NHEADS": 8,
            "DIM_FEEDFORWARD": 2048,
            "ENC_LAYERS": 6,
            "DEC_LAYERS": 6,
            "DROPOUT": 0.1,
            "PRE_NORM": False,
            "DIVIDE_NORM": False,
        },
        "CFA": {"LAYERS": 2, "NHEADS": 8, "DIM_FEEDFORWARD": 2048},
    },
    "TEST": {"TEMPLATE_SIZE": 128, "TEMPLATE_FACTOR": 2.0, "SEARCH_SIZE": 320, "SEARCH_FACTOR": 5.0},
}


def write_yaml(tmp_path: Path, data: Any) -> Path:
    path = tmp_path / "sttrack-r50.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_the_published_experiment_is_the_r50_preset(tmp_path: Path) -> None:
    assert config_from_yaml(write_yaml(tmp_path, EXPERIMENT)) == PRESETS["sttrack-r50"]


def test_a_file_s_name_becomes_a_plain_one(tmp_path: Path) -> None:
    """It becomes the bundle's, which must be safe as a folder's name."""
    path = tmp_path / "my exp (1).yaml"
    write_yaml(tmp_path, EXPERIMENT).rename(path)
    assert config_from_yaml(path).name == "my-exp-1"
    with pytest.raises(UserError, match="name is a plain name"):
        ModelConfig(name="../../x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["TEST"].update(SEARCH_FACTOR=0), "search_factor is above 0"),
        (lambda d: d["TEST"].update(SEARCH_FACTOR=float("nan")), "search_factor must be a number"),
        (lambda d: d["TEST"].update(SEARCH_FACTOR=float("inf")), "search_factor must be a number"),
        (lambda d: d["TEST"].update(SEARCH_FACTOR=-1), "search_factor is above 0"),
        (lambda d: d["DATA"].update(STD=[0, 0, 0]), "std is from 1e-06"),
        (lambda d: d["MODEL"].update(CFA=3), "MODEL.CFA.PRE_NORM is below 3"),
        (lambda d: d["MODEL"].update(HIDDEN_DIM=10**30), "hidden_dim"),
        (
            lambda d: d["MODEL"].update(HEAD_TYPE="MLP"),
            "MODEL.HEAD_TYPE is 'MLP'; this network has only 'CORNER'",
        ),
        (lambda d: d["MODEL"]["TRANSFORMER"].update(PRE_NORM=True), "MODEL.TRANSFORMER.PRE_NORM is True"),
        (lambda d: d["TEST"].update(SEARCH_SIZE=321), "multiples of the stride 16, not 321"),
        (lambda d: d["MODEL"].update(HIDDEN_DIM="wide"), "wide"),
        (lambda d: d.update(MODEL=None), "not an STTrack experiment file"),
    ],
)
def test_an_experiment_file_that_is_not_ours(tmp_path: Path, change: Any, message: str) -> None:
    data = yaml.safe_load(yaml.safe_dump(EXPERIMENT))
    change(data)
    with pytest.raises(UserError, match=r".") as caught:
        config_from_yaml(write_yaml(tmp_path, data))
    assert message in str(caught.value)


def test_yaml_that_is_not_yaml(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: [1, 2\nb: }", encoding="utf-8")
    with pytest.raises(UserError, match="is not a YAML file"):
        config_from_yaml(path)
    with pytest.raises(UserError, match="cannot read"):
        config_from_yaml(tmp_path / "missing.yaml")


def test_what_an_experiment_file_leaves_out_has_the_published_value_and_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    data = {"MODEL": {"HIDDEN_DIM": 128, "BACKBONE": {"TYPE": "resnet18"}}}
    config = config_from_yaml(write_yaml(tmp_path, data), told.append)
    assert config == dataclasses.replace(PRESETS["sttrack-r50"], hidden_dim=128, backbone="resnet18")
    assert len(told) == 1
    assert "TEST.TEMPLATE_SIZE 128" in told[0]
    assert "HIDDEN_DIM" not in told[0]
    config_from_yaml(
        write_yaml(tmp_path, EXPERIMENT | {"MODEL": EXPERIMENT["MODEL"] | {"HEAD_DIM": 256}}), told.append
    )
    assert len(told) == 1


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text", [BOMB + "MODEL: {HEAD_TYPE: *i}", "MODEL: " + "[" * 5000, "a: " + "1" * 5000, "", "3"]
)
def test_a_hostile_experiment_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config_from_yaml(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_checkpoint_with_a_flipped_bit_is_told(reference: Path, tmp_path: Path) -> None:
    """PyTorch would take the wrong weight."""
    content = bytearray((reference / "sttrack_tiny.pth.tar").read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "flipped.pth.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is cut short or corrupt \(the checksum of .* is wrong\)"):
        read_weights(path)


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/data/0", bytes(1 << 24))
    with pytest.raises(UserError, match=r"bomb.pth would unpack to 0.0 GB"):
        read_weights(path)
