"""Q/DQ goes where it is meant to, computes what it should, and engines can take it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from precision_inputs import outputs, recorded

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.errors import UsageError
from sttrack_deploy.export.operator_check import unsupported_nodes
from sttrack_deploy.export.precision.bundle_writer import check_graph
from sttrack_deploy.export.precision.int8 import LAYOUTS, Layout, activations, quantize
from sttrack_deploy.export.precision.layers import (
    group_names,
    macs_by_group,
    members,
    quantizable_layers,
    read_groups,
)
from sttrack_deploy.export.precision.measurements import measure_ranges, open_model


def calibrated(model: onnx.ModelProto, bundle: Bundle) -> dict[str, float]:
    samples = recorded(bundle)
    feeds = (
        samples.all_searches() if model.graph.input[0].name.startswith("search") else samples.all_templates()
    )
    return {name: r.threshold("minmax") for name, r in measure_ranges(model, feeds, threads=1).items()}


@pytest.fixture(scope="module")
def search(tiny_bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(tiny_bundle.search_path)


@pytest.fixture(scope="module")
def thresholds(search: onnx.ModelProto, tiny_bundle: Bundle) -> dict[str, float]:
    return calibrated(search, tiny_bundle)


def test_groups_cover_the_network_and_are_the_same_in_both_graphs(
    search: onnx.ModelProto, tiny_bundle: Bundle
) -> None:
    layers = quantizable_layers(search)
    names = group_names(layers)
    assert {
        "backbone /2",
        "backbone /16",
        "bottleneck",
        "encoder 0 attention",
        "encoder 1 feed-forward",
    } <= set(names)
    assert {"decoder", "memory", "head 0", "head 3", "head scores"} <= set(names)
    template = group_names(quantizable_layers(onnx.load(tiny_bundle.template_path)))
    assert template == [n for n in names if n.startswith("backbone") or n == "bottleneck"]
    convolutions = [n for n in search.graph.node if n.op_type == "Conv"]
    assert {n.name for n in convolutions} <= {layer.node for layer in layers}
    # 3 x 3 taps, 3 to 8 channels, half of 128 pixels a side
    assert macs_by_group(layers)["backbone /2"] == 9 * 3 * 8 * 64 * 64


def test_groups_are_named_in_a_file(search: onnx.ModelProto, tmp_path: Path) -> None:
    layers = quantizable_layers(search)
    chosen = tmp_path / "groups.txt"
    chosen.write_text("# mine\nhead 1\n\nbackbone /8\n")
    assert read_groups(str(chosen), layers) == ["backbone /8", "head 1"]
    assert read_groups("backbone", layers) == ["backbone /2", "backbone /4", "backbone /8", "backbone /16"]
    assert read_groups("all", layers) == group_names(layers)
    chosen.write_text("head 9\n")
    with pytest.raises(UsageError, match=r"'head 9'; the groups are: .*head 0"):
        read_groups(str(chosen), layers)
    with pytest.raises(UsageError, match="not 'evrything'"):
        read_groups("evrything", layers)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layers_in_int8_stay_close(
    layout: Layout, search: onnx.ModelProto, thresholds: dict[str, float], tiny_bundle: Bundle
) -> None:
    before = search.SerializeToString()
    layers = quantizable_layers(search)
    nodes = [layer.node for layer in layers]
    assert activations(search, nodes) <= set(thresholds)
    quantized = quantize(search, thresholds, nodes, layout)
    assert search.SerializeToString() == before
    check_graph(quantized, "search.onnx", tensorrt=layout == "portable")
    sessions = [open_model(m, 1) for m in (search, quantized)]
    for feeds in recorded(tiny_bundle, 3, seed=1).all_searches():
        exact, close = (outputs(s, dict(feeds)) for s in sessions)
        for name, value in exact.items():
            assert close[name].dtype == value.dtype
        # Layer norms make the query of unit size; INT8 everywhere costs some of it, not most.
        off = np.linalg.norm(close["query_out"] - exact["query_out"]) / np.linalg.norm(exact["query_out"])
        assert 0 < off < 0.25


def test_portable_is_what_tensorrt_wants(search: onnx.ModelProto, thresholds: dict[str, float]) -> None:
    layers = quantizable_layers(search)
    nodes = members(layers, ["backbone /8", "encoder 0 feed-forward"])
    quantized = quantize(search, thresholds, nodes, "portable")
    constants = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    made_by = {o: n for n in quantized.graph.node for o in n.output}
    for node in quantized.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (scale > 0).all()
        if node.name in nodes:
            activation, weight = (made_by[name] for name in node.input[:2])
            assert activation.op_type == weight.op_type == "DequantizeLinear"
            assert constants[activation.input[1]].ndim == 0
            assert constants[weight.input[1]].ndim == 1
            assert len(node.input) < 3 or constants[node.input[2]].dtype == np.float32  # the bias
    readers = {
        n.name: n.op_type
        for n in quantized.graph.node
        if any(i in made_by and made_by[i].op_type == "DequantizeLinear" for i in n.input)
    }
    assert set(nodes) <= set(readers)
    # A convolution's sum with the shortcut reads the shortcut's quantized form; nothing else is touched.
    assert {op for name, op in readers.items() if name not in nodes} <= {"Add"}


def test_the_cpu_layout_runs_in_integers(
    search: onnx.ModelProto, thresholds: dict[str, float], tmp_path: Path
) -> None:
    import onnxruntime

    nodes = members(quantizable_layers(search), ["backbone /8", "backbone /16"])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.log_severity_level = 3
    model = quantize(search, thresholds, nodes, "cpu")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node]
    assert ops.count("QLinearConv") == len(nodes)


def test_masks_become_numbers_without_a_cast(search: onnx.ModelProto, thresholds: dict[str, float]) -> None:
    quantized = quantize(search, thresholds, [], "portable")
    masks = {v.name for v in search.graph.input if v.type.tensor_type.elem_type == TensorProto.BOOL}
    readers = {n.op_type for n in quantized.graph.node if masks.intersection(n.input)}
    assert "Cast" not in readers
    assert "Where" in readers


def test_unsigned_integers_are_noticed_by_the_operator_check(
    search: onnx.ModelProto, thresholds: dict[str, float]
) -> None:
    nodes = members(quantizable_layers(search), ["backbone /8"])
    assert not unsupported_nodes(quantize(search, thresholds, nodes, "portable"))
    assert any("UINT8" in line for line in unsupported_nodes(quantize(search, thresholds, nodes, "cpu")))


def test_a_product_of_activations_is_left_alone() -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 2]) for n in ("a", "b", "c")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"], name="m")], "g", ends[:2], ends[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    assert quantizable_layers(model) == []


def convolutions(clip: float | None) -> onnx.ModelProto:
    """Two 1 x 1 convolutions, with a depthwise one and a ReLU (up to ``clip``, where it is given) between them."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 6, 6]) for n in ("x", "y")]
    draws = np.random.default_rng(1)
    weights = {
        "w1": draws.normal(size=(4, 4, 1, 1)),
        "wd": draws.normal(size=(4, 1, 3, 3)),
        "w2": draws.normal(size=(4, 4, 1, 1)),
        "zero": np.array(0.0),
        "top": np.array(clip or 0.0),
    }
    relu = helper.make_node("Relu", ["a"], ["b"], name="relu")
    cut = helper.make_node("Clip", ["a", "zero", "top"], ["b"], name="relu")
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first"),
        relu if clip is None else cut,
        helper.make_node("Conv", ["b", "wd"], ["c"], name="depthwise", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w2"], ["y"], name="last"),
    ]
    constants = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_depthwise_convolutions_stay_in_float() -> None:
    assert [layer.node for layer in quantizable_layers(convolutions(None))] == ["first", "last"]


@pytest.mark.parametrize("clip", [None, 6.0])
def test_a_relu_is_the_saturation_also_where_it_ends_at_six(clip: float | None) -> None:
    model = convolutions(clip)
    feeds = {"x": np.random.default_rng(2).uniform(0, 8, (1, 4, 6, 6)).astype(np.float32)}
    seen = measure_ranges(model, [feeds], threads=1)
    limits = {name: found.absmax for name, found in seen.items()}
    lowest = {name: found.lowest for name, found in seen.items()}
    quantized = quantize(model, limits, ["first", "last"], "cpu", lowest=lowest)
    assert "relu" not in [n.name for n in quantized.graph.node]
    constants = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    pairs = {n.input[0]: n.input[1:] for n in quantized.graph.node if n.op_type == "QuantizeLinear"}
    steps = {name: constants[scale].item() for name, (scale, _) in pairs.items()}
    assert constants[pairs["x"][1]] == 0  # pixels, for example: none is negative
    assert steps["x"] == pytest.approx(limits["x"] / 255)
    assert steps["c"] == pytest.approx((limits["c"] - max(lowest["c"], -limits["c"])) / 255)
    assert pytest.approx(limits["b"] / 255) in list(steps.values())
    assert clip is None or limits["b"] == clip
    exact, close = (outputs(open_model(m, 1), feeds)["y"] for m in (model, quantized))
    assert 0 < np.abs(close - exact).max() < 0.05 * np.abs(exact).max()


def test_the_portable_layout_stays_symmetric() -> None:
    quantized = quantize(
        convolutions(6.0), dict.fromkeys("xabcy", 8.0), ["first"], "portable", lowest={"x": 0.0}
    )
    constants = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    zeros = [
        constants[n.input[2]]
        for n in quantized.graph.node
        if n.op_type.endswith("antizeLinear") and len(n.input) > 2
    ]
    assert zeros
    assert not any(np.any(zero) for zero in zeros)
