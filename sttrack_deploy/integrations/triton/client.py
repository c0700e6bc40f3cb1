"""An engine whose graphs run on a Triton server: any tracker of this package, with its network elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sttrack_deploy.bundle import (
    BOX,
    CONFIDENCE,
    SEARCH_IMAGE,
    SEARCH_MASK,
    TEMPLATE_IMAGE,
    TEMPLATE_MASK,
    Bundle,
)
from sttrack_deploy.engines.base import BoolArray, EngineState, Prediction, UInt8Array
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.integrations.triton.layout import SEARCH, TEMPLATE, given_name, state_tensor

__all__ = ["Request", "Server", "TritonEngine"]

Arrays = dict[str, npt.NDArray[Any]]
INSTALL = "pip install 'tritonclient[grpc]'"


class Request(NamedTuple):
    """One request: a model, its inputs, the outputs wanted; of a sequence where it is not 0."""

    model: str
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: Sequence[str]
    sequence: int = 0
    start: bool = False
    end: bool = False


class Server(Protocol):
    """Answers requests, which may be computed together; in the order in which they were given."""

    def __call__(self, requests: Sequence[Request]) -> list[Arrays]: ...


@dataclass(eq=False)
class _Tracks:
    """The sequences of a batch, and until their first step the states to start from.

    One object for all steps of a track: when it is dropped, nobody will send another frame of it.
    """

    sequences: list[int]
    given: Arrays | None = field(default=None)


class TritonEngine:
    """Runs the models that ``sttrack-export-triton`` wrote; each target is a sequence on the server.

    The state stays on the server, so :meth:`export_state` works before a track's first step only. A track whose
    server forgot it (idle for too long, or another one took over) must be started again. Tracks that were dropped
    are ended with the next call, so that they do not keep others waiting for their place.
    """

    name = "triton"

    def __init__(self, bundle: Bundle, server: Server, where: str = "") -> None:
        """``where``: what to call the server in :meth:`describe`."""
        self._bundle, self._server, self._where = bundle, server, where
        self._batched = bundle.manifest.batch == "dynamic"
        self._numbers = itertools.count(secrets.randbits(62) | 1)  # not those of another client
        self._dropped: deque[int] = deque()
        self._nothing: Arrays = {}
        for spec in bundle.manifest.state:
            tensor = state_tensor(bundle.manifest, spec)
            shape = tuple(1 if isinstance(axis, str) else axis for axis in tensor.shape)
            self._nothing[given_name(spec)] = np.zeros(shape, tensor.dtype)

    @classmethod
    def connect(cls, bundle: Bundle, url: str, timeout: float = 30.0) -> TritonEngine:
        """Talk to the server at ``host:port`` over gRPC; ``timeout`` in seconds for each request.

        Raises:
            MissingDependencyError: tritonclient is not installed.
            UserError: the server does not answer, or does not have the models.
        """
        return cls(bundle, _grpc_server(url, timeout), url)

    def initial_state(self, template: UInt8Array, mask: BoolArray) -> EngineState:
        self._end_dropped()
        names = [spec.initial for spec in self._bundle.manifest.state]
        requests = [
            Request(TEMPLATE, {TEMPLATE_IMAGE: image[None], TEMPLATE_MASK: padded[None]}, names)
            for image, padded in zip(template, mask, strict=True)
        ]
        answers = self._server(requests)
        state = self._bundle.manifest.state
        return self.import_state({s.name: np.concatenate([a[s.initial] for a in answers]) for s in state})

    def step(self, search: UInt8Array, mask: BoolArray, state: EngineState) -> tuple[Prediction, EngineState]:
        self._end_dropped()
        requests = []
        for row, sequence in enumerate(state.sequences):
            given = self._nothing
            if state.given is not None:
                specs = self._bundle.manifest.state
                given = {given_name(s): state.given[s.name][row : row + 1] for s in specs}
            inputs = {SEARCH_IMAGE: search[row : row + 1], SEARCH_MASK: mask[row : row + 1], **given}
            requests.append(Request(SEARCH, inputs, (BOX, CONFIDENCE), sequence, state.given is not None))
        answers = self._server(requests)
        if state.given is not None:
            state.given = None
            weakref.finalize(state, self._dropped.extend, state.sequences).atexit = False
        box = np.concatenate([answer[BOX].reshape(1, 4) for answer in answers])
        confidence = np.concatenate([answer[CONFIDENCE].reshape(1) for answer in answers])
        return Prediction(box, confidence), state

    def _end_dropped(self) -> None:
        ended = [self._dropped.popleft() for _ in range(len(self._dropped))]
        if not ended:
            return
        ports = {port.name: port for port in self._bundle.manifest.search.inputs}
        blank = {
            name: np.zeros((1, *(int(axis) for axis in ports[name].shape[1:])), ports[name].dtype)
            for name in (SEARCH_IMAGE, SEARCH_MASK)
        }
        inputs = {**blank, **self._nothing}
        requests = [Request(SEARCH, inputs, (CONFIDENCE,), sequence, end=True) for sequence in ended]
        with contextlib.suppress(UserError):  # what the server has forgotten by itself needs no end
            self._server(requests)

    def export_state(self, state: EngineState) -> Arrays:
        """See the class.

        Raises:
            UsageError: the track has moved on, on the server.
        """
        if state.given is None:
            raise UsageError("the state of a track that has begun stays on the Triton server")
        return {name: value.copy() for name, value in state.given.items()}

    def import_state(self, arrays: Arrays) -> EngineState:
        """Tracks that start from these tensors, by state name, on the server."""
        targets = len(next(iter(arrays.values())))
        given = {name: np.array(value, order="C") for name, value in arrays.items()}
        return _Tracks([next(self._numbers) for _ in range(targets)], given)

    def describe(self) -> dict[str, str]:
        return {"engine": self.name, "server": self._where}


def _grpc_server(url: str, timeout: float) -> Server:
    try:
        import tritonclient.grpc as grpc
    except ImportError as error:
        raise MissingDependencyError("tritonclient", "the engine 'triton'", INSTALL) from error
    kinds = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "bool": "BOOL", "int64": "INT64"}
    client = grpc.InferenceServerClient(url)

    def explained(error: Exception) -> UserError:
        return UserError(f"the Triton server at {url} failed: {' '.join(str(error).split())[:300]}")

    try:
        for model in (TEMPLATE, SEARCH):
            if not client.is_model_ready(model, client_timeout=timeout):
                raise UserError(
                    f"the Triton server at {url} has no model {model}; write them with sttrack-export-triton and start "
                    "it with --model-repository"
                )
    except grpc.InferenceServerException as error:
        raise explained(error) from error

    def call(request: Request) -> Callable[[], Arrays]:
        import threading

        inputs = []
        for name, value in request.inputs.items():
            port = grpc.InferInput(name, list(value.shape), kinds[value.dtype.name])
            port.set_data_from_numpy(np.ascontiguousarray(value))
            inputs.append(port)
        outputs = [grpc.InferRequestedOutput(name) for name in request.outputs]
        done, answer = threading.Event(), {}

        def arrived(result: Any, error: Exception | None) -> None:
            answer["result"], answer["error"] = result, error
            done.set()

        client.async_infer(
            request.model,
            inputs,
            arrived,
            outputs=outputs,
            sequence_id=request.sequence,
            sequence_start=request.start,
            sequence_end=request.end,
            client_timeout=timeout,
        )

        def wait() -> Arrays:
            if not done.wait(timeout + 5):
                raise UserError(f"the Triton server at {url} did not answer in {timeout:g} s")
            if answer["error"] is not None:
                raise explained(answer["error"])
            return {name: np.array(answer["result"].as_numpy(name)) for name in request.outputs}

        return wait

    def server(requests: Sequence[Request]) -> list[Arrays]:
        return [wait() for wait in [call(request) for request in requests]]

    return server
