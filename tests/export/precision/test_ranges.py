"""Magnitudes are collected exactly and in bounded memory; thresholds do what their names say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from precision_inputs import recorded
from progress_log import ProgressLog

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.export.precision import METHODS, Method
from sttrack_deploy.export.precision.measurements import BINS, TensorRange, largest_values, measure_ranges


def ranged(*samples: np.ndarray) -> TensorRange:
    found = TensorRange()
    for sample in samples:
        found.add(sample, histogram=True)
    return found


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), min_size=1, max_size=6))
def test_the_histogram_loses_nothing_however_the_range_grows(samples: list[list[float]]) -> None:
    arrays = [np.array(s, np.float32) for s in samples]
    found = ranged(*arrays)
    together = np.abs(np.concatenate(arrays))
    assert found.absmax == together.max()
    assert found.counts.sum() == together.size
    assert found.absmax <= found.top
    # Whatever the order of the samples, the bins are those of one histogram of all.
    edges = np.minimum((together * np.float32(BINS / found.top)).astype(int), BINS - 1)
    np.testing.assert_array_equal(found.counts, np.bincount(edges, minlength=BINS))


def test_a_value_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        ranged(np.array([1.0, np.nan], np.float32))


def test_percentile_leaves_an_outlier_out_and_minmax_does_not() -> None:
    values = np.append(np.linspace(0, 1, 100_000, dtype=np.float32), np.float32(50))
    found = ranged(values)
    assert found.threshold("minmax") == 50
    assert found.threshold("percentile") == pytest.approx(1.0, abs=0.1)


def test_entropy_cuts_a_long_tail_and_keeps_a_flat_one() -> None:
    random = np.random.default_rng(0)
    tail = ranged(np.append(random.normal(size=200_000), np.linspace(8, 60, 20)).astype(np.float32))
    assert tail.threshold("entropy") < 20
    flat = ranged(random.uniform(-1, 1, 200_000).astype(np.float32))
    assert flat.threshold("entropy") > 0.9


def test_least_squares_finds_the_threshold_of_the_least_error() -> None:
    random = np.random.default_rng(1)
    values = np.abs(random.laplace(size=100_000)).astype(np.float32)
    found = ranged(values).threshold("mse")

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(np.mean((np.clip(np.round(values / step), -127, 127) * step - values) ** 2))

    assert 3 < found < 0.95 * values.max()
    assert error(found) < 1.02 * min(error(t) for t in np.linspace(1, values.max(), 60))


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_still_has_a_scale(method: Method) -> None:
    assert ranged(np.zeros(10, np.float32)).threshold(method) > 0


def test_every_float_tensor_of_a_graph_is_measured(tiny_bundle: Bundle) -> None:
    model = onnx.load(tiny_bundle.search_path)
    samples = recorded(tiny_bundle, 3)
    log = ProgressLog()
    found = measure_ranges(model, samples.all_searches(), frozenset({"sub"}), threads=1, progress=log)
    assert log.steps == [1, 1, 1]
    floats = {o for n in model.graph.node for o in n.output} - {"x"}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    missing = {o for o in floats if types.get(o) == TensorProto.FLOAT} - set(found)
    assert not missing
    assert {"query_in", "box", "confidence"} <= set(found)
    assert found["sub"].counts.sum() == 3 * 3 * 128 * 128
    assert not found["box"].counts.size
    assert largest_values(found, 1)[0][1] >= 10_000  # the padding's mask value


def test_magnitudes_are_those_of_the_graph() -> None:
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    last = helper.make_node("Neg", ["y"], ["z"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("x", "z")]
    model = helper.make_model(
        helper.make_graph([node, last], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    found = measure_ranges(
        model, [{"x": np.array([1, -3, 2], np.float32)}, {"x": np.array([0.5, 0, 0], np.float32)}]
    )
    assert {name: r.absmax for name, r in found.items()} == {"x": 3.0, "y": 9.0, "z": 9.0}
