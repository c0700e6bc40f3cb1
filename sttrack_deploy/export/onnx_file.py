"""From a graph of the network to a simplified, checked, deterministic ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir
import onnxslim
import torch

from sttrack_deploy.bundle import TensorSpec
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.export.graphs import GraphSource

__all__ = ["DEFAULT_OPSET", "OPSETS", "add_metadata", "build_onnx", "tensor_specs"]

DEFAULT_OPSET = 20
OPSETS = range(18, 21)
"""torch's exporter gives valid graphs for these; 17 comes out invalid (docs/semantics.md)."""

_NO_FUSION = ("FusionGemm", "FusionGemmMul", "FusionGemmAdd")
"""onnxslim's Gemm fusions: one of them (0.1.98) leaves dangling inputs behind, and Gemm with reshapes around
it is worse to quantize than MatMul and Add, which every engine fuses itself."""

_IR_VERSION = 10  # readable by ONNX Runtime 1.20 and TensorRT 10


def build_onnx(source: GraphSource, opset: int, dynamic_batch: bool) -> onnx.ModelProto:
    """Export, simplify, strip and check one graph.

    Raises:
        UsageError: the opset is not one the exporter can write.
        UserError: the checker refuses the result.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} cannot be written; choose {OPSETS.start} to {OPSETS.stop - 1}")
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    shapes = tuple(batch for _ in source.example) if dynamic_batch else None
    with _quiet():
        program = torch.onnx.export(
            source.module,
            source.example,
            input_names=list(source.inputs),
            output_names=list(source.outputs),
            opset_version=opset,
            dynamic_shapes=shapes,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
        if program is None:
            raise UserError("torch's ONNX exporter returned nothing; report this with the command you typed")
        model = _sorted(onnxslim.slim(program.model_proto, skip_fusion_patterns=list(_NO_FUSION)))
    _strip(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the exported graph is not valid ONNX: {reason}") from error
    return model


def add_metadata(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """Put key-value facts into the file, sorted by key."""
    onnx.helper.set_model_props(model, dict(sorted(facts.items())))


def tensor_specs(values: list[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Names, numpy dtypes and shapes of a graph's inputs or outputs."""
    return tuple(
        TensorSpec(
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its nodes in topological order, which onnxslim's fusions do not keep."""
    graph_model = ir.from_proto(model)
    graph_model.graph.sort()
    return ir.to_proto(graph_model)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what differs from run to run or tells of the machine: source lines, doc strings, metadata."""
    model.ir_version = min(model.ir_version, _IR_VERSION)
    model.producer_name, model.producer_version = "sttrack-deploy", ""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "sttrack", ""
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer, [graph]):
        for item in part:
            del item.metadata_props[:]
            item.doc_string = ""
    # Inferred shapes are rebuilt by whoever reads the file; their order is not stable.
    del graph.value_info[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' chatter off the terminal; errors still come as exceptions."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
