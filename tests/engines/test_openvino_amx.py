"""Graphs rewritten for AMX: the same numbers, on any CPU; only how they are grouped and rounded may differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from sttrack_deploy.engines.openvino.amx import (
    has_amx,
    norms_apart,
    products_as_convolutions,
    suited_to_amx,
    symmetric_ranges,
)
from sttrack_deploy.engines.openvino.build import the_core

ROWS, WIDTH, HIDDEN = 40, 16, 24
RANDOM = np.random.default_rng(0)
INNER = RANDOM.normal(size=(WIDTH, HIDDEN)).astype(np.float32)
OUTER = RANDOM.normal(size=(HIDDEN, WIDTH)).astype(np.float32)
STEP = np.float32(1 / 127)


def values(count: int) -> np.ndarray:
    return RANDOM.normal(size=(1, count)).astype(np.float32)


def quantized(port: Any, low: float, high: float) -> Any:
    """As OpenVINO reads QuantizeLinear and DequantizeLinear to UINT8."""
    step = np.float32((high - low) / 255)
    integers = ops.fake_quantize(port, np.float32(low), np.float32(high), np.float32(0), np.float32(255), 256)
    back = ops.convert(ops.convert(integers, "u8"), "f32")
    return ops.multiply(ops.subtract(back, np.float32(round(-low / step))), step)


def int8_matrix(matrix: np.ndarray) -> Any:
    integers = np.rint(matrix / np.abs(matrix).max() * 127).astype(np.int8)
    scales = np.full((1, matrix.shape[1]), STEP, np.float32)
    return ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(scales))


def block(int8: bool) -> openvino.Model:
    """A feed-forward block with its residual and its layer norm, and a product that reads the norm."""
    given = ops.parameter([ROWS, WIDTH], np.float32, name="rows")
    inner, outer = (int8_matrix(INNER), int8_matrix(OUTER)) if int8 else (INNER, OUTER)
    first = quantized(given, -3.0, 4.0) if int8 else given
    hidden = ops.relu(ops.add(ops.matmul(first, inner, False, False), values(HIDDEN)))
    second = quantized(hidden, 0.0, 9.0) if int8 else hidden
    total = ops.add(ops.add(ops.matmul(second, outer, False, False), values(WIDTH)), given)
    norm = ops.mvn(total, np.array([1]), True, 1e-5, "inside_sqrt")
    out = ops.add(ops.multiply(norm, values(WIDTH)), values(WIDTH))
    last = ops.matmul(quantized(out, -5.0, 5.0) if int8 else out, inner, False, False)
    return openvino.Model([out, last], [given], "block")


def computed(model: openvino.Model) -> list[np.ndarray]:
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    rows = np.random.default_rng(1).normal(size=(ROWS, WIDTH)).astype(np.float32)
    found = the_core().compile_model(model.clone(), "CPU", properties)([rows])
    return [np.array(found[i]) for i in range(len(model.outputs))]


def count(model: openvino.Model, kind: str) -> int:
    return sum(op.get_type_name() == kind for op in model.get_ops())


def test_numbers_stay_in_float() -> None:
    model = block(int8=False)
    before = computed(model)
    assert norms_apart(model) == 1
    assert products_as_convolutions(model, least_rows=ROWS) == 3
    assert (count(model, "MatMul"), count(model, "Convolution")) == (0, 3)
    for there, here in zip(before, computed(model), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_a_few_rows_stay_a_product() -> None:
    model = block(int8=False)
    assert products_as_convolutions(model, least_rows=ROWS + 1) == 0
    assert count(model, "MatMul") == 3


def test_quantized_weights_stay_in_int8() -> None:
    model = block(int8=True)
    symmetric_ranges(model)
    assert products_as_convolutions(model, least_rows=ROWS) == 3
    filters = [op.input_value(1).get_node() for op in model.get_ops() if op.get_type_name() == "Convolution"]
    stored = [f.input_value(0).get_node().input_value(0).get_node() for f in filters]
    assert [s.get_element_type() for s in stored] == [openvino.Type.i8] * 3


def test_ranges_about_zero_cut_nothing_off_and_others_stay() -> None:
    model = block(int8=True)
    before = computed(model)
    assert symmetric_ranges(model) == 3
    found = {
        tuple(round(float(op.input_value(i).get_node().data.item()), 4) for i in (1, 2))
        for op in model.get_ops()
        if op.get_type_name() == "FakeQuantize"
    }
    assert found == {(round(-128 * 4 / 127, 4), 4.0), (0.0, 9.0), (round(-128 * 5 / 127, 4), 5.0)}
    norms_apart(model)
    products_as_convolutions(model, least_rows=ROWS)
    for there, here in zip(before, computed(model), strict=True):  # steps are up to 1.15 times as large
        assert np.sqrt(np.mean((here - there) ** 2)) < 0.05 * np.std(there)


@pytest.mark.parametrize(
    ("int8", "precision", "changes"), [(False, "f32", False), (False, "bf16", True), (True, "f32", True)]
)
def test_fp32_is_left_alone(int8: bool, precision: str, changes: bool) -> None:
    model = block(int8)
    before = count(model, "Reshape")
    suited_to_amx(model, precision)
    assert (count(model, "Reshape") > before) == changes


@pytest.mark.parametrize(
    ("flags", "found"),
    [("fpu amx_bf16 avx512_fp16 amx_tile amx_int8", True), ("fpu avx512f amx_tile", False), ("", False)],
)
def test_amx_is_read_from_the_flags(flags: str, found: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbogomips\t: 4200\n")
    assert has_amx(cpuinfo) == found


def test_where_the_system_does_not_say_there_is_none(tmp_path: Path) -> None:
    assert not has_amx(tmp_path / "cpuinfo")
