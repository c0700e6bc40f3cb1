"""The step error is zero for the same graph, grows with damage, and looks away where the target is lost."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sttrack_deploy.export.precision.measurements import StepError, time_ratio


def predictor(shift: float) -> onnx.ModelProto:
    """Box: the input and ``shift``; confidence: the last input."""
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["box"]),
        helper.make_node("Identity", ["sure"], ["confidence"]),
    ]
    ins = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 4]), ("sure", [1]))]
    outs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("box", [1, 4]), ("confidence", [1]))
    ]
    constant = numpy_helper.from_array(np.full((1, 4), shift, np.float32), "shift")
    graph = helper.make_graph(nodes, "g", ins, outs, [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def feeds(sure: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[0.2, 0.2, 0.4, 0.4]], np.float32), "sure": np.array([sure], np.float32)}


def test_error_is_one_minus_iou() -> None:
    error = StepError(predictor(0.0), [feeds(1.0), feeds(0.9)])
    assert error(predictor(0.0)) == 0
    # Two squares of side 0.2, moved by half of it both ways: 1/4 shared of 7/4.
    assert error(predictor(0.1)) == pytest.approx(1 - 1 / 7, rel=1e-4)
    assert error(predictor(float("nan"))) == float("inf")


def test_lost_frames_do_not_count() -> None:
    samples = [feeds(0.9), feeds(0.1), feeds(0.6)]
    assert len(StepError(predictor(0.0), samples, sure_above=0.5)) == 2
    assert len(StepError(predictor(0.0), samples, sure_above=0.95)) == 3


def test_a_graph_takes_as_long_as_itself() -> None:
    ratio = time_ratio(predictor(0.0), predictor(0.0), [feeds(1.0)], 3)
    assert np.isfinite(ratio)
    assert ratio > 0
