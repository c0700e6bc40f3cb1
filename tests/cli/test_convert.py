"""``sttrack-convert``, ``sttrack-export --from``: what is written, what is refused, nothing is half-written."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from moving_square import write_sequence
from tiny import TINY

from sttrack_deploy.bundle import Bundle, TrackingPolicy, open_bundle
from sttrack_deploy.calib.recorder import Recording, record
from sttrack_deploy.calib.sources import read_annotated_videos
from sttrack_deploy.cli.convert import main
from sttrack_deploy.cli.export import main as export_main
from sttrack_deploy.engines.onnxruntime.engine import OnnxRuntimeEngine
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.engines.tensorrt.plan_build import trial_build
from sttrack_deploy.export import exporter
from sttrack_deploy.export.operator_check import unsupported_nodes
from sttrack_deploy.export.precision import convert as conversion
from sttrack_deploy.export.precision import plan
from sttrack_deploy.export.precision.gate_run import GateResult, Reference, gate
from sttrack_deploy.export.precision.job import PrecisionOptions
from sttrack_deploy.export.validation import check_real_build
from sttrack_deploy.progress import Progress
from sttrack_deploy.verification.gates import GATES, Gate, Verdict

TEMPLATE, SEARCH = TINY.template_size, TINY.search_size
OPEN, SHUT = Gate(None, 1.0, 1.0, both_ways=False), Gate(1.1, 0.0, 0.0, both_ways=True)


@dataclass(frozen=True)
class World:
    """A bundle, annotated videos, and inputs recorded on them."""

    bundle: Bundle
    videos: Path
    calibration: Path


@pytest.fixture(scope="module")
def world(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("precision")
    for number, frames in enumerate((7, 6)):
        write_sequence(folder / "videos", f"clip{number}", frames)
    sequences = read_annotated_videos(folder / "videos")
    recording = Recording(
        samples=6,
        starts=1,
        seed=0,
        policy=TrackingPolicy(lost_below=0.0, recovery=False),
        command="sttrack-calibrate",
    )
    record(tiny_bundle, OnnxRuntimeEngine(tiny_bundle, 1), sequences, recording, folder / "set")
    return World(tiny_bundle, folder / "videos", folder / "set")


@pytest.fixture(autouse=True)
def open_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny network has learned nothing: two of its precisions need not agree on where nothing is."""
    _open_gates(monkeypatch)


def _open_gates(patch: pytest.MonkeyPatch) -> None:
    for name in ("fp16", "bf16", "int8", "int8-fp16"):
        patch.setitem(GATES, name, OPEN)
    # TensorRT for RTX takes seconds, and one test asks it itself.
    patch.setattr(conversion, "check_real_build", lambda bundle: None)


@pytest.fixture(scope="module")
def quantized(world: World, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The backbone in INT8."""
    out = tmp_path_factory.mktemp("quantized") / "int8"
    more = ("--precision", "int8", "--calib", world.calibration, "--layers", "backbone")
    with pytest.MonkeyPatch.context() as patch:
        _open_gates(patch)
        return made(convert(world, out, *more), out)


def convert(world: World, out: Path, *more: object) -> Result:
    words = [world.bundle.path, "--out", out, "--gate-data", world.videos, *more]
    return CliRunner().invoke(main, [str(w) for w in words])


def made(result: Result, out: Path) -> Bundle:
    assert result.exit_code == 0, result.output
    return open_bundle(out)


def test_fp16(world: World, tmp_path: Path) -> None:
    out = tmp_path / "half"
    result = convert(world, out, "--precision", "fp16")
    bundle = made(result, out)
    m, before = bundle.manifest, world.bundle.manifest
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in world.bundle.path.iterdir())
    assert (m.template.inputs, m.template.outputs) == (before.template.inputs, before.template.outputs)
    assert (m.search.inputs, m.search.outputs) == (before.search.inputs, before.search.outputs)
    assert (m.weights, m.state, m.crop) == (before.weights, before.state, before.crop)
    assert m.precision["name"] == "fp16"
    assert m.precision["calibration"]["set"] == "the demo clip"
    assert m.precision["fp16"]["step_error"]["chosen"] > 0
    assert m.precision["gate"] == {
        **m.precision["gate"],
        "passed": True,
        "data": "videos",
        "sequences": 2,
        "frames": 13,
    }
    facts = {p.key: p.value for p in onnx.load(bundle.search_path).metadata_props}
    assert facts["precision"] == "fp16"
    assert facts["checkpoint_sha256"] == before.checkpoint["sha256"]
    assert str(out) in result.stderr
    assert "gate passed" in result.stderr
    assert "next: sttrack-eval" in result.stderr


def test_int8(world: World, quantized: Bundle) -> None:
    m = quantized.manifest
    recipe = m.precision["int8"]
    assert recipe["groups"] == ["backbone /2", "backbone /4", "backbone /8", "backbone /16"]
    errors = recipe["step_errors"]  # the backbone has no linear layer to smooth
    assert set(errors) == {"minmax", "percentile", "entropy", "mse"}
    assert recipe["method"] == min(errors, key=errors.get)
    assert not recipe["smoothed"]
    assert recipe["layouts"]["main"]["step_error"] == errors[recipe["method"]]
    assert m.precision["calibration"]["samples"] == len(list((world.calibration / "samples").iterdir()))
    assert len(m.precision["calibration"]["sha256"]) == 64
    assert "QuantizeLinear" not in [n.op_type for n in onnx.load(quantized.template_path).graph.node]
    # Each kind of engine has a layout of its own, of the same thresholds and layers.
    main, there = (onnx.load(quantized.for_engine(name).search_path) for name in ("openvino", "tensorrt"))
    assert onnx.TensorProto.UINT8 in {i.data_type for i in main.graph.initializer}
    types = {i.data_type for i in there.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types
    assert onnx.TensorProto.UINT8 not in types
    assert not unsupported_nodes(there)
    assert set(m.precision["gate"]["layouts"]) == {"tensorrt"}
    assert m.precision["gate"]["layouts"]["tensorrt"]["frames"] == 13


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_int8_bundle_runs_as_the_fp32_one(
    engine: str, world: World, quantized: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path))
    generator = np.random.default_rng(3)
    crop, search = (generator.integers(0, 256, (1, s, s, 3), np.uint8) for s in (TEMPLATE, SEARCH))
    masks = [np.zeros((1, s // 16, s // 16), bool) for s in (TEMPLATE, SEARCH)]
    states = []
    for bundle in (world.bundle, quantized):
        run = load_engine(engine, bundle, 1)
        _, state = run.step(search, masks[1], run.initial_state(crop, masks[0]))
        states.append(run.export_state(state))
    off = np.linalg.norm(states[1]["query"] - states[0]["query"]) / np.linalg.norm(states[0]["query"])
    assert 0 < off < 0.5  # noise reaches past the calibrated ranges; unrelated numbers would be off by 1.4


def test_an_int8_bundle_builds_for_tensorrt(quantized: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx")
    check = check_real_build(quantized)
    assert check is not None
    assert check.passed, check.detail
    kernels = trial_build(quantized)["search"].kernels
    assert any(types.startswith("INT8") for types in kernels["convolutions"])
    assert any(types.startswith("FP16") for types in kernels["products"])


def test_bf16(world: World, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    out = tmp_path / "bf16"
    result = convert(world, out, "--precision", "bf16")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert result.exit_code == 1
        assert "this CPU does not compute in bf16" in result.stderr
        assert list(tmp_path.iterdir()) == []
        return
    bundle = made(result, out)
    assert bundle.manifest.precision["name"] == "bf16"
    assert bundle.manifest.precision["gate"]["engine"] == "openvino"
    # The numbers are FP32's, and the engine rounds.
    weights, before = (onnx.load(b.search_path).graph.initializer for b in (bundle, world.bundle))
    assert list(weights) == list(before)
    assert load_engine("openvino", bundle, 1).describe()["precision"] == "bf16"


def test_int8_fp16_the_template_too_beside_its_bundle(world: World, tmp_path: Path) -> None:
    here, out = tmp_path / "mine", tmp_path / "mine-int8-fp16"
    shutil.copytree(world.bundle.path, here)
    groups = tmp_path / "groups.txt"
    groups.write_text("backbone /8\n")
    words = [
        here,
        "--gate-data",
        world.videos,
        "--precision",
        "int8-fp16",
        "--calib",
        world.calibration,
    ]
    words += ["--layers", groups, "--int8-template"]  # and no --out
    m = made(CliRunner().invoke(main, [str(w) for w in words]), out).manifest
    assert m.precision["int8"]["layers"] == "chosen by the user"
    assert {"fp16", "int8"} <= set(m.precision)
    template = onnx.load(out / "template.onnx")
    assert "QuantizeLinear" in [n.op_type for n in template.graph.node]
    assert onnx.TensorProto.FLOAT16 in {i.data_type for i in template.graph.initializer}


def test_the_search_writes_its_report(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "group_names", lambda layers: ["backbone /8", "head 0"])
    out = tmp_path / "auto"
    more = (
        "--precision",
        "int8",
        "--calib",
        world.calibration,
        "--search-data",
        world.videos,
        "--budget",
        1,
        "--step-budget",
        1,
    )
    result = convert(world, out, *more)
    recipe = made(result, out).manifest.precision["int8"]
    assert recipe["groups"] == ["backbone /8", "head 0"]
    report = json.loads((out / "sensitivity.json").read_text())
    assert [g["group"] for g in report["groups"]] == ["backbone /8", "head 0"]
    assert report["cost"] == "share of multiply-accumulates left in float"
    assert 0 < report["steps"][-1]["cost"] < report["steps"][0]["cost"] < 1
    assert "sensitivity (budget: 100.0 points" in result.stderr


def test_nothing_to_gain_is_said(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "group_names", lambda layers: ["backbone /8"])
    monkeypatch.setattr(plan, "agreement_of", lambda *given: _Far())
    more = ("--precision", "int8", "--calib", world.calibration, "--search-data", world.videos)
    result = convert(world, tmp_path / "none", *more)
    assert result.exit_code == 1
    assert "no layer of" in result.stderr
    assert "--budget" in result.stderr
    assert list(tmp_path.iterdir()) == []


class _Far:
    mean_iou, auc, auc_reference, sequences = 0.5, 0.1, 0.6, ()


def test_a_failed_gate_writes_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GATES, "fp16", SHUT)
    result = convert(world, tmp_path / "out", "--precision", "fp16", "--calib", world.calibration)
    assert result.exit_code == 1
    assert "fp16 fails its gate on videos: mean IoU" in result.stderr
    assert "--force" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_forced_it_is_written_and_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GATES, "fp16", SHUT)
    result = convert(world, tmp_path / "out", "--precision", "fp16", "--calib", world.calibration, "--force")
    assert made(result, tmp_path / "out").manifest.precision["gate"]["passed"] is False
    assert "gate FAILED" in result.stderr


def test_a_checkpoint_is_exported_and_converted_in_one_go(
    world: World, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_bundle(network: object, checkpoint: Path, out: Path, *more: object) -> Bundle:
        shutil.copytree(
            world.bundle.path, out
        )  # what the export of these weights gives, without the seconds it takes
        return open_bundle(out)

    monkeypatch.setattr(exporter, "export_bundle", export_bundle)
    words = ["--checkpoint", tiny_weights, "--out", tmp_path / "out", "--no-validate", "--precision", "int8"]
    words += ["--calib", world.calibration, "--layers", "backbone", "--gate-data", world.videos]
    result = CliRunner().invoke(export_main, [str(w) for w in words])
    m = made(result, tmp_path / "out").manifest
    assert m.precision["name"] == "int8"
    assert m.weights["sha256"] == world.bundle.manifest.weights["sha256"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "Missing option '--precision'"),
        (("--precision", "int8"), "sttrack-calibrate"),
        (("--precision", "int8", "--qdq", "cpu"), "--qdq is no more"),
        (
            ("--precision", "int8", "--layers", "heads", "--calib", "SET"),
            "the groups are: decoder, backbone /2",
        ),
    ],
)
def test_wrong_calls(more: tuple[str, ...], message: str, world: World, tmp_path: Path) -> None:
    words = [str(world.calibration) if w == "SET" else w for w in more]
    result = convert(world, tmp_path / "out", *words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--precision", "fp16"), "--from BUNDLE"),
        (("--from", "b"), "add --precision fp16, bf16, int8 or int8-fp16"),
        (("--from", "b", "--precision", "fp16", "--checkpoint", "w.pth"), "leave --checkpoint w.pth out"),
        (("--from", "b", "--precision", "fp16", "--model", "sttrack-r50"), "leave --model sttrack-r50 out"),
    ],
)
def test_wrong_calls_of_the_alias(words: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(export_main, words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_the_alias_converts_the_same(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Path, Path, PrecisionOptions]] = []
    monkeypatch.setattr("sttrack_deploy.cli.convert.convert", lambda *call: given.append(call))
    monkeypatch.setattr("sttrack_deploy.cli.export.convert", lambda *call: given.append(call))
    rest = ["--precision", "int8", "--calib", "SET", "--budget", "0.01", "--search-data", "DIR"]
    for main_, words in ((main, [str(world.bundle.path)]), (export_main, ["--from", str(world.bundle.path)])):
        result = CliRunner().invoke(main_, [*words, *rest])
        assert result.exit_code == 0, result.output
    assert given[0] == given[1]
    source, out, options = given[0]
    assert (source, out.name) == (world.bundle.path, f"{world.bundle.path.name}-int8")
    assert (options.calibration, options.budget, options.search_data) == (Path("SET"), 0.01, (Path("DIR"),))


def test_only_fp32_is_converted_and_never_onto_itself(world: World, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(world.bundle.path, half)
    manifest = half / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "fp32"', '"name": "fp16"'))
    words = [half, "--precision", "fp16", "--out", tmp_path / "quarter"]
    again = CliRunner().invoke(main, [str(w) for w in words])
    assert again.exit_code == 1
    assert "is fp16; convert the fp32 one" in again.stderr
    onto = convert(world, world.bundle.path, "--precision", "fp16")
    assert onto.exit_code == 2
    assert open_bundle(world.bundle.path).manifest.precision["name"] == "fp32"


def test_a_set_of_other_graphs_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.calibration, tmp_path / "set")
    text = (tmp_path / "set" / "manifest.json").read_text()
    sha = world.bundle.manifest.search.sha256
    (tmp_path / "set" / "manifest.json").write_text(text.replace(sha, "0" * 64))
    result = convert(world, tmp_path / "out", "--precision", "int8", "--calib", tmp_path / "set")
    assert result.exit_code == 1
    assert "recorded with another bundle" in result.stderr


@pytest.mark.parametrize("failures", [1, 2])
def test_a_search_gives_groups_back_until_the_gate_is_passed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    monkeypatch.setattr(plan, "group_names", lambda layers: ["backbone /8", "head 0"])
    left = [failures]

    def failing(trial: Bundle, reference: Reference, threads: int | None, progress: Progress) -> GateResult:
        result = gate(trial, reference, threads, progress)
        left[0] -= 1
        return result if left[0] < 0 else replace(result, verdict=Verdict(False, "too far"))

    monkeypatch.setattr(conversion, "gate", failing)
    out = tmp_path / "auto"
    words = ("--precision", "int8", "--calib", world.calibration, "--search-data", world.videos)
    result = convert(world, out, *words, "--budget", 1, "--step-budget", 1)
    if failures == 2:  # with one group left there is nothing to give back
        assert result.exit_code == 1
        assert "int8 fails its gate on videos: too far" in result.stderr
        assert list(tmp_path.iterdir()) == []
        return
    precision = made(result, out).manifest.precision
    assert "gate failed with 2 groups: too far; without" in result.stderr
    assert len(precision["int8"]["groups"]) == 1
    assert precision["gate"]["passed"]
    assert precision["gate"]["failed_before"] == ["too far"]
    assert json.loads((out / "sensitivity.json").read_text())["chosen"] == precision["int8"]["groups"]
