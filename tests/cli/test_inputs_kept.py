"""What a command reads it never writes over, whatever ``--overwrite`` says; what others wrote, only with it."""

from __future__ import annotations

import importlib
import os
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from clips import write_clip
from hostile import snapshot
from recurrent_bundle import write_recurrent_bundle

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import made_here
from sttrack_deploy.models.training.checkpoints import check_run_folder

BOX = "8,8,24,20"
LIST = f'source,box,output\nclip.mp4,"{BOX}",%s\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_recurrent_bundle(tmp_path / "bundle")
    (tmp_path / "data").mkdir()
    clip = write_clip(tmp_path / "clip.mp4", [n / 25 for n in range(3)])
    (tmp_path / "data" / "one.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "data" / "one.txt").write_text("8,8,24,20\n" * 3)
    (tmp_path / "found.txt").write_text("1,-1,8,8,24,20,0.9\n")
    (tmp_path / "list.csv").write_text(LIST % "list.csv")
    (tmp_path / "list2.csv").write_text(LIST % "bundle/new.txt;bundle/manifest.json")
    (tmp_path / "notes.txt").write_text("mine\n")
    os.link(clip, tmp_path / "again.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("run", f"clip.mp4 --init-box {BOX} --no-video --json data/../clip.mp4"),
        ("run", f"clip.mp4 --init-box {BOX} --out again.mp4"),
        ("run", "clip.mp4 --start-from found.txt --bundle bundle --no-video --tracks found.txt"),
        ("run", f"clip.mp4 --init-box {BOX} --bundle bundle --no-video --json bundle/manifest.json"),
        ("run", "--list list.csv --bundle bundle"),
        ("run", "--list list2.csv --bundle bundle"),
        ("evaluate", "--data data --bundle bundle --json data/one.txt"),
        ("evaluate", "--data data --bundle bundle --html data/one.mp4"),
        ("evaluate", "--data data --bundle bundle --json bundle/manifest.json"),
        ("evaluate", "pack data --format got10k --data data --zip data/one.txt"),
        ("parity", "bundle --data data --json data/one.txt"),
        ("bench", f"bundle --source clip.mp4 --init-box {BOX} --plot clip.mp4"),
        ("build_engine", "bundle --target onnxruntime --out new --json bundle/manifest.json"),
        ("calibrate", "data --bundle bundle --out new --json data/one.txt"),
    ],
)
def test_an_input_is_no_output(name: str, line: str, place: Path) -> None:
    before = snapshot(place)
    result = CliRunner().invoke(
        importlib.import_module(f"sttrack_deploy.cli.{name}").main, [*line.split(), "--overwrite"]
    )
    assert result.exit_code == 2, result.output
    (told,) = result.stderr.splitlines()
    assert told.startswith("error: ")
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("build_engine", "bundle --target onnxruntime --out new --json notes.txt"),
        ("calibrate", "data --bundle bundle --out new --json notes.txt"),
        ("evaluate", "pack data --format got10k --data data --zip notes.txt"),
    ],
)
def test_what_others_wrote_is_kept(name: str, line: str, place: Path) -> None:
    before = snapshot(place)
    result = CliRunner().invoke(importlib.import_module(f"sttrack_deploy.cli.{name}").main, line.split())
    assert result.exit_code == 1, result.output
    assert "notes.txt exists and was not written by sttrack-deploy" in result.stderr
    assert snapshot(place) == before


def test_an_archive_knows_who_made_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"sttrack-deploy"
    assert made_here(path)


def test_a_run_does_not_train_over_other_files(tmp_path: Path) -> None:
    def check() -> None:
        check_run_folder(tmp_path, "log.csv", ("weights.safetensors",))

    check()
    (tmp_path / "notes.txt").write_text("mine")
    check()
    (tmp_path / "weights.safetensors").write_text("mine")
    with pytest.raises(UserError, match="was not written by a training run"):
        check()
    (tmp_path / "log.csv").write_text("day,weight\n")
    with pytest.raises(UserError, match=r"log\.csv was not written"):
        check()
    (tmp_path / "log.csv").write_text("step,loss\n")
    check()
    (tmp_path / "log.csv").unlink()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").write_text("")
    check()
