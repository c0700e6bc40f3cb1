from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.sequences.datasets.locations import config_path, locate, write_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment, no user's configuration, an empty current folder."""
    for name in [name for name in os.environ if name.startswith("STTRACK_")]:
        monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir(parents=True)
        return tmp_path / name

    return make


def configure(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_first_that_says_anything(
    tmp_path: Path, place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "config" / "sttrack-deploy" / "datasets.toml"
    steps = [place(f"{step}/lasot") for step in ("a", "b", "c", "d", "e", "f", "g")]
    configure(home, f"[datasets]\ndata = '{steps[0].parent}'\n")
    assert locate("lasot", None) == steps[0]
    configure(home, f"[datasets]\ndata = '{steps[0].parent}'\nlasot = '{steps[1]}'\n")
    assert locate("lasot", None) == steps[1]
    configure(tmp_path / "here" / "sttrack-datasets.toml", f"[datasets]\nlasot = '{steps[2]}'\n")
    assert locate("lasot", None) == steps[2]
    named = configure(tmp_path / "named.toml", f"[datasets]\nlasot = '{steps[3]}'\n")
    monkeypatch.setenv("STTRACK_DATASETS", str(named))
    assert locate("lasot", None) == steps[3]
    monkeypatch.setenv("STTRACK_DATA", str(steps[4].parent))
    assert locate("lasot", None) == steps[4]
    monkeypatch.setenv("STTRACK_LASOT", str(steps[5]))
    assert locate("lasot", None) == steps[5]
    assert locate("lasot", steps[6]) == steps[6]


@pytest.mark.parametrize(
    ("name", "subfolder"),
    [
        ("lasot", "lasot"),
        ("lasot_ext", "lasot_extension_subset"),
        ("got10k_val", "got10k"),
        ("got10k_test", "got10k"),
        ("trackingnet_train", "trackingnet"),
        ("uav123", "uav"),
        ("otb100", "otb"),
        ("tnl2k", "TNL2K"),
        ("vot", "vot"),
    ],
)
def test_a_parent_is_as_good_as_the_folder(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, subfolder: str
) -> None:
    folder = place(f"data/{subfolder}")
    assert locate(name, folder) == folder
    assert locate(name, folder.parent) == folder
    monkeypatch.setenv(f"STTRACK_{name.upper()}", str(folder.parent))
    assert locate(name, None) == folder


def test_a_parent_without_it_leaves_the_rest_to_say(
    tmp_path: Path, place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STTRACK_DATA", str(place("data")))
    folder = place("elsewhere")
    configure(tmp_path / "here" / "sttrack-datasets.toml", "[datasets]\nuav123 = '../elsewhere'\n")
    assert locate("uav123", None).resolve() == folder


def test_home_and_relative_paths(
    tmp_path: Path, place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = place("mine")
    monkeypatch.setenv("STTRACK_VOT", "~/mine")
    assert locate("vot", None) == folder
    monkeypatch.delenv("STTRACK_VOT")
    configure(tmp_path / "here" / "sttrack-datasets.toml", "[datasets]\nvot = '~/mine'\n")
    assert locate("vot", None) == folder
    monkeypatch.delenv("XDG_CONFIG_HOME")
    (tmp_path / "here" / "sttrack-datasets.toml").unlink()
    assert config_path() == tmp_path / ".config" / "sttrack-deploy" / "datasets.toml"


def test_nothing_says(tmp_path: Path, place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        locate("lasot", None)
    message = str(caught.value)
    assert message.startswith(
        "where is LaSOT? STTRACK_LASOT is not set, nor is STTRACK_DATA, "
        f"there is no {tmp_path / 'config' / 'sttrack-deploy' / 'datasets.toml'}; name a folder with <class>/"
    )
    assert "by --data DIR (obtain it from http://vision" in message
    assert "\n" not in message
    monkeypatch.setenv("STTRACK_DATA", str(place("data")))
    configure(tmp_path / "here" / "sttrack-datasets.toml", "[datasets]\n")
    with pytest.raises(
        UserError, match=r"STTRACK_DATA=.*data has no lasot, sttrack-datasets\.toml does not have it"
    ):
        locate("lasot", None)


def test_the_plain_folder_has_no_usual_place(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STTRACK_DATA", str(place("data/folder").parent))
    with pytest.raises(
        UserError, match=r"where is the plain folder\? STTRACK_FOLDER is not set, there is no"
    ):
        locate("folder", None)
    monkeypatch.setenv("STTRACK_FOLDER", str(place("videos")))
    assert locate("folder", None).name == "videos"


@pytest.mark.parametrize("variable", ["STTRACK_LASOT", "STTRACK_DATA"])
def test_a_variable_that_points_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    with pytest.raises(
        UserError, match=rf"{variable}=.*gone does not exist; it must be a folder with <class>"
    ):
        locate("lasot", None)


def test_given_nowhere_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the data folder .*gone does not exist; it must be a folder with"):
        locate("lasot", tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the data folder .*file is not a folder"):
        locate("folder", tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[datasets", "is not a TOML file"),
        ("lasot = 'a'\n", r"must have one table, \[datasets\]; it has 'lasot'"),
        ("datasets = 1\n", r"must have one table, \[datasets\]; it has a value"),
        (
            "[datasets]\nlassot = 'a'\n",
            r"\[datasets\] has unknown names \['lassot'\]; known are data, folder, lasot,",
        ),
        ("[datasets]\nlasot = 1\n", r"\[datasets\] lasot must be a path in quotes, not 1"),
        ("[datasets]\nlasot = 'gone'\n", r"says lasot = '.*gone', which does not exist; it must be a folder"),
        ("[datasets]\ndata = 'gone'\n", r"says data = '.*gone', which does not exist; it must be a folder"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, message: str) -> None:
    configure(tmp_path / "here" / "sttrack-datasets.toml", text)
    with pytest.raises(UserError, match=message):
        locate("lasot", None)


def test_a_named_configuration_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STTRACK_DATASETS", str(tmp_path / "gone.toml"))
    with pytest.raises(UserError, match=r"STTRACK_DATASETS names .*gone\.toml, which is not a file"):
        locate("lasot", None)


def test_the_template(tmp_path: Path, place: Callable[[str], Path]) -> None:
    path = tmp_path / "config" / "new" / "datasets.toml"
    write_config(path)
    text = path.read_text()
    assert tomllib.loads(text) == {"datasets": {}}
    uncommented = re.sub(r"^# (\w+ = \")", r"\1", text, flags=re.MULTILINE)
    assert list(tomllib.loads(uncommented)["datasets"]) == ["data", *DATASETS]
    for reader in DATASETS.values():
        assert reader.layout in text
    with pytest.raises(UserError, match=r"datasets\.toml exists already; edit it, or remove it first"):
        write_config(path)
    assert path.read_text() == text


def test_the_template_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_config(tmp_path / "file" / "datasets.toml")
