"""Further layouts of a bundle's graphs: which engine gets which, validated like the graphs themselves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from recurrent_bundle import write_recurrent_bundle

from sttrack_deploy.bundle import MANIFEST, Bundle, LayoutSpec, check_replaceable, open_bundle
from sttrack_deploy.engines.building import cache_of
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import sha256_of


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("pristine") / "bundle", batch=None)


def laid_out(bundle: Bundle, folder: Path, **changes: object) -> Bundle:
    """A copy whose graphs lie there a second time, as the layout for TensorRT."""
    shutil.copytree(bundle.path, folder)
    specs = {}
    for name, spec in (("template", bundle.manifest.template), ("search", bundle.manifest.search)):
        file = f"{name}.tensorrt.onnx"
        model = (
            folder / spec.file
        ).read_bytes() + b"\x12\x00"  # an empty producer name: another file, the same graph
        (folder / file).write_bytes(model)
        specs[name] = replace(spec, file=file, sha256=sha256_of(folder / file), bytes=len(model))
    data = json.loads(replace(bundle.manifest, layouts={"tensorrt": LayoutSpec(**specs)}).to_json())
    for place, value in changes.items():
        graph, key = place.split("__")
        data["layouts"]["tensorrt"][graph][key] = value
    (folder / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    return open_bundle(folder)


def test_each_engine_gets_its_layout(pristine: Bundle, tmp_path: Path) -> None:
    bundle = laid_out(pristine, tmp_path / "two")
    for engine in ("onnxruntime", "openvino", "torch", "onnxruntime-web"):
        assert bundle.for_engine(engine).search_path.name == "search.onnx"
    for engine in ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt"):
        there = bundle.for_engine(engine)
        assert (there.template_path.name, there.search_path.name) == (
            "template.tensorrt.onnx",
            "search.tensorrt.onnx",
        )
        assert there.search.sha256 == sha256_of(there.search_path)
        assert there.for_engine("onnxruntime") == bundle
    # A bundle of one layout gives it to all, and built engines of the two bundles do not meet in the cache.
    assert pristine.for_engine("tensorrt") == pristine
    assert cache_of(bundle) != cache_of(pristine)
    assert cache_of(bundle) == cache_of(bundle.for_engine("tensorrt"))
    check_replaceable(bundle.path)  # all its files are its own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search__file": "search.onnx"}, "which is another graph's"),
        ({"search__file": "gone.onnx"}, "lacks gone.onnx"),
        ({"search__sha256": "0" * 64}, "was altered"),
        ({"template__outputs": []}, "layouts.tensorrt.template has other inputs or outputs"),
    ],
)
def test_a_layout_is_validated_like_the_graphs(
    changes: dict[str, object], message: str, pristine: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        laid_out(pristine, tmp_path / "two", **changes)


def test_bf16_is_refused_where_it_is_not_computed(pristine: Bundle) -> None:
    bundle = replace(pristine, manifest=replace(pristine.manifest, precision={"name": "bf16"}))
    assert bundle.for_engine("openvino") == bundle.for_engine("torch") == bundle
    for engine in ("onnxruntime", "tensorrt", "onnxruntime-web"):
        with pytest.raises(UserError, match=f"is bf16, which the engine '{engine}' does not compute in"):
            bundle.for_engine(engine)
    with pytest.raises(UserError, match="is bf16"):
        load_engine("onnxruntime", bundle)
