"""A bundle holds what the contract says, equals PyTorch, and is never half-written."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from tiny import TINY, picture, search_input, template_input

from sttrack_deploy.bundle import MANIFEST, Bundle, Manifest, open_bundle
from sttrack_deploy.cli.export import main
from sttrack_deploy.engines.onnxruntime.engine import OnnxRuntimeEngine
from sttrack_deploy.engines.torch.engine import TorchEngine
from sttrack_deploy.errors import UserError
from sttrack_deploy.export import exporter
from sttrack_deploy.export.exporter import ExportOptions, accuracy_of, export_bundle
from sttrack_deploy.export.graphs import DEFAULT_OPSET
from sttrack_deploy.export.operator_check import unsupported_nodes
from sttrack_deploy.export.validation import Check, ValidationClip, check_interface, validate_bundle
from sttrack_deploy.models.config import CROP_RULES, preset
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.weights import load_weights


def clip(frames: int = 12) -> ValidationClip:
    generator = torch.Generator().manual_seed(0)
    still = picture(160, 1, generator)[0].numpy()
    # A camera that pans over a picture: neighboring frames overlap.
    images = [np.ascontiguousarray(np.roll(still, 2 * i, axis=1)) for i in range(frames)]
    return ValidationClip("a panned picture", images, (50.0, 60.0, 40.0, 30.0))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_bundle_is_what_the_contract_says(tiny_bundle: Bundle, tiny_weights: Path) -> None:
    assert names(tiny_bundle.path) == ["manifest.json", "search.onnx", "template.onnx", "weights.safetensors"]
    m = tiny_bundle.manifest
    image, mask = m.search.inputs[:2]
    assert (image.dtype, image.shape) == ("uint8", (1, 128, 128, 3))
    assert (mask.dtype, mask.shape) == ("bool", (1, 8, 8))
    assert all(check.passed for check in check_interface(tiny_bundle))
    assert m.crop.search_size == TINY.search_size
    assert m.model == TINY.to_dict()
    assert m.checkpoint["file"] == tiny_weights.name
    assert Manifest.from_json(m.to_json(), "x") == m
    for path in (tiny_bundle.template_path, tiny_bundle.search_path):
        facts = {p.key: p.value for p in onnx.load(path).metadata_props}
        assert json.loads(facts["model"]) == TINY.to_dict()
        assert facts["checkpoint_sha256"] == m.checkpoint["sha256"]
        assert json.loads(facts["crop"])["search_factor"] == 4.0


def test_layer_norms_stay_whole_and_norms_are_folded(tiny_bundle: Bundle) -> None:
    ops = [node.op_type for node in onnx.load(tiny_bundle.search_path).graph.node]
    # The decoder's first norm is a constant: see sttrack_deploy.export.attention_rewrites.
    norms = 2 * TINY.encoder_layers + 3 * TINY.decoder_layers - 1 + 1 + 2 * TINY.memory_layers + 1
    assert ops.count("LayerNormalization") == norms
    assert "BatchNormalization" not in ops
    assert "Gemm" not in ops


def test_equal_input_gives_equal_bytes(
    tiny_network: STTrack, tiny_weights: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    again = export_bundle(tiny_network, tiny_weights, tmp_path / "again", ExportOptions(), clip=None)
    for name in names(tiny_bundle.path):
        assert (again.path / name).read_bytes() == (tiny_bundle.path / name).read_bytes(), name


def test_nothing_of_this_machine_is_in_the_files(tiny_bundle: Bundle) -> None:
    for path in tiny_bundle.path.iterdir():
        data = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in data, path.name
        assert b"site-packages" not in data, path.name


def test_validation_passes_line_by_line(tiny_bundle: Bundle, tiny_network: STTrack) -> None:
    checks = list(validate_bundle(tiny_bundle, tiny_network, clip()))
    assert all(check.passed for check in checks), [c for c in checks if not c.passed]
    assert {"search box", "search confidence", "search query_out", "template query", "closed loop"} <= {
        check.name for check in checks
    }


def test_validation_notices_other_weights(tiny_bundle: Bundle, tiny_weights: Path) -> None:
    other: Any = load_weights(tiny_weights)
    with torch.no_grad():
        other.head.top_left.score.bias += 0.5  # shifts every logit alike: no effect on a softmax
        other.decoder.norm.weight *= 1.05
    failed = {check.name for check in validate_bundle(tiny_bundle, other, clip()) if not check.passed}
    assert "search query_out" in failed
    assert "template target_features" not in failed


def test_validation_notices_a_constant_box(tiny_weights: Path, tmp_path: Path) -> None:
    network: Any = load_weights(tiny_weights)
    with torch.no_grad():
        network.window_penalty.fill_(1.0)  # as in freshly initialized published weights
    with pytest.raises(UserError, match="box reacts to the image"):
        export_bundle(network, tiny_weights, tmp_path / "out", ExportOptions(), clip())
    assert names(tmp_path) == []


def test_a_dynamic_batch_equals_single_targets(
    tiny_network: STTrack, tiny_weights: Path, tmp_path: Path
) -> None:
    lines: list[Check] = []
    bundle = export_bundle(
        tiny_network, tiny_weights, tmp_path / "b", ExportOptions(batch=None), clip(), lines.append
    )
    assert bundle.manifest.search.inputs[0].shape == ("batch", 128, 128, 3)
    assert "batch of 2" in [line.name for line in lines]
    generator = torch.Generator().manual_seed(4)
    template, search = template_input(TINY, 3, generator), search_input(TINY, 3, generator)
    results = []
    for engine in (OnnxRuntimeEngine(bundle), TorchEngine(tiny_network)):
        state = engine.initial_state(template[0].numpy(), template[1].numpy())
        for _ in range(6):  # longer than the memory
            prediction, state = engine.step(search[0].numpy(), search[1].numpy(), state)
        results.append(prediction)
    # Rounding, which this network amplifies from frame to frame.
    assert np.allclose(results[0].box, results[1].box, atol=1e-4)
    assert np.allclose(results[0].confidence, results[1].confidence, atol=1e-3)


@pytest.mark.parametrize("opset", [18, 20])
def test_a_fixed_batch_and_other_opsets(tiny_weights: Path, tmp_path: Path, opset: int) -> None:
    network = load_weights(tiny_weights, TINY.with_memory(2, "train"))
    bundle = export_bundle(network, tiny_weights, tmp_path / "b", ExportOptions(opset=opset, batch=2), clip())
    assert bundle.manifest.opset == opset
    assert onnx.load(bundle.search_path).opset_import[0].version == opset
    assert bundle.manifest.model["memory_semantics"] == "train"


def test_a_failed_validation_leaves_the_old_bundle(
    tiny_network: STTrack, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b"
    old = export_bundle(tiny_network, tiny_weights, out, ExportOptions(), clip=None).manifest
    monkeypatch.setattr(exporter, "validate_bundle", lambda *_: [Check("closed loop", False, "mean IoU 0.5")])
    with pytest.raises(UserError, match=r"closed loop \(mean IoU 0.5\).*nothing was written"):
        export_bundle(tiny_network, tiny_weights, out, ExportOptions(opset=18), clip())
    assert open_bundle(out).manifest == old
    assert names(tmp_path) == ["b"]


def test_a_full_disk_leaves_nothing(
    tiny_network: STTrack, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        export_bundle(tiny_network, tiny_weights, tmp_path / "b", ExportOptions(), clip=None)
    assert names(tmp_path) == []


def report_on(of: Bundle, /, **changes: object) -> str:
    m = of.manifest
    tracker: dict[str, object] = {
        "bundle": {"template_sha256": m.template.sha256, "search_sha256": m.search.sha256},
        "tracking": asdict(m.tracking),
        "engine": {"name": "onnxruntime"},
        "complete": True,
        "overall": {"presence_auroc": 0.5, "fps_median": 100.0},
        "protocols": {"pytracking": {"auc": 0.5, "curves": {"success": [1.0, 0.0]}}},
        "sequences": [{"name": "a", "protocols": {"pytracking": {"auc": 0.5}, "got10k": {}}, "fps": 100.0}],
    }
    others = [
        {"label": "KCF", "results": "KCF"},
        {**tracker, "bundle": dict.fromkeys(("template_sha256", "search_sha256"))},
    ]
    return json.dumps(
        {"dataset": "folder", "protocol": "pytracking", "trackers": [*others, {**tracker, **changes}]}
    )


def test_measured_accuracy_is_recorded_without_speed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report_on(tiny_bundle))
    recorded = accuracy_of(path, tiny_bundle.manifest)
    assert recorded["overall"] == {"presence_auroc": 0.5}
    assert recorded["protocols"] == {"pytracking": {"auc": 0.5}}
    assert recorded["sequences"] == [{"name": "a", "protocols": {"pytracking": {"auc": 0.5}}}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": {"template_sha256": "0", "search_sha256": "0"}}, "measured on other graphs"),
        ({"tracking": {"lost_below": 0.9}}, "another lost handling"),
        ({"complete": False}, "unfinished evaluation"),
        ({"engine": None}, "is not a report"),
    ],
)
def test_accuracy_of_something_else_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(report_on(tiny_bundle, **changes))
    with pytest.raises(UserError, match=message):
        accuracy_of(path, tiny_bundle.manifest)


def test_a_folder_that_is_something_else_is_kept(
    tiny_network: STTrack, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(UserError, match="is not a bundle"):
        export_bundle(tiny_network, tiny_weights, tmp_path, ExportOptions(), clip=None)
    assert names(tmp_path) == ["thesis.txt"]


def one_node(op: str, dtype: int, **attributes: Any) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    node = helper.make_node(op, ["x"], ["y"], name="culprit", **attributes)
    graph = helper.make_graph([node], "g", [value("x", dtype, [2, 2])], [value("y", dtype, [2, 2])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", DEFAULT_OPSET)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (one_node("Det", TensorProto.FLOAT), "TensorRT has no such operator"),
        (one_node("Transpose", TensorProto.UINT8), "'x' is UINT8"),
    ],
)
def test_what_tensorrt_would_refuse_is_named(model: onnx.ModelProto, message: str) -> None:
    problems = unsupported_nodes(model)
    assert problems
    assert all("'culprit'" in problem for problem in problems)
    assert any(message in problem for problem in problems)


def test_what_tensorrt_takes_is_not() -> None:
    assert unsupported_nodes(one_node("Relu", TensorProto.FLOAT16)) == []
    assert unsupported_nodes(one_node("Cast", TensorProto.UINT8, to=TensorProto.FLOAT)) == []


def test_the_command_end_to_end(tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    arguments = ["--checkpoint", str(tiny_weights), "--out", str(out), "--memory-size", "3", "--recover"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "closed loop: mean IoU" in result.output
    assert "next: sttrack-run" in result.output
    manifest = open_bundle(out).manifest
    assert manifest.model["memory_capacity"] == 3
    assert manifest.validation["clip"] == "the demo clip"
    assert manifest.tracking.recovery
    assert not manifest.crop.snapped


def test_the_rule_of_the_crops_is_the_models_or_the_users(tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    arguments = ["--checkpoint", str(tiny_weights), "--out", str(out), "--crops", "snapped"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    crop = open_bundle(out).manifest.crop
    assert (crop.search_grid, crop.search_scale_step) == CROP_RULES["snapped"]
    assert preset("sttrack-nano").search_grid == crop.search_grid
    assert preset("sttrack-r50").search_grid == 0


@pytest.mark.parametrize("change", [{"search_grid": 0.5}, {"search_grid": -0.1}, {"search_scale_step": 0.05}])
def test_a_rule_of_crops_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="search_"):
        replace(preset("sttrack-r50"), **change)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "sttrack-r50"], 2, "brings its own configuration 'tiny'"),
        (["--batch", "1_6"], 2, "--batch is a number from 1 to 64 or 'dynamic', not '1_6'"),
        (["--batch", "many"], 2, "--batch is a number from 1 to 64 or 'dynamic'"),
        (["--opset", "13", "--no-validate"], 2, "13 is not in the range 18 to 20"),
        (["--validation-source", "x.mp4"], 2, "go together"),
        (["--validation-source", "x.mp4", "--validation-box", "1,2,3,4"], 1, "x.mp4"),
    ],
)
def test_bad_options(
    tiny_weights: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    out = tmp_path / "bundle"
    result = CliRunner().invoke(main, ["--checkpoint", str(tiny_weights), "--out", str(out), *arguments])
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not out.exists()


def test_a_published_checkpoint_needs_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save({"net": {"a": torch.zeros(1)}}, path)
    result = CliRunner().invoke(main, ["--checkpoint", str(path), "--out", str(tmp_path / "o")])
    assert result.exit_code == 2
    assert "--config EXPERIMENT.yaml" in result.output


def test_a_manifest_can_be_replaced_field_by_field(tiny_bundle: Bundle) -> None:
    changed = replace(tiny_bundle.manifest, name="other")
    assert Manifest.from_json(changed.to_json(), MANIFEST).name == "other"
