"""A bundle is validated as a whole when it is opened: no value in it is believed."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_bundle import write_recurrent_bundle

from sttrack_deploy.bundle import MANIFEST, Bundle, Manifest, check_replaceable, open_bundle, plain_name
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import sha256_of
from sttrack_deploy.manifest import PRECISIONS
from sttrack_deploy.verification.gates import GATES

REMOVED = object()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_recurrent_bundle(tmp_path_factory.mktemp("pristine") / "bundle", batch=None)


@pytest.fixture
def bundle(pristine: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine.path, tmp_path / "bundle"))


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which the value at a path like ``state.0.output`` is another one."""
    data = copy.deepcopy(data)
    *before, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    place: Any = data
    for part in before:
        place = place[part]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", True, "has schema True; this version reads schema 1"),
        ("schema", 2, "upgrade sttrack-deploy"),
        ("schema", 10**30, "upgrade sttrack-deploy"),
        ("name", "../../y", "name is a plain name"),
        ("name", "/root", "name is a plain name"),
        ("name", "..", "name is a plain name"),
        ("name", "", "name is a plain name"),
        ("name", "a\n", "name is a plain name"),
        ("name", "n" * 300, "name is a plain name"),
        ("name", None, "name must be a text"),
        ("crop", None, "crop must be a table"),
        ("crop.template_factor", -1, "template_factor is above 0"),
        ("crop.template_factor", "2", "template_factor must be a number"),
        ("crop.search_factor", 0, "search_factor is above 0"),
        ("crop.search_grid", -0.5, "search_grid is from 0 to 0.25"),
        ("crop.search_grid", float("nan"), "NaN is not a JSON number"),
        ("crop.search_factor", float("inf"), "Infinity is not a JSON number"),
        ("crop.search_factor", 10**400, "search_factor must be a number"),
        ("crop.search_size", 320, "must be uint8 ['batch', 320, 320, 3]"),
        ("crop.search_size", 33, "is not a multiple of the stride 8"),
        ("crop.search_size", 32.5, "search_size must be a whole number"),
        ("crop.stride", 0, "stride is from 1"),
        ("crop.search_scale_step", 0.05, "needs a search_grid above 0"),
        ("crop.speed", 1, "unknown keys ['speed']"),
        ("batch", "x", "batch"),
        ("batch", 0, "batch is from 1"),
        ("batch", 1, "its first axis, and no other, is the batch (1)"),
        ("opset", "17", "opset must be a whole number"),
        ("state", {}, "state must be a list"),
        ("state", [], "belongs to no state"),
        ("state.2.output", None, "'memory_out' of search.outputs belongs to no state"),
        ("state.2.output", "box", "there is no 'box' among search.outputs"),
        ("state.1.output", "memory_out", "belongs to two tensors"),
        ("state.0.input", "flag", "'flag' of search.inputs belongs to two tensors"),
        ("state.0.initial", "nothing", "there is no 'nothing' among template.outputs"),
        ("state.0.name", "flag", "a name stands twice"),
        ("search.file", "../search.onnx", "file is a plain name"),
        ("search.file", "/etc/passwd", "file is a plain name"),
        ("search.file", "template.onnx", "are both template.onnx"),
        ("search.file", "gone.onnx", "lacks gone.onnx"),
        ("search.sha256", "0" * 64, "was altered"),
        ("search.sha256", "0", "sha256 is a SHA-256"),
        ("search.bytes", -1, "bytes is 1 or more"),
        ("search.outputs.0.dtype", "complex64", "a tensor's type"),
        ("search.outputs.0.shape", ["batch", 5], "'box' must be float32 ['batch', 4]"),
        ("search.outputs.0.shape", ["batch", "batch"], "first axis, and no other"),
        ("search.outputs.0.shape", [True, 4], "shape"),
        ("search.outputs.0", REMOVED, "'box' must be float32"),
        ("template.outputs.0.shape", ["batch", 5], "changes its dtype or shape"),
        ("tracking.lost_below", 2, "lost_below is from 0 to 1"),
        ("tracking.recovery", "yes", "recovery must be true or false"),
        ("tracking.growth", 0, "growth is from 1"),
        ("precision", {"name": 16}, "precision.name must be a text"),
        ("precision", {"name": "../x"}, "precision.name"),
        (
            "precision",
            {"name": "fp4"},
            "precision.name is one of fp32, fp16, bf16, int8, int8-fp16, not 'fp4'",
        ),
        ("precision", 16, "precision must be a table"),
        ("weights", {"file": "../w", "sha256": "0" * 64}, "weights: file is a plain name"),
        ("weights", {"file": "w"}, "weights lacks sha256"),
        ("weights", 1, "weights must be a table"),
        ("tools", {"torch": 2}, "tools.torch must be a text"),
        ("model", {"search_size": 64}, "crop.search_size is 32, but model.search_size is 64"),
        ("template", REMOVED, "lacks template"),
        ("extra", 1, "unknown keys ['extra']"),
    ],
)
def test_an_impossible_manifest_is_told_in_one_line(
    bundle: Path, path: str, value: Any, message: str
) -> None:
    data = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(changed(data, path, value)))
    with pytest.raises(UserError) as caught:
        open_bundle(bundle)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"schema": 1', "[" * 100_000, '{"schema": 1}', "1" * 5000, "\x00", '"\\ud800"'],
)
def test_other_texts_are_no_manifest(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(UserError, match="manifest"):
        open_bundle(bundle)


def test_a_key_that_stands_twice_is_told(bundle: Path) -> None:
    """Programs differ in which of the two they take."""
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace("{", '{"name": "other",', 1))
    with pytest.raises(UserError, match=r"is not valid JSON \(the key 'name' stands twice"):
        open_bundle(bundle)


def test_a_text_is_a_path_too(bundle: Path) -> None:
    """As in every library that takes file names."""
    assert open_bundle(str(bundle)) == open_bundle(bundle)
    with pytest.raises(UserError, match="nope is not a bundle"):
        open_bundle("nope")


def test_every_precision_has_its_gate() -> None:
    assert set(GATES) == set(PRECISIONS)


def test_a_binary_file_is_no_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        open_bundle(bundle)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(data: Any, path: tuple[str, ...] = ()) -> list[str]:
    here = [".".join(path)] if path else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return here + [place for key, value in items for place in places(value, (*path, str(key)))]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_value_anywhere_is_taken_or_told_in_one_line(pristine: Bundle, data: st.DataObject) -> None:
    manifest = json.loads(pristine.manifest.to_json())
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(manifest)))
        manifest = changed(manifest, place, data.draw(JSON_VALUES | st.just(REMOVED)))
    told = ""
    try:
        made = Manifest.from_json(json.dumps(manifest), "here")
    except UserError as error:
        told = str(error)
    if told:
        assert told.startswith("here")
        assert "\n" not in told
    else:
        assert Manifest.from_json(made.to_json(), "again") == made


def rewrite(bundle: Path, model: onnx.ModelProto, **options: Any) -> None:
    """Another search graph, with the hash that belongs to it."""
    onnx.save(model, bundle / "search.onnx", **options)
    data = json.loads((bundle / MANIFEST).read_text())
    data["search"]["sha256"] = sha256_of(bundle / "search.onnx")
    (bundle / MANIFEST).write_text(json.dumps(data))


def test_data_in_another_file_are_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "search.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(100, np.float32), "more"))
    rewrite(bundle, model, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (bundle / "w.bin").is_file()
    with pytest.raises(UserError, match="keeps weights in another file"):
        open_bundle(bundle)


def test_data_in_another_file_are_found_in_a_subgraph(bundle: Path) -> None:
    model = onnx.load(bundle / "search.onnx")
    branch = onnx.helper.make_graph([], "branch", [], [])
    tensor = branch.initializer.add(name="w", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/hostname")
    model.graph.node.append(onnx.helper.make_node("If", ["flag"], [], then_branch=branch))
    rewrite(bundle, model)
    with pytest.raises(UserError, match="keeps weights in another file"):
        open_bundle(bundle)


def test_a_node_named_location_is_no_other_file(bundle: Path) -> None:
    model = onnx.load(bundle / "search.onnx")
    model.graph.node[0].name = "location"
    rewrite(bundle, model)
    assert open_bundle(bundle).manifest.name == "recurrent"


def test_the_graphs_own_interface_counts(bundle: Path) -> None:
    model = onnx.load(bundle / "search.onnx")
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_value = 5
    rewrite(bundle, model)
    with pytest.raises(UserError, match=r"input 'feature' is float32 \['batch', 5\] in the file"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"not really onnx", b"\x3a\xff\xff\xff\xff\x0f", b"\x08" + b"\xff" * 12]
)
def test_a_file_that_is_no_model(bundle: Path, content: bytes) -> None:
    (bundle / "search.onnx").write_bytes(content)
    data = json.loads((bundle / MANIFEST).read_text())
    data["search"]["sha256"] = sha256_of(bundle / "search.onnx")
    (bundle / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(UserError, match="is not an ONNX model"):
        open_bundle(bundle)


def test_only_a_bundle_and_nothing_else_may_be_replaced(bundle: Path, tmp_path: Path) -> None:
    check_replaceable(tmp_path / "nothing there")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty")
    check_replaceable(bundle)
    (bundle / "README.md").write_text("ours")
    check_replaceable(bundle)
    (bundle / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"'thesis.tex' in it is not part of it"):
        check_replaceable(bundle)


@pytest.mark.parametrize(
    "text", ["{}", '{"name": "my app", "icons": []}', '{"schema": 1, "samples": []}', "["]
)
def test_another_program_s_manifest_is_not_a_bundle(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match="is not a bundle"):
        check_replaceable(tmp_path)


def test_a_file_and_a_dangling_link_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(UserError, match="is not a folder"):
            check_replaceable(tmp_path / name)


@given(st.text())
def test_plain_names(text: str) -> None:
    name = plain_name(text)
    assert plain_name(name) == name
    assert name
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0] not in ".-"


@pytest.mark.parametrize(
    ("name", "precision", "title"),
    [
        ("sttrack-nano", "fp32", "sttrack-nano"),
        ("sttrack-nano", "int8", "sttrack-nano-int8"),
        ("sttrack-nano-int8", "int8", "sttrack-nano-int8"),
        ("mine", "int8-fp16", "mine-int8-fp16"),
        ("mine-int8", "int8-fp16", "mine-int8-int8-fp16"),
    ],
)
def test_a_title_tells_precisions_apart(name: str, precision: str, title: str, bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert dataclasses.replace(manifest, name=name, precision={"name": precision}).title == title
