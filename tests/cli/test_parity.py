"""``sttrack-parity`` from the command line, with the tiny network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import frame, truth
from click.testing import CliRunner, Result

from sttrack_deploy.bundle import MANIFEST, Bundle
from sttrack_deploy.cli.parity import main

FRAMES = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two annotated sequences."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("one", "two"):
        (folder / name).mkdir()
        for index in range(FRAMES):
            cv2.imwrite(str(folder / name / f"{index}.png"), frame(truth(index)))
        np.savetxt(folder / f"{name}.txt", [truth(i) for i in range(FRAMES)], delimiter=",")
    return folder


def parity(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"])


def renamed(bundle: Bundle, folder: Path, precision: str) -> Path:
    """A copy that says it has that precision."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["precision"] = {"name": precision}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_an_exported_bundle_is_proven(tiny_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "p.json", tmp_path / "p.png"
    done = parity(
        tiny_bundle.path, "--data", data, "--json", out, "--plot", plot, "--engines", "onnxruntime,torch"
    )
    assert done.exit_code == 0, done.output
    assert "proven: 2 of 2" in done.output
    assert "next: sttrack-bench" in done.output
    document = json.loads(out.read_text())
    assert document["passed"] is True
    assert document["frames"] == 2 * FRAMES
    exported, itself = document["candidates"]
    assert exported["closed_loop"]["mean_iou"] > 0.999
    assert [s["name"] for s in exported["closed_loop"]["sequences"]] == ["one", "two"]
    assert len(exported["closed_loop"]["sequences"][0]["iou"]) == FRAMES - 1
    assert {t["name"] for t in exported["tensors"]} >= {"template query", "search box", "search memory_out"}
    assert len(exported["growth"]["box"]) == FRAMES - 1
    assert itself["closed_loop"]["mean_iou"] == 1.0
    assert max(t["largest"] for t in itself["tensors"]) == 0.0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_other_weights_fail_and_the_tensor_is_named(tiny_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    from sttrack_deploy.files import sha256_of

    folder = renamed(tiny_bundle, tmp_path / "bad", "fp32")
    model = onnx.load(folder / "search.onnx")
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    (weight,) = (w for w in model.graph.initializer if w.name == conv.input[1])
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "search.onnx")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["search"]["sha256"] = sha256_of(folder / "search.onnx")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    # Both share the weights, so the good one is the graph that the bad one is compared with.
    done = parity(tiny_bundle.path, folder, "--data", data, "--sequences", "one", "--frames", 5)
    assert done.exit_code == 1
    assert "1 of 2" in done.output
    assert f"tensor {conv.output[0]} (Conv" in done.output
    assert "one frame 1, search graph" in done.output


def test_precisions_are_the_bundles_beside_it(tiny_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    base = renamed(tiny_bundle, tmp_path / "tiny", "fp32")
    done = parity(base, "--precisions", "fp32,int8", "--data", data)
    assert done.exit_code == 1
    assert f"there is no int8 bundle {base}-int8" in done.output
    assert f"sttrack-convert {base} --precision int8" in done.output
    renamed(tiny_bundle, tmp_path / "tiny-int8", "int8")
    done = parity(base, "--precisions", "fp32,int8", "--data", data, "--sequences", "one")
    assert done.exit_code == 0, done.output
    assert "int8 onnxruntime: mean IoU" in done.output
    assert "at most lost: 0.5" in done.output


def test_without_data_the_demo_clip_is_tracked_and_that_is_said(tiny_bundle: Bundle) -> None:
    done = parity(tiny_bundle.path, "--frames", 4)
    assert done.exit_code == 0, done.output
    assert "gated on the demo clip only" in done.output
    assert "4 frames" in done.output


def test_what_cannot_be_run_is_no_number_and_no_success(
    tiny_bundle: Bundle, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sttrack_deploy.engines.registry import BACKENDS, Backend

    missing = Backend("abacus", "x", "no_such_package", ("no-such",), "pip install no-such")
    monkeypatch.setitem(BACKENDS, "abacus", missing)
    out = tmp_path / "p.json"
    options = (tiny_bundle.path, "--data", data, "--sequences", "one")
    done = parity(*options, "--engine", "onnxruntime", "--engine", "abacus", "--json", out)
    assert done.exit_code == 1
    assert "not run" in done.output
    assert "pip install no-such" in done.output
    ran, left = json.loads(out.read_text())["candidates"]
    assert ran["passed"] is True
    assert left["run"] is False
    assert "closed_loop" not in left
    alone = parity(*options, "--engine", "abacus")
    assert alone.exit_code == 1
    assert "nothing could be run" in alone.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "abacus"), "there is no engine 'abacus'"),
        (("--precisions", "int3"), "there is no precision 'int3'"),
        (("--precisions", ""), "--precisions names none; precisions are fp32"),
        (("--sequences", "x"), "--sequences chooses from a data set: name it with --data DIR"),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...], message: str, tiny_bundle: Bundle) -> None:
    done = parity(tiny_bundle.path, *arguments)
    assert done.exit_code == 2
    assert message in done.output
