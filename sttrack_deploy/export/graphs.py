"""The network as the two graphs of the recurrent contract, each as a simplified, checked, deterministic ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import onnxslim
import torch
from torch import Tensor, nn

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    StateSpec,
    TensorSpec,
)
from sttrack_deploy.errors import UsageError, UserError, one_line
from sttrack_deploy.export.graph_rewrites import StreamlinedDense, streamlined
from sttrack_deploy.models.corner_network import STTrack, TrackState
from sttrack_deploy.models.dense_network import DenseState, DenseSTTrack
from sttrack_deploy.models.network import Network

__all__ = [
    "DEFAULT_OPSET",
    "OPSETS",
    "GraphSource",
    "add_metadata",
    "build_onnx",
    "search_source",
    "state_specs",
    "template_source",
    "tensor_specs",
]


def state_specs(network: Network) -> tuple[StateSpec, ...]:
    """The tensors of a network's state and their names in the graphs; the constant ones come first."""
    constant = network.constant_state
    changing = [name for name in network.state_type._fields if name not in constant]
    return (
        *(StateSpec(name, name, name, None) for name in constant),
        # Names sort alike on both sides: servers that pair state by position need it.
        *(StateSpec(name, name, f"{name}_in", f"{name}_out") for name in changing),
    )


class TemplateGraph(nn.Module):
    """Template crop to the whole initial state."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, template_image: Tensor, template_mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.initial_state(template_image, template_mask))


class SearchGraph(nn.Module):
    """Search crop and state to box, confidence and the next state's changing part; the network streamlined."""

    def __init__(self, network: STTrack) -> None:
        super().__init__()
        self.step = streamlined(network)

    def forward(
        self,
        search_image: Tensor,
        search_mask: Tensor,
        target_features: Tensor,
        target_position: Tensor,
        target_mask: Tensor,
        memory_in: Tensor,
        memory_valid_in: Tensor,
        query_in: Tensor,
    ) -> tuple[Tensor, ...]:
        state = TrackState(
            target_features, target_position, target_mask, memory_in, memory_valid_in, query_in
        )
        box, confidence, after = self.step(search_image, search_mask, state)
        return box, confidence, after.memory, after.memory_valid, after.query


class DenseSearchGraph(nn.Module):
    """The same for the network with a dense head."""

    def __init__(self, network: DenseSTTrack) -> None:
        super().__init__()
        self.network = StreamlinedDense(network)

    def forward(
        self,
        search_image: Tensor,
        search_mask: Tensor,
        pixel_kernels: Tensor,
        pixel_offset: Tensor,
        depth_kernels: Tensor,
        target_tokens: Tensor,
        memory_in: Tensor,
        memory_valid_in: Tensor,
        query_in: Tensor,
        shape_in: Tensor,
    ) -> tuple[Tensor, ...]:
        constant = (pixel_kernels, pixel_offset, depth_kernels, target_tokens)
        state = DenseState(*constant, memory_in, memory_valid_in, query_in, shape_in)
        step, after = self.network.step(search_image, search_mask, state)
        return step.box, step.confidence, after.memory, after.memory_valid, after.query, after.shape


@dataclass(frozen=True, slots=True)
class GraphSource:
    """What an exporter needs of one graph: module, example inputs, names in order."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def template_source(network: Network, batch: int) -> GraphSource:
    """The template graph with example inputs of that batch."""
    c = network.config
    image = torch.zeros(batch, c.template_size, c.template_size, 3, dtype=torch.uint8)
    mask = torch.zeros(batch, c.template_cells, c.template_cells, dtype=torch.bool)
    return GraphSource(
        TemplateGraph(network).eval(),
        (image, mask),
        (TEMPLATE_IMAGE, TEMPLATE_MASK),
        tuple(s.initial for s in state_specs(network)),
    )


def search_source(network: Network, batch: int) -> GraphSource:
    """The search graph with example inputs of that batch."""
    c = network.config
    template = template_source(network, batch)
    with torch.no_grad():
        state: tuple[Tensor, ...] = template.module(*template.example)
    image = torch.zeros(batch, c.search_size, c.search_size, 3, dtype=torch.uint8)
    mask = torch.zeros(batch, c.search_cells, c.search_cells, dtype=torch.bool)
    specs = state_specs(network)
    graph = DenseSearchGraph(network) if isinstance(network, DenseSTTrack) else SearchGraph(network)
    return GraphSource(
        graph.eval(),
        (image, mask, *(tensor.contiguous() for tensor in state)),
        (SEARCH_IMAGE, SEARCH_MASK, *(s.input for s in specs)),
        (BOX, CONFIDENCE, *(s.output for s in specs if s.output)),
    )


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
        reason = one_line(error)
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
