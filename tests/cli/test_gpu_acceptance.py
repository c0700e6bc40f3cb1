"""``sttrack-doctor --gpu-acceptance``: the table, and what it says of what could not be run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_tensorrt import FakeTensorRT

from sttrack_deploy.bundle import MANIFEST, Bundle
from sttrack_deploy.cli.doctor import main
from sttrack_deploy.verification import gpu_acceptance

pytest_plugins = ["gpu_double"]
pytestmark = pytest.mark.parametrize("trt", ["11"], indirect=True)


@pytest.fixture(autouse=True)
def two_engines(short_demo: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_acceptance, "ENGINES", ("tensorrt", "onnxruntime-cuda"))


@pytest.fixture
def pair(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle and one beside it that says it is fp16."""
    path = Path(shutil.copytree(tiny_bundle.path, tmp_path / "net"))
    sibling = Path(shutil.copytree(tiny_bundle.path, tmp_path / "net-fp16"))
    manifest = dataclasses.replace(tiny_bundle.manifest, precision={"name": "fp16"})
    (sibling / MANIFEST).write_text(manifest.to_json())
    return path


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with the runtime alone: what is not there cannot be made."""
    monkeypatch.setitem(sys.modules, "onnxslim", None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["--gpu-acceptance", *map(str, arguments)])


@pytest.mark.usefixtures("no_export")
def test_the_table(trt: FakeTensorRT, pair: Path) -> None:
    result = run("--bundle", pair)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert "mean IoU to torch" in cells[0]
    assert len({len(row) for row in cells}) == 1  # a table that Markdown takes
    rows = {(row[0], row[1]): row for row in cells[2:]}
    for precision in ("fp32", "fp16"):
        row = rows[precision, "tensorrt"]
        assert row[2] == trt.version
        assert float(row[3]) > 0.999
        assert row[5] == "passed"
        assert float(row[7]) > 0
        assert rows[precision, "onnxruntime-cuda"][3].startswith("not run: ")
    assert "net-int8, and onnxslim to make it is not installed" in rows["int8", "tensorrt"][3]
    assert "NVIDIA Imaginary 1000 (sm_89)" in result.stdout
    assert "demo clip only" in result.stderr


@pytest.mark.usefixtures("no_export")
def test_json(trt: FakeTensorRT, pair: Path) -> None:
    document = json.loads(run("--bundle", pair, "--json").stdout)
    first = document["rows"][0]
    assert (first["engine"], first["precision"], first["status"]) == ("tensorrt", "fp32", "passed")
    assert first["check"]["frames"] > 0
    assert document["frames"] == 15


@pytest.mark.usefixtures("no_export")
def test_a_machine_without_a_gpu(trt: FakeTensorRT, pair: Path) -> None:
    trt.gpu.driver = False
    result = run("--bundle", pair)
    assert result.exit_code == 1
    assert "nothing could be run on a GPU: there is no usable NVIDIA GPU here" in result.stderr
    assert "no GPU" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.startswith(("| fp", "| int"))]
    assert len(rows) == 8
    assert all("| not run: " in row for row in rows)


@pytest.mark.usefixtures("no_export")
def test_an_engine_that_tracks_something_else_fails(
    trt: FakeTensorRT, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt.distort = 0.2
    result = run("--bundle", pair)
    assert result.exit_code == 1
    assert "rows failed" in result.stderr
    assert "| failed |" in result.stdout


def test_options_that_belong_to_it(trt: FakeTensorRT, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(tmp_path)])
    assert result.exit_code == 2
    assert "belong to --gpu-acceptance" in result.stderr
