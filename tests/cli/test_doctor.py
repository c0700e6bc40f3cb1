from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from blobs import write_bundle
from click.testing import CliRunner

from sttrack_deploy.cli import doctor
from sttrack_deploy.cli.doctor import main
from sttrack_deploy.engines.registry import BACKENDS, Backend


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle in place of the shipped one, and probes that answer at once."""
    bundle = write_bundle(tmp_path / "bundle")
    monkeypatch.setattr(doctor, "default_bundle_path", lambda: bundle)
    monkeypatch.setattr(doctor, "_probe", lambda code: (["CPU"], "") if "devices" in code else (0.0123, ""))
    return bundle


def test_a_healthy_system(healthy: Path) -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0, result.output
    for name in (*BACKENDS, "tensorrt", "openvino", "pycuda", "polygraphy", "safetensors"):
        assert name in result.stderr
    assert "hashes ok" in result.stderr
    assert "onnxruntime runs it, 12.3 ms a frame" in result.stderr
    assert str(healthy) in result.stderr


@pytest.mark.usefixtures("healthy")
def test_json() -> None:
    report = json.loads(CliRunner().invoke(main, ["--json"]).stdout)
    assert {entry["name"] for entry in report["engines"]} == set(BACKENDS)
    assert report["bundle"]["ok"]
    assert report["bundle"]["bytes"] > 0
    assert report["default_engine"]["ok"]
    for tool in report["tools"]:
        assert (tool["version"] is None) == (tool["install"] is not None)


@pytest.mark.usefixtures("healthy")
def test_what_is_missing_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = Backend("ghost", "ghost_engine", "no_such_package", (), "pip install 'ghost[all]'")
    monkeypatch.setitem(BACKENDS, "ghost", ghost)
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0
    assert "to get ghost: pip install 'ghost[all]'" in result.stderr.splitlines()


@pytest.mark.usefixtures("healthy")
def test_openvino_is_for_cpus() -> None:
    """That is the only device that its engine uses."""
    assert {tool.purpose for tool in doctor.TOOLS if tool.name == "openvino"} == {"inference on CPUs"}


def test_an_install_line_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt-rtx", "openvino"):  # each is an engine and an optional package
        old = BACKENDS[name]
        gone = Backend(name, old.module, "no_such_package", (), old.install)
        monkeypatch.setitem(BACKENDS, name, gone)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    lines = [line for line in CliRunner().invoke(main, []).stderr.splitlines() if line.startswith("to get ")]
    names = [line.partition(":")[0] for line in lines]
    assert len(names) == len(set(names))
    assert f"to get tensorrt: {BACKENDS['tensorrt'].install}" in lines


def test_an_altered_bundle(healthy: Path) -> None:
    (healthy / "search.onnx").write_bytes(b"x")
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert "cannot run" in result.stderr.splitlines()[-1]
    assert "was altered" in result.stderr.splitlines()[-1]


@pytest.mark.usefixtures("healthy")
def test_both_onnxruntimes_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: "1.0")
    result = CliRunner().invoke(main, [])
    assert "onnxruntime and onnxruntime-gpu are both installed" in result.stderr


def test_a_probe_that_dies_is_an_answer() -> None:
    assert doctor._probe("import os; os.abort()") == (None, "it ended with code -6")
    assert doctor._probe("raise ValueError('no driver')") == (None, "ValueError: no driver")
    assert doctor._probe("print('noise'); print('[1]')") == ([1], "")
    assert doctor._probe("") == (None, "no answer")


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, sttrack_deploy.cli.doctor as d; "
        "print([m for m in ('cv2', 'onnxruntime', 'torch', 'onnx', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert importlib.import_module("sttrack_deploy.cli.doctor") is doctor
