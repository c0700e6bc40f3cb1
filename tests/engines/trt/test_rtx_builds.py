"""The real parser and builder: TensorRT for RTX builds without a GPU. Every graph that ships goes through it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from recurrent_bundle import write_recurrent_bundle

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.engines.building import BatchRange, BuildOptions, SilentReport, builder_of
from sttrack_deploy.engines.tensorrt.plan_build import trial_build
from sttrack_deploy.engines.tensorrt.plan_file import plan_folder, read_manifest
from sttrack_deploy.engines.tensorrt.toolkit import RTX
from sttrack_deploy.errors import UserError
from sttrack_deploy.export.operator_check import unsupported_nodes
from sttrack_deploy.export.precision import fp16
from sttrack_deploy.export.precision.bundle_writer import Graphs, write_variant

trt = pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "sttrack-deploy[rtx]"')

EXPORT = Path(__file__).resolve().parents[3] / "export"
SHIPPED = sorted(path.parent.name for path in EXPORT.glob("*/manifest.json"))
FIXED, DYNAMIC = BatchRange(1, 1, 1), BatchRange(1, 2, 4)


def graphs_of(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    return {"template": onnx.load(bundle.template_path), "search": onnx.load(bundle.search_path)}


def convolutions(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Conv" for node in model.graph.node)


def halved(bundle: Bundle, folder: Path) -> Bundle:
    """FP16 with what always stays in FP32."""

    def half(model: onnx.ModelProto) -> onnx.ModelProto:
        parts = fp16.parts(model)
        kept = [n for name in parts if name in KEPT for n in parts[name]]
        return fp16.convert(model, kept)

    made = graphs_of(bundle)
    return write_variant(
        folder, bundle, Graphs(half(made["template"]), half(made["search"])), {"name": "fp16"}, weights=False
    )


KEPT = ("layer norms", "corner softmax, box and confidence", "position encoding")


@pytest.mark.parametrize("batch", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundles(name: str, batch: BatchRange, tmp_path: Path) -> None:
    bundle = open_bundle(EXPORT / name)
    if bundle.manifest.batch != "dynamic" and batch is DYNAMIC:
        pytest.skip(f"{name} takes a fixed batch")
    made = trial_build(bundle, batch)
    for graph, model in graphs_of(bundle).items():
        found = made[graph].kernels
        assert made[graph].warnings == ()
        assert sum(found["convolutions"].values()) == convolutions(model)  # each with a kernel of its own
        assert made[graph].scratch_bytes > 0
        if bundle.manifest.precision["name"] == "fp32":
            assert set(found["convolutions"]) == {"FP32"}
            assert set(found["products"]) <= {"FP32"}
    if bundle.manifest.precision["name"] != "fp32" or batch is FIXED:
        return
    half = halved(bundle, tmp_path / "half")
    made = trial_build(half, batch)
    for graph, model in graphs_of(half).items():
        found = made[graph].kernels
        assert made[graph].warnings == ()
        assert found["convolutions"] == {"FP16": convolutions(model)}
        assert found["products"].get("FP32", 0) <= 1
        assert all(types.startswith(("FP16", "FP32")) for types in found["products"])
    assert made["search"].kernels["fused_attention"] > 0


def test_turing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Refused with the reason in FP32, built in FP16; and the failed build leaves nothing behind in the next one."""
    with pytest.raises(
        UserError, match=r"FP32 GEMM is not supported.*on Turing \(7\.5\) only fp16 bundles run"
    ):
        trial_build(tiny_bundle, capabilities=("7.5",))
    made = trial_build(halved(tiny_bundle, tmp_path / "half"), capabilities=("7.5",))
    assert "FP32" not in made["search"].kernels["products"]


def test_a_build_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path))
    bundle = write_recurrent_bundle(tmp_path / "recurrent", batch=None)
    phases: list[str] = []

    class Heard(SilentReport):
        stop = False

        def phase(self, name: str, parent: str | None, steps: int) -> None:
            phases.append(name)

        def step(self, name: str, done: int) -> bool:
            return not self.stop

    options = BuildOptions(batch=BatchRange(1, 2, 4), compute_capabilities=("8.9", "12.0"))
    stopping = Heard()
    stopping.stop = True
    with pytest.raises(KeyboardInterrupt):
        builder_of("tensorrt-rtx")(bundle, options, stopping)
    assert not plan_folder(bundle, RTX).exists()
    built = builder_of("tensorrt-rtx")(bundle, options, Heard())
    assert len(phases) > 10
    assert (built.files[0]).read_bytes()[:4] == b"vtrt"
    recorded = read_manifest(plan_folder(bundle, RTX), "")
    assert (recorded.targets, recorded.tensorrt) == (["8.9", "12.0"], trt.__version__)
    assert recorded.search.kernels["kernels"] > 0
    assert builder_of("tensorrt-rtx")(bundle, options, Heard()).facts["reused"]


# What the operator check says, and what the library does.

Shape = Sequence[int | str]


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape]],
    constants: dict[str, Any] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    ins, outs = (
        [helper.make_tensor_value_info(n, *p) for n, p in side.items()] for side in (inputs, outputs)
    )
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", ins, outs, weights),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
    )


F, D, U, B = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.UINT8, TensorProto.BOOL
SQUARE: Shape = (1, 4, 8, 8)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        op, inputs.split(" "), outputs.split(), name=f"{op}_{outputs}".replace(" ", "_"), **attributes
    )


def quantized(dtype: Any, zero: int) -> onnx.ModelProto:
    return graph(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"), node("Conv", "d w")],
        {"x": (F, SQUARE)},
        {"y": (F, (1, 4, 8, 8))},
        {"s": np.float32(0.1), "z": np.array(zero, dtype), "w": np.ones((4, 4, 1, 1), np.float32)},
    )


def resized(**attributes: Any) -> onnx.ModelProto:
    return graph(
        [node("Resize", "x  s", **attributes)],
        {"x": (F, SQUARE)},
        {"y": (F, (1, 4, 4, 4))},
        {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
    )


def attention(dtype: int) -> onnx.ModelProto:
    shape = (dtype, (1, 2, 64, 64))
    return graph([node("Attention", "q k v")], dict.fromkeys("qkv", shape), {"y": shape}, opset=23)


def largest(count: int) -> onnx.ModelProto:
    return graph(
        [node("TopK", "x k", "y i")],
        {"x": (F, (1, 6000))},
        {"y": (F, (1, count)), "i": (TensorProto.INT64, (1, count))},
        {"k": np.array([count], np.int64)},
    )


def plain(op: str, dtype: int, **attributes: Any) -> onnx.ModelProto:
    return graph([node(op, "x", **attributes)], {"x": (dtype, SQUARE)}, {"y": (dtype, SQUARE)})


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "relu": lambda: plain("Relu", F),
    "relu fp16": lambda: plain("Relu", TensorProto.FLOAT16),
    "float64": lambda: graph(
        [node("Cast", "x", "c", to=D), node("Relu", "c", "r"), node("Cast", "r", to=F)],
        {"x": (F, SQUARE)},
        {"y": (F, SQUARE)},
    ),
    "uint8 image": lambda: graph(
        [node("Cast", "x", to=F)], {"x": (U, (1, 8, 8, 3))}, {"y": (F, (1, 8, 8, 3))}
    ),
    "resize": lambda: resized(mode="linear"),
    "resize antialiased": lambda: resized(mode="linear", antialias=1),
    "int8": lambda: quantized(np.int8, 0),
    "int8 with a zero point": lambda: quantized(np.int8, 3),
    "uint8 for int8": lambda: quantized(np.uint8, 0),
    "uint8 with a zero point": lambda: quantized(np.uint8, 128),
    "top 100": lambda: largest(100),
    "top 5000": lambda: largest(5000),
    "attention fp16": lambda: attention(TensorProto.FLOAT16),
    "attention fp32": lambda: attention(F),
    "layer norm": lambda: graph(
        [node("LayerNormalization", "x w b", axis=-1)],
        {"x": (F, (1, 4, 8))},
        {"y": (F, (1, 4, 8))},
        {"w": np.ones(8, np.float32), "b": np.zeros(8, np.float32)},
    ),
    "computed axes": lambda: graph(
        [node("ReduceSum", "x a", keepdims=0)],
        {"x": (F, (1, 4)), "a": (TensorProto.INT64, (1,))},
        {"y": (F, (1,))},
    ),
    "no such operator": lambda: graph([node("Det", "x")], {"x": (F, (1, 4, 4))}, {"y": (F, (1,))}),
}


SAID: list[str] = []


class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
    """The library keeps to the first logger that it is given."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: Any, msg: str) -> None:
        if severity in (severity.WARNING, severity.ERROR, severity.INTERNAL_ERROR):
            SAID.append(msg)


@functools.cache
def logger() -> Logger:
    return Logger()


def real_answer(model: onnx.ModelProto) -> str:
    """``taken``, or what the library says; a warning that it takes UINT8 for INT8 counts as a refusal."""
    SAID.clear()
    builder = trt.Builder(logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parsed = trt.OnnxParser(network, logger()).parse(model.SerializeToString())
    plan = builder.build_serialized_network(network, builder.create_builder_config()) if parsed else None
    saturating = any("Defaulting to INT8" in text for text in SAID)
    return "taken" if plan is not None and not saturating else " ".join(SAID) or "not taken"


@pytest.mark.parametrize("name", GRAPHS)
def test_the_operator_check_says_what_the_library_does(name: str) -> None:
    model = GRAPHS[name]()
    problems = unsupported_nodes(model)
    answer = real_answer(model)
    assert (answer == "taken") == (not problems), f"the check: {problems}; the library: {answer[:500]}"


def test_the_documented_polygraphy_commands(tmp_path: Path) -> None:
    pytest.importorskip("polygraphy", reason='not installed: pip install "sttrack-deploy[verify]"')
    bundle = write_recurrent_bundle(tmp_path / "recurrent")
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1", "POLYGRAPHY_AUTOINSTALL_DEPS": "0"}
    page = (Path(__file__).resolve().parents[3] / "docs/engines/tensorrt.md").read_text(encoding="utf-8")
    prefix = "    POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy "
    lines = [line for line in page.replace("\\\n", " ").splitlines() if line.startswith(prefix)]
    assert [line.removeprefix(prefix).split()[0] for line in lines] == ["inspect", "convert"]
    plan = tmp_path / "search.plan"
    for line in lines:
        # A small graph in place of the shipped one.
        words = (
            line.removeprefix(prefix)
            .replace("export/sttrack-nano/search.onnx", str(bundle.search_path))
            .split()
        )
        run = subprocess.run(
            [sys.executable, str(Path(sys.executable).with_name("polygraphy")), *words],
            env=environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert run.returncode == 0, run.stdout + run.stderr
    assert plan.read_bytes()[:4] == b"vtrt"
