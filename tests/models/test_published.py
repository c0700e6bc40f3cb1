"""Published checkpoints and experiment files are taken strictly, and never run code."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import TINY, lively_network

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import PRESETS
from sttrack_deploy.models.network import STTrack
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


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "it-ran"
    path = save(tmp_path / "evil.pth", {"net": Malicious(target)})
    with pytest.raises(UserError, match="could run code"):
        load_published(STTrack(RESNET), path)
    plain = tmp_path / "evil.pkl"
    plain.write_bytes(pickle.dumps({"net": Malicious(target)}))
    with pytest.raises(UserError, match=r"refused|not a PyTorch checkpoint"):
        load_published(STTrack(RESNET), plain)
    assert not target.exists()


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["MODEL"].pop("HIDDEN_DIM"), "no key 'HIDDEN_DIM'"),
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
