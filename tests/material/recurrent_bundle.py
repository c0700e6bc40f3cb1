"""A bundle made by hand in a millisecond: two small graphs with constant, recurrent and bool state, for any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    MANIFEST,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
    CropSpec,
    GraphSpec,
    Manifest,
    StateSpec,
    TensorSpec,
    open_bundle,
)
from sttrack_deploy.files import sha256_of

__all__ = ["crops", "write_recurrent_bundle"]

TYPES = {"uint8": TensorProto.UINT8, "bool": TensorProto.BOOL, "float32": TensorProto.FLOAT}
TEMPLATE, SEARCH, STRIDE = 16, 32, 8

Crop = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""An image and its padding mask."""


def write_recurrent_bundle(folder: Path, batch: int | None = 1, gain: float = 0.5) -> Bundle:
    """Its box depends on both crops, both masks and all of the state.

    Args:
        batch: ``None`` for a dynamic one.
        gain: a weight, to make another bundle.
    """
    n: int | Literal["batch"] = "batch" if batch is None else batch
    feature, flag = TensorSpec("feature", "float32", (n, 4)), TensorSpec("flag", "bool", (n, 2))
    memory = {name: TensorSpec(name, "float32", (n, 2, 3)) for name in ("memory", "memory_in", "memory_out")}
    folder.mkdir(parents=True)
    template = _write(
        folder / "template.onnx",
        [
            TensorSpec(TEMPLATE_IMAGE, "uint8", (n, TEMPLATE, TEMPLATE, 3)),
            TensorSpec(TEMPLATE_MASK, "bool", (n, TEMPLATE // STRIDE, TEMPLATE // STRIDE)),
        ],
        [feature, flag, memory["memory"]],
        [
            *_means(TEMPLATE_IMAGE, TEMPLATE_MASK),
            helper.make_node("Identity", ["seen"], ["feature"]),
            helper.make_node("Slice", ["seen", "zero", "two", "one"], ["front"]),
            helper.make_node("Greater", ["front", "half"], ["flag"]),
            helper.make_node("Unsqueeze", ["color", "one"], ["row"]),
            helper.make_node("Concat", ["row", "row"], ["memory"], axis=1),
        ],
        gain,
    )
    search = _write(
        folder / "search.onnx",
        [
            TensorSpec(SEARCH_IMAGE, "uint8", (n, SEARCH, SEARCH, 3)),
            TensorSpec(SEARCH_MASK, "bool", (n, SEARCH // STRIDE, SEARCH // STRIDE)),
            feature,
            flag,
            memory["memory_in"],
        ],
        [TensorSpec(BOX, "float32", (n, 4)), TensorSpec(CONFIDENCE, "float32", (n,)), memory["memory_out"]],
        [
            *_means(SEARCH_IMAGE, SEARCH_MASK),
            helper.make_node("Slice", ["memory_in", "one", "two", "one"], ["kept"]),
            helper.make_node("ReduceMean", ["memory_in"], ["past"], axes=[1], keepdims=0),
            helper.make_node("Mul", ["past", "gain"], ["faded"]),
            helper.make_node("Add", ["color", "faded"], ["fresh"]),
            helper.make_node("Unsqueeze", ["fresh", "one"], ["row"]),
            helper.make_node("Concat", ["kept", "row"], ["memory_out"], axis=1),
            helper.make_node("Cast", ["flag"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["number", "number"], ["numbers"], axis=1),
            helper.make_node("Concat", ["fresh", "padding"], ["now"], axis=1),
            helper.make_node("Sum", ["now", "feature", "numbers", "seen"], ["sum"]),
            helper.make_node("Mul", ["sum", "tenth"], [BOX]),
            helper.make_node("ReduceMean", [BOX], [CONFIDENCE], axes=[1], keepdims=0),
        ],
        gain,
    )
    manifest = Manifest(
        name="recurrent",
        crop=CropSpec(TEMPLATE, 2.0, SEARCH, 4.0, STRIDE),
        template=template,
        search=search,
        state=(
            StateSpec("feature", "feature", "feature", None),
            StateSpec("flag", "flag", "flag", None),
            StateSpec("memory", "memory", "memory_in", "memory_out"),
        ),
        model={},
        batch="dynamic" if batch is None else batch,
        opset=17,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return open_bundle(folder)


def crops(seed: int, frames: int, batch: int = 1) -> tuple[Crop, list[Crop]]:
    """A template crop with its mask, and search crops with theirs."""
    random = np.random.default_rng(seed)

    def pair(size: int) -> Crop:
        cells = size // STRIDE
        image = random.integers(0, 256, (batch, size, size, 3), np.uint8) // random.integers(
            1, 5, (batch, 1, 1, 3)
        )
        return image.astype(np.uint8), np.asarray(random.random((batch, cells, cells)) < 0.3)

    return pair(TEMPLATE), [pair(SEARCH) for _ in range(frames)]


def _means(image: str, mask: str) -> list[Any]:
    """``seen`` (B, 4): mean color in 0..1 and share of padding; its parts ``color`` and ``padding``."""
    return [
        helper.make_node("Cast", [image], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["color"]),
        helper.make_node("Cast", [mask], ["cells"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cells"], ["share"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["share", "one"], ["padding"]),
        helper.make_node("Concat", ["color", "padding"], ["seen"], axis=1),
    ]


def _write(
    path: Path, inputs: list[TensorSpec], outputs: list[TensorSpec], nodes: list[Any], gain: float
) -> GraphSpec:
    scalars = {"white": 255.0, "gain": gain, "tenth": 0.1, "half": 0.3}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in scalars.items()]
    constants += [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("zero", 0), ("one", 1), ("two", 2))
    ]
    ins, outs = (
        [helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape) for spec in side]
        for side in (inputs, outputs)
    )
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, path.stem, ins, outs, [c for c in constants if c.name in used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return GraphSpec(path.name, sha256_of(path), path.stat().st_size, tuple(inputs), tuple(outputs))
