"""A bundle of two graphs that answer a constant, for engines of the tests' own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

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
    CropSpec,
    GraphSpec,
    Manifest,
    StateSpec,
    TensorSpec,
    TrackingPolicy,
)

__all__ = ["plain_manifest", "write_plain_bundle"]

TYPES = {"uint8": TensorProto.UINT8, "bool": TensorProto.BOOL, "float32": TensorProto.FLOAT}
Batch = int | Literal["dynamic"]

ANSWERS = {"seen": [0.5], BOX: [0.25, 0.25, 0.75, 0.75], CONFIDENCE: 0.75}


def plain_manifest(
    name: str,
    crop: CropSpec,
    tracking: TrackingPolicy | None = None,
    answers: dict[str, object] | None = None,
) -> Manifest:
    return _made(name, crop, tracking, answers or {}, 1)[0]


def write_plain_bundle(
    folder: Path,
    name: str,
    crop: CropSpec,
    tracking: TrackingPolicy | None = None,
    answers: dict[str, object] | None = None,
    batch: Batch = 1,
) -> Path:
    """``answers``: values of ``box``, ``confidence`` or the state ``seen`` other than :data:`ANSWERS`."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest, files = _made(name, crop, tracking, answers or {}, batch)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def _made(
    name: str,
    crop: CropSpec,
    tracking: TrackingPolicy | None,
    answers: dict[str, object],
    batch: int | Literal["dynamic"],
) -> tuple[Manifest, dict[str, bytes]]:
    values = {**ANSWERS, **answers}
    graphs, files = {}, {}
    n: int | Literal["batch"] = "batch" if batch == "dynamic" else batch
    seen = TensorSpec("seen", "float32", (n, 1))
    for graph, image, mask, size, more, outputs in (
        ("template", TEMPLATE_IMAGE, TEMPLATE_MASK, crop.template_size, (), (seen,)),
        (
            *("search", SEARCH_IMAGE, SEARCH_MASK, crop.search_size, (seen,)),
            (TensorSpec(BOX, "float32", (n, 4)), TensorSpec(CONFIDENCE, "float32", (n,))),
        ),
    ):
        cells = size // crop.stride
        inputs = (
            TensorSpec(image, "uint8", (n, size, size, 3)),
            TensorSpec(mask, "bool", (n, cells, cells)),
            *more,
        )
        nodes = [
            helper.make_node(
                "Constant",
                [],
                [o.name],
                value=helper.make_tensor(
                    o.name, TensorProto.FLOAT, (1, *map(int, o.shape[1:])), _flat(values[o.name])
                ),
            )
            for o in outputs
        ]
        ins, outs = (
            [helper.make_tensor_value_info(t.name, TYPES[t.dtype], t.shape) for t in side]
            for side in (inputs, outputs)
        )
        model = helper.make_model(
            helper.make_graph(nodes, graph, ins, outs),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=9,
        )
        onnx.checker.check_model(model)
        data = files[f"{graph}.onnx"] = model.SerializeToString()
        graphs[graph] = GraphSpec(
            f"{graph}.onnx", hashlib.sha256(data).hexdigest(), len(data), inputs, outputs
        )
    manifest = Manifest(
        name=name,
        crop=crop,
        template=graphs["template"],
        search=graphs["search"],
        state=(StateSpec("seen", "seen", "seen", None),),
        model={},
        batch=batch,
        opset=17,
        tracking=tracking or TrackingPolicy(),
    )
    return manifest, files


def _flat(value: object) -> list[float]:
    return [float(v) for v in value] if isinstance(value, list | tuple) else [float(value)]  # type: ignore[arg-type]
