"""Sums of INT8 products must not saturate, whatever the CPU's instructions: x86 without VNNI adds them in 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from int8_graphs import largest_product

from sttrack_deploy.engines.onnxruntime.engine import session_options
from sttrack_deploy.engines.openvino.build import compiled_blob, the_core
from sttrack_deploy.engines.openvino.saturation import int8_saturates

PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32"}

every_layout = pytest.mark.parametrize(
    ("operator", "activation", "float_weights"),
    [
        ("Conv", np.int8, True),  # as bundles have it
        ("Conv", np.uint8, False),  # the layout cpu
        ("MatMul", np.int8, False),
        ("MatMul", np.uint8, True),
    ],
)


@every_layout
def test_in_onnx_runtime(operator: str, activation: Any, float_weights: bool) -> None:
    model, feeds, expected = largest_product(operator, activation, float_weights)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, rtol=0.01)


@every_layout
def test_in_openvino(operator: str, activation: Any, float_weights: bool, tmp_path: Path) -> None:
    """Weights of 7 bits, which some CPUs need, are off by half a step of 63 at most."""
    model, feeds, expected = largest_product(operator, activation, float_weights)
    onnx.save(model, tmp_path / "product.onnx")
    core = the_core()
    compiled = core.import_model(
        compiled_blob(core, tmp_path / "product.onnx", PROPERTIES, 1), "CPU", PROPERTIES
    )
    np.testing.assert_allclose(compiled(feeds)[0], expected, rtol=0.02)
    info = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    ran_in = {str(i["layerType"].astype(str)): str(i["runtimePrecision"].astype(str)) for i in info}
    assert {ran_in.get(name) for name in ("Convolution", "MatMul", "FullyConnected")} & {"i8", "u8"}


def test_weights_keep_8_bits_where_sums_are_exact(tmp_path: Path) -> None:
    """The largest weight, 127, which 7 bits would make 126: a step less of the quantized output."""
    if int8_saturates(the_core()):
        pytest.skip("INT8 sums saturate on this CPU")
    model, feeds, expected = largest_product("Conv", np.int8, True)
    onnx.save(model, tmp_path / "product.onnx")
    blob = compiled_blob(the_core(), tmp_path / "product.onnx", PROPERTIES, 1)
    found = the_core().import_model(blob, "CPU", PROPERTIES)(feeds)[0]
    step = next(onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name == "step")
    np.testing.assert_array_equal(found, step * np.rint(expected / step))
    assert step * np.rint(expected * 126 / 127 / step) != found.max()
