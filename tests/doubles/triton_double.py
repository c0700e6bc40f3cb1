"""What a Triton server does with a repository, as far as this project relies on it, from its own configuration files.

Configurations are read through tritonclient's ModelConfig. Inputs are held against them as the server does. A
sequence's state is kept by its correlation id, begins as the configuration says, and requests of different sequences
run as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sttrack_deploy.errors import UserError
from sttrack_deploy.integrations.triton.client import Arrays, Request

DTYPES = {"TYPE_FP32": "float32", "TYPE_BOOL": "bool", "TYPE_UINT8": "uint8", "TYPE_INT64": "int64"}
ORT = {"tensor(float)": "float32", "tensor(bool)": "bool", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}


class Refused(UserError):
    """The server would answer with an error, and the client raise this."""


class Model:
    def __init__(self, folder: Path) -> None:
        self.config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert self.config.name == folder.name
        assert self.config.backend == "onnxruntime"
        self.session = onnxruntime.InferenceSession(str(folder / "1/model.onnx"))
        self.states: dict[int, Arrays] = {}
        self.batches: list[int] = []
        self._check_graph()

    def dims(self, port: Any) -> list[int]:
        return ([-1] if self.config.max_batch_size else []) + list(port.dims)

    def kind(self, port: Any) -> str:
        return DTYPES[model_config_pb2.DataType.Name(port.data_type)]

    def _check_graph(self) -> None:
        """Every port of the graph is named by the configuration, in type and shape, and the other way round."""
        batching = self.config.sequence_batching
        states, batch = batching.state, [-1] if self.config.max_batch_size else []
        ins = {p.name: (self.kind(p), self.dims(p)) for p in self.config.input}
        ins |= {s.input_name: (self.kind(s), self.dims(s)) for s in states}
        ins |= {c.name: ("bool", [*batch, 1]) for c in batching.control_input}
        outs = {p.name: (self.kind(p), self.dims(p)) for p in self.config.output}
        outs |= {s.output_name: (self.kind(s), self.dims(s)) for s in states}
        for ports, wanted in ((self.session.get_inputs(), ins), (self.session.get_outputs(), outs)):
            seen = {p.name: (ORT[p.type], [-1 if isinstance(d, str) else d for d in p.shape]) for p in ports}
            assert seen == wanted, (seen, wanted)

    def feed(self, request: Request) -> Arrays:
        """One request's inputs, its state and control tensors among them."""
        feed: Arrays = {}
        for port in self.config.input:
            if port.name not in request.inputs:
                raise Refused(f"expected input {port.name}")
            value = request.inputs[port.name]
            shape = [1, *port.dims] if self.config.max_batch_size else list(port.dims)
            if list(value.shape) != shape or value.dtype.name != self.kind(port):
                raise Refused(f"{port.name}: {value.dtype} {value.shape}, not {self.kind(port)} {shape}")
            feed[port.name] = np.array(value)
        if set(request.inputs) - set(feed):
            raise Refused(f"unexpected inputs {set(request.inputs) - set(feed)}")
        if self.config.HasField("sequence_batching"):
            self._begin(request)
            batch = [1] if self.config.max_batch_size else []
            feed["start"] = np.full([*batch, 1], request.start)
            feed |= self.states[request.sequence]
        return feed

    def _begin(self, request: Request) -> None:
        if request.sequence == 0:
            raise Refused("a request to a model with sequence batching must have a correlation id")
        if not request.start:
            if request.sequence not in self.states:
                raise Refused(f"sequence {request.sequence}: its first request must have the START flag")
            return
        batching = self.config.sequence_batching
        if len(self.states) >= batching.oldest.max_candidate_sequences:
            raise Refused("no sequence slot is free")
        self.states[request.sequence] = {}
        for state in batching.state:
            (first,) = state.initial_state
            assert first.zero_data
            shape = [1, *first.dims] if self.config.max_batch_size else list(first.dims)
            self.states[request.sequence][state.input_name] = np.zeros(shape, self.kind(first))

    def run(self, requests: Sequence[Request]) -> list[Arrays]:
        most = max(1, self.config.max_batch_size)
        answers: list[Arrays] = []
        for begin in range(0, len(requests), most):
            part = requests[begin : begin + most]
            feeds = [self.feed(request) for request in part]
            self.batches.append(len(part))
            names = [port.name for port in self.session.get_outputs()]
            joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
            values = dict(zip(names, self.session.run(names, joined), strict=True))
            for row, request in enumerate(part):
                own = {name: value[row : row + 1] for name, value in values.items()}
                for state in self.config.sequence_batching.state:
                    self.states[request.sequence][state.input_name] = own[state.output_name]
                if request.end:
                    del self.states[request.sequence]
                answers.append({name: own[name] for name in request.outputs})
        return answers


class TritonDouble:
    """A :class:`~sttrack_deploy.integrations.triton.client.Server`."""

    def __init__(self, repository: Path) -> None:
        self.models = {path.parent.name: Model(path.parent) for path in repository.glob("*/config.pbtxt")}

    def __call__(self, requests: Sequence[Request]) -> list[Arrays]:
        (name,) = {request.model for request in requests}
        return self.models[name].run(requests)
