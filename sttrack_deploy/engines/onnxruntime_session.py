"""Opening ONNX Runtime sessions: the options that all of its engines share, and the check against the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from sttrack_deploy.bundle import Bundle, GraphSpec
from sttrack_deploy.engines.graph_interface import check_interface
from sttrack_deploy.errors import UserError

__all__ = ["CPU", "Provider", "open_session", "session_options"]

CPU = "CPUExecutionProvider"
Provider = str | tuple[str, dict[str, Any]]
"""An execution provider's name, or the name and its options."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(int64)": "int64",
}


def session_options(threads: int | None, bundle: Bundle | None = None) -> onnxruntime.SessionOptions:
    """Options of every session; ``threads`` for one inference, ``None`` for all.

    Q/DQ pairs with FP16 scales stay as they are: ONNX Runtime 1.32 fuses them on the CPU into something else (boxes of
    ``sttrack-nano`` in int8-fp16 were off by eight times as much as without).

    Left as they are, because changing them was measured and gained nothing: the memory arena and memory
    patterns; the thread pools of the two sessions (one global pool was not faster). Idle threads of a pool
    spin between the nodes of a graph: without that, two threads are no faster than one on small graphs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Attention to what is far off underflows; arithmetic on such numbers is many times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if bundle is not None and bundle.manifest.precision.get("name") == "int8-fp16":
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    path: Path,
    spec: GraphSpec,
    options: onnxruntime.SessionOptions,
    providers: Sequence[Provider] = (CPU,),
) -> onnxruntime.InferenceSession:
    """Open a graph and hold its interface against the manifest.

    Raises:
        UserError: ONNX Runtime cannot load the file, or its inputs or outputs are not the manifest's.
    """
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        reason = " ".join(str(error).split())
        raise UserError(f"ONNX Runtime cannot load {path}: {reason}; export the bundle again") from error
    inputs, outputs = (
        {port.name: (_DTYPES.get(port.type, port.type), tuple(port.shape)) for port in side}
        for side in (session.get_inputs(), session.get_outputs())
    )
    check_interface(path, spec, inputs, outputs)
    return session
