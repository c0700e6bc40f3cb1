"""``sttrack-build-engine`` and ``sttrack-run --engine tensorrt``, on the contract double."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from blobs import truth, write_video
from click.testing import CliRunner, Result
from fake_tensorrt import FakeTensorRT

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.cli import build_engine, run
from sttrack_deploy.engines.tensorrt.plan_file import plan_folder

pytest_plugins = ["gpu_double"]
pytestmark = pytest.mark.usefixtures("short_demo")
ONE_VERSION = pytest.mark.parametrize("trt", ["11"], indirect=True)
"""Of what does not depend on it."""


def build(bundle: Bundle, *options: str) -> Result:
    return CliRunner().invoke(build_engine.main, [str(bundle.path), *options])


def test_build_then_run(trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path) -> None:
    result = build(tiny_bundle, "--target", "tensorrt", "--json", "-")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["check"]["passed"]
    assert document["check"]["mean_iou"] > 0.9999
    assert document["facts"]["tensorrt"] == trt.version
    assert "search.plan" in result.stderr
    assert f"--engine tensorrt --bundle {tiny_bundle.path}" in result.stderr
    recorded = json.loads((plan_folder(tiny_bundle) / "plans.json").read_text())
    assert recorded["gate"]["passed"]

    video = write_video(tmp_path / "clip.avi", 8)
    boxes = []
    for engine in ("onnxruntime", "tensorrt"):
        file = tmp_path / f"{engine}.txt"
        arguments = [
            str(video),
            "--init-box",
            ",".join(map(str, truth(0))),
            "--bundle",
            str(tiny_bundle.path),
        ]
        arguments += ["--engine", engine, "--no-video", "--boxes", str(file)]
        done = CliRunner().invoke(run.main, arguments)
        assert done.exit_code == 0, done.output
        boxes.append(np.loadtxt(file, delimiter=","))
    assert boxes[0].shape == (8, 4)
    assert np.ptp(boxes[0], axis=0).max() > 1
    assert boxes[1] == pytest.approx(boxes[0], abs=0.01)


@ONE_VERSION
def test_an_engine_that_tracks_something_else_is_removed(trt: FakeTensorRT, tiny_bundle: Bundle) -> None:
    trt.distort = 0.2
    result = build(tiny_bundle, "--target", "tensorrt")
    assert result.exit_code == 1
    assert "does not track what ONNX Runtime tracks" in result.stderr
    assert "removed (--keep-failed would keep it)" in result.stderr
    assert list(plan_folder(tiny_bundle).iterdir()) == []


@ONE_VERSION
@pytest.mark.parametrize("keep", [False, True])
def test_an_engine_whose_numbers_are_not_finite_is_removed(
    trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path, keep: bool
) -> None:
    """An FP16 overflow, for example; it would be a box in the corner, and not lost."""
    trt.distort = float("nan")
    report = tmp_path / "report.json"
    options = ["--keep-failed"] if keep else []
    result = build(tiny_bundle, "--target", "tensorrt", "--json", str(report), *options)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "the engine could not be compared with ONNX Runtime: the engine 'tensorrt' gave" in line
    assert "the network's numbers are not finite" in line
    assert line.endswith("; kept (--keep-failed)" if keep else "; removed (--keep-failed would keep it)")
    assert bool(list(plan_folder(tiny_bundle).iterdir())) is keep
    assert not report.exists()


@ONE_VERSION
def test_what_was_not_compared_is_not_kept(
    trt: FakeTensorRT, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the comparison: the next run would load an engine that nobody looked at."""
    real = build_engine._check

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_engine, "_check", interrupted)
    assert build(tiny_bundle, "--target", "tensorrt").exit_code == 130
    assert list(plan_folder(tiny_bundle).iterdir()) == []
    monkeypatch.setattr(build_engine, "_check", real)
    assert build(tiny_bundle, "--target", "tensorrt").exit_code == 0
    kept = list(plan_folder(tiny_bundle).iterdir())
    monkeypatch.setattr(build_engine, "_check", interrupted)
    assert build(tiny_bundle, "--target", "tensorrt").exit_code == 130
    assert list(plan_folder(tiny_bundle).iterdir()) == kept != []  # it was compared before


@ONE_VERSION
def test_options(trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = (
        "--target",
        "tensorrt",
        "--no-check",
        "--workspace",
        "256",
        "--optimization-level",
        "5",
        "--tf32",
    )
    result = build(tiny_bundle, *options, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "b.json"))
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "b.json").read_text())["check"] is None
    assert (plan_folder(tiny_bundle, root=tmp_path / "out") / "search.plan").is_file()
    assert not plan_folder(tiny_bundle).exists()
    _, facts = trt.events[0]
    assert (facts["pools"], facts["level"], facts["flags"]) == ({"WORKSPACE": 256 << 20}, 5, ["TF32"])


def test_another_cache_is_told_so_that_it_can_be_typed(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle.path, tmp_path / "a bundle"))
    monkeypatch.chdir(tmp_path)
    line = [str(bundle), "--target", "onnxruntime", "--out", "an engine", "--no-check"]
    result = CliRunner().invoke(build_engine.main, line)
    assert result.exit_code == 0, result.output
    assert (
        f"STTRACK_ENGINES='an engine' sttrack-run VIDEO --init-box X,Y,W,H --engine onnxruntime --bundle '{bundle}'"
        in result.stderr
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "tensorrt", "--batch", "8,1,4"), "--batch is a number, or MIN,BEST,MAX in order"),
        (("--target", "tensorrt", "--batch", "many"), "not 'many'"),
        (("--target", "tensorrt", "--batch", "1_0"), "not '1_0'"),
        (("--target", "tensorrt", "--batch", "4"), "takes exactly 1 target(s) a call"),
        (("--target", "onnxruntime", "--tf32"), "--tf32 is for --target tensorrt"),
    ],
)
def test_wrong_calls(tiny_bundle: Bundle, options: tuple[str, ...], message: str) -> None:
    result = build(tiny_bundle, *options)
    assert result.exit_code == 2
    assert message in result.stderr


@ONE_VERSION
def test_a_machine_without_a_gpu(trt: FakeTensorRT, tiny_bundle: Bundle) -> None:
    trt.gpu.driver = False
    result = build(tiny_bundle, "--target", "tensorrt")
    assert result.exit_code == 1
    (line,) = (line for line in result.stderr.splitlines() if line)
    assert line.startswith("error: there is no usable NVIDIA GPU here (CUDA error 35")
