"""Smoothing changes nothing in float, and evens out what INT8 has to represent."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from precision_inputs import outputs, recorded

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.export.precision.int8 import (
    Factors,
    activations,
    quantize,
    smooth,
    smoothed_name,
    smoothing_factors,
)
from sttrack_deploy.export.precision.layers import Layer, quantizable_layers
from sttrack_deploy.export.precision.measurements import all_tensors, measure_ranges, open_model


@pytest.fixture(scope="module")
def given(tiny_bundle: Bundle) -> tuple[onnx.ModelProto, list[Layer], Factors]:
    model = onnx.load(tiny_bundle.search_path)
    layers = quantizable_layers(model)
    return model, layers, smoothing_factors(model, layers, recorded(tiny_bundle).all_searches(), 1)


def test_float_numbers_stay(given: tuple[onnx.ModelProto, list[Layer], Factors], tiny_bundle: Bundle) -> None:
    model, layers, factors = given
    before = model.SerializeToString()
    smoothed = smooth(model, layers, factors)
    assert model.SerializeToString() == before
    onnx.checker.check_model(smoothed, full_check=True)
    sessions = [open_model(m, 1) for m in (model, smoothed)]
    for feeds in recorded(tiny_bundle, 2, seed=1).all_searches():
        exact, same = (outputs(s, dict(feeds)) for s in sessions)
        for name, value in exact.items():
            np.testing.assert_allclose(same[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    # Weights are replaced, not added.
    assert len(smoothed.SerializeToString()) < 1.1 * len(before)


def test_convolutions_have_no_factors(given: tuple[onnx.ModelProto, list[Layer], Factors]) -> None:
    model, layers, factors = given
    convolutions = {n.input[0] for n in model.graph.node if n.op_type == "Conv"}
    assert factors
    assert not convolutions.intersection(factors)
    assert smooth(model, [la for la in layers if la.group.startswith("backbone")], factors) == model


def test_layers_that_are_not_chosen_read_what_they_read(
    given: tuple[onnx.ModelProto, list[Layer], Factors],
) -> None:
    model, layers, factors = given
    chosen = [la for la in layers if la.group == "encoder 0 feed-forward"]
    smoothed = {n.name: n for n in smooth(model, chosen, factors).graph.node}
    for layer in layers:
        expected = smoothed_name(layer.activation) if layer in chosen else layer.activation
        assert smoothed[layer.node].input[0] == expected


def test_channels_become_more_alike_and_int8_more_exact(
    given: tuple[onnx.ModelProto, list[Layer], Factors], tiny_bundle: Bundle
) -> None:
    model, layers, factors = given
    name = next(la.activation for la in layers if la.group == "encoder 1 feed-forward")
    samples = list(recorded(tiny_bundle, 3).all_searches())
    smoothed = smooth(model, layers, factors)
    spread = {}
    for values in all_tensors(smoothed, samples, 1):
        for tensor in (name, smoothed_name(name)):
            channels = np.abs(values[tensor]).reshape(-1, values[tensor].shape[-1]).max(0)
            spread[tensor] = float(channels.max() / np.median(channels))
    assert spread[smoothed_name(name)] < spread[name]
    linear = [la for la in layers if la.activation in factors]
    nodes = [la.node for la in linear]
    ranges = measure_ranges(smoothed, samples, activations(model, nodes) | activations(smoothed, nodes), 1)
    limits = {n: r.threshold("minmax") for n, r in ranges.items()}
    exact = [outputs(open_model(model, 1), dict(f))["query_out"] for f in samples]
    off = []
    for candidate in (model, smoothed):
        session = open_model(quantize(candidate, limits, nodes, "portable"), 1)
        pairs = zip(samples, exact, strict=True)
        off.append(np.mean([np.abs(outputs(session, dict(f))["query_out"] - e).mean() for f, e in pairs]))
    assert off[1] < off[0]
