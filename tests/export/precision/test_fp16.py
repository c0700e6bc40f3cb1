"""FP16 graphs are strongly typed, keep their interface, and keep in FP32 what must be."""

from __future__ import annotations

from typing import cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from precision_inputs import outputs, recorded

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.export.precision import fp16
from sttrack_deploy.export.precision.bundle_writer import check_graph
from sttrack_deploy.export.precision.fp16 import choose_parts, convert, parts, wide_nodes
from sttrack_deploy.export.precision.int8 import quantize
from sttrack_deploy.export.precision.layers import quantizable_layers
from sttrack_deploy.export.precision.measurements import StepError, measure_ranges, open_model


def model_of(
    nodes: list[onnx.NodeProto], ins: list[str], outs: list[str], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])

    graph = helper.make_graph(
        nodes,
        "g",
        [value(n) for n in ins],
        [value(n) for n in outs],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}


@pytest.mark.parametrize("kept", ["nothing", "everything"])
@pytest.mark.parametrize("graph", ["search", "template"])
def test_the_interface_stays_and_the_numbers_are_near(kept: str, graph: str, tiny_bundle: Bundle) -> None:
    path = tiny_bundle.search_path if graph == "search" else tiny_bundle.template_path
    model = onnx.load(path)
    before = model.SerializeToString()
    keep = [n for nodes in parts(model).values() for n in nodes] if kept == "everything" else []
    half = convert(model, keep)
    assert model.SerializeToString() == before
    check_graph(half, path.name, tensorrt=True)
    assert list(half.graph.input) == list(model.graph.input)
    assert list(half.graph.output) == list(model.graph.output)
    samples = recorded(tiny_bundle, 2)
    sessions = [open_model(m, 1, optimized=False) for m in (model, half)]
    for feeds in samples.all_searches() if graph == "search" else samples.all_templates():
        exact, close = (outputs(s, dict(feeds)) for s in sessions)
        for name, value in exact.items():
            np.testing.assert_allclose(
                close[name].astype(float), value.astype(float), atol=0.05, err_msg=name
            )
    # Half of the weights' bytes are gone (what FP32 nodes read is small).
    assert half.ByteSize() < 0.75 * model.ByteSize()


def test_kept_nodes_compute_in_fp32_and_all_others_in_fp16(tiny_bundle: Bundle) -> None:
    model = onnx.load(tiny_bundle.search_path)
    found = parts(model)
    assert set(found) == {
        "corner softmax, box and confidence",
        "position encoding",
        "pixel shift",
        "first convolution",
        "layer norms",
        "attention softmax",
    }
    keep = set(found["layer norms"])
    half = convert(model, keep)
    types = types_of(half)
    norms = [n for n in half.graph.node if n.op_type == "LayerNormalization"]
    assert {n.name for n in norms} == keep
    assert {types[n.output[0]] for n in norms} == {TensorProto.FLOAT}
    assert {types[n.output[0]] for n in half.graph.node if n.op_type in ("Conv", "MatMul")} == {
        TensorProto.FLOAT16
    }
    assert {types[n.output[0]] for n in half.graph.node if n.op_type == "CumSum"} == {TensorProto.FLOAT}


def test_parts_do_not_overlap_and_hold_what_they_are_named_after(tiny_bundle: Bundle) -> None:
    model = onnx.load(tiny_bundle.search_path)
    found = parts(model)
    everything = [n for nodes in found.values() for n in nodes]
    assert len(everything) == len(set(everything))
    ops = {n.name: n.op_type for n in model.graph.node}
    corners = {ops[n] for n in found["corner softmax, box and confidence"]}
    assert {"Softmax", "Exp", "Sqrt", "ReduceProd"} <= corners
    assert "Conv" not in corners
    assert {"Sin", "CumSum"} <= {ops[n] for n in found["position encoding"]}
    assert {ops[n] for n in found["pixel shift"]} == {"Cast", "Transpose", "Sub"}


def test_a_tensor_is_cast_once_for_all_its_readers() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="half"),
        helper.make_node("Exp", ["a"], ["b"], name="kept1"),
        helper.make_node("Sin", ["a"], ["c"], name="kept2"),
        helper.make_node("Add", ["b", "c"], ["y"], name="kept3"),
    ]
    half = convert(model_of(nodes, ["x"], ["y"], {}), ["kept1", "kept2", "kept3"])
    onnx.checker.check_model(half, full_check=True)
    assert [n.op_type for n in half.graph.node].count("Cast") == 2  # x to FP16, a to FP32
    types = types_of(half)
    assert types["a"] == TensorProto.FLOAT16
    assert types["b"] == types["c"] == types["y"] == TensorProto.FLOAT


def test_nodes_that_move_data_take_what_comes() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"], name="kept"),
        helper.make_node("Identity", ["a"], ["y"], name="moving"),
    ]
    half = convert(model_of(nodes, ["x"], ["y"], {}), ["kept"])
    assert "Cast" not in [n.op_type for n in half.graph.node]


def test_a_constant_that_both_sides_read_is_exact_for_the_fp32_side() -> None:
    third = np.full(4, 1 / 3, np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"], name="half"),
        helper.make_node("Mul", ["x", "k"], ["b"], name="kept"),
    ]
    half = convert(model_of(nodes, ["x"], ["a", "b"], {"k": third}), ["kept"])
    found = outputs(open_model(half), {"x": np.array([1, 2, 3, 4], np.float32)})
    np.testing.assert_array_equal(found["b"], third * np.array([1, 2, 3, 4], np.float32))
    assert found["a"][0] == np.float16(1 / 3)


def test_an_output_that_others_read_too_stays_fp32_outside() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["y"], name="first"),
        helper.make_node("Abs", ["y"], ["z"], name="second"),
    ]
    half = convert(model_of(nodes, ["x"], ["y", "z"], {}), [])
    onnx.checker.check_model(half, full_check=True)
    found = outputs(open_model(half), {"x": np.array([1, -2, 3, -4], np.float32)})
    np.testing.assert_array_equal(found["y"], [-1, 2, -3, 4])
    np.testing.assert_array_equal(found["z"], [1, 2, 3, 4])
    assert [n.op_type for n in half.graph.node].count("Cast") == 3  # x in, y and z out: z reads y's FP16 form


def test_what_fp16_cannot_hold_stays_in_fp32() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["big"], name="grows"),
        helper.make_node("Mul", ["big", "small"], ["y"], name="shrinks"),
        helper.make_node("Neg", ["y"], ["z"], name="plain"),
    ]
    constants = {"k": np.full(4, 1e6, np.float32), "small": np.full(4, 1e-6, np.float32)}
    model = model_of(nodes, ["x"], ["z"], constants)
    maxima = {n: r.absmax for n, r in measure_ranges(model, [{"x": np.ones(4, np.float32)}]).items()}
    wide = wide_nodes(model, maxima)
    assert wide == ["grows", "shrinks"]
    found = outputs(
        open_model(convert(model, wide), optimized=False), {"x": np.array([1, 2, 3, 4], np.float32)}
    )
    np.testing.assert_allclose(found["z"], [-1, -2, -3, -4], rtol=1e-3)


def test_the_margin_counts_and_a_norms_sum_of_squares_too() -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "g", "g"], ["y"], name="norm", axis=-1)]
    model = model_of(nodes, ["x"], ["y"], {"g": np.ones(4, np.float32)})
    assert wide_nodes(model, {"x": 10.0, "y": 2.0}) == []
    assert wide_nodes(model, {"x": 70.0, "y": 2.0}) == ["norm"]  # 4 x 70 x 70 is past a quarter of 65504
    assert wide_nodes(model, {"x": 1.0, "y": 17_000.0}) == ["norm"]


def test_a_part_is_kept_only_if_its_error_matters(tiny_bundle: Bundle) -> None:
    model = onnx.load(tiny_bundle.search_path)
    samples = list(recorded(tiny_bundle, 3).all_searches())
    maxima = {n: r.absmax for n, r in measure_ranges(model, samples, threads=1).items()}
    choice = choose_parts(model, maxima, StepError(model, samples, threads=1))
    error = choice.recipe["step_error"]
    now, kept = error["all_fp16"], []
    for beside in error["with_fp32"]:
        best = min(beside, key=beside.get)
        if now - beside[best] <= 0.1 * now:
            break
        kept.append(best)
        now = beside[best]
        assert set(beside).isdisjoint(kept[:-1])
    assert set(choice.parts) == {*kept, "layer norms"}
    assert 0 < error["chosen"] <= error["all_fp16"] * 1.05


def test_a_part_is_found_behind_one_that_hides_it() -> None:
    # The image's values lose 1e-3 in FP16, the corners 1e-1: only once these are FP32 does the rest show.
    model = onnx.ModelProto()
    errors = {frozenset(): 1.0, frozenset("a"): 0.1, frozenset("b"): 0.95, frozenset("ab"): 0.02}

    class Scripted:
        def __len__(self) -> int:
            return 1

        def __call__(self, nodes: frozenset[str], optimized: bool) -> float:
            return errors[nodes]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fp16, "parts", lambda _: {"a": ["a"], "b": ["b"]})
        patch.setattr(fp16, "wide_nodes", lambda *_: [])
        patch.setattr(fp16, "convert", lambda _, nodes: frozenset(nodes))
        choice = choose_parts(model, {}, cast("StepError", Scripted()))
    assert choice.parts == ("a", "b")
    assert choice.recipe["step_error"]["chosen"] == 0.02


def test_fp16_around_int8(tiny_bundle: Bundle) -> None:
    model = onnx.load(tiny_bundle.search_path)
    samples = recorded(tiny_bundle, 3)
    limits = {
        n: r.threshold("minmax") for n, r in measure_ranges(model, samples.all_searches(), threads=1).items()
    }
    quantized = quantize(model, limits, [layer.node for layer in quantizable_layers(model)], "portable")
    half = convert(quantized, [n for nodes in parts(quantized).values() for n in nodes])
    check_graph(half, "search.onnx", tensorrt=True)
    types = types_of(half)
    scales = [n.input[1] for n in half.graph.node if n.op_type == "DequantizeLinear"]
    dtypes = {i.name: i.data_type for i in half.graph.initializer}
    assert TensorProto.FLOAT16 in {dtypes[s] for s in scales}
    assert {types[n.output[0]] for n in half.graph.node if n.op_type == "Conv"} == {TensorProto.FLOAT16}
    sessions = [open_model(m, 1) for m in (quantized, half)]
    feeds = dict(samples.search(0))
    exact, close = (outputs(s, feeds) for s in sessions)
    np.testing.assert_allclose(close["query_out"], exact["query_out"], atol=0.35)
