"""Compiling one graph with OpenVINO, where the compiler itself may crash.

OpenVINO 2026.4 ends the process with a segmentation fault where it compiles some graphs with Q/DQ: in the pass that
fuses operations ("snippets"; it is gone where that is switched off, at up to 15 % of the speed). Which graphs cannot
be told beforehand: it depends on the layers in INT8, the batch and the threads. So such graphs are compiled in a
process of its own, and once more without that pass where it dies.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttrack_deploy.errors import UserError

if TYPE_CHECKING:
    import openvino

__all__ = ["compiled_blob"]

COMPILE_THREADS = 2
"""For one thread more graphs crash. What was compiled for two runs on any number, and as fast on one."""
WITHOUT_SNIPPETS = {"SNIPPETS_MODE": "DISABLE"}


def compiled_blob(core: openvino.Core, path: Path, properties: Mapping[str, Any], batch: int) -> bytes:
    """The graph compiled for the CPU, as OpenVINO's ``import_model`` takes it.

    Args:
        properties: for ``compile_model``; the number of threads is chosen when the result is loaded.
        batch: targets for each call, where the graph's is dynamic.

    Raises:
        UserError: OpenVINO cannot read or compile the graph.
    """
    try:
        model = _read(core, path, batch)
        if any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
            blob = _compiled_apart(path, properties, batch)
            return _compiled(core, model, {**properties, **WITHOUT_SNIPPETS}) if blob is None else blob
        return _compiled(core, model, properties)
    except Exception as error:  # OpenVINO raises RuntimeError and its own classes, over several lines
        raise UserError(
            f"OpenVINO cannot compile {path}: {_reason(error)}; "
            "export the bundle again, or use --engine onnxruntime"
        ) from error


def _read(core: openvino.Core, path: Path, batch: int) -> openvino.Model:
    model = core.read_model(str(path))
    shapes = {port.any_name: list(port.partial_shape) for port in model.inputs}
    if any(axis.is_dynamic for shape in shapes.values() for axis in shape):
        model.reshape({name: [batch, *shape[1:]] for name, shape in shapes.items()})
    return model


def _compiled(core: openvino.Core, model: openvino.Model, properties: Mapping[str, Any]) -> bytes:
    blob = io.BytesIO()
    compiling = {**properties, "INFERENCE_NUM_THREADS": COMPILE_THREADS}
    core.compile_model(model, "CPU", compiling).export_model(blob)
    return blob.getvalue()


def _compiled_apart(path: Path, properties: Mapping[str, Any], batch: int) -> bytes | None:
    """The same in a process of its own, which also loads the result and runs it once; ``None`` if that fails."""
    with tempfile.TemporaryDirectory(prefix="sttrack-openvino-") as folder:
        out = Path(folder) / "blob"
        job = json.dumps({"path": str(path), "properties": dict(properties), "batch": batch, "out": str(out)})
        command = [sys.executable, "-m", __name__, job]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_environment()
            )
        except OSError:  # no process can be started here
            return None
        return out.read_bytes() if done.returncode == 0 and out.is_file() else None


def _environment() -> dict[str, str]:
    """This process's, so that the other finds the same packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}


def _child(job: Mapping[str, Any]) -> None:
    """What the process of its own does."""
    import openvino

    core = openvino.Core()
    properties = dict(job["properties"])
    blob = _compiled(core, _read(core, Path(job["path"]), int(job["batch"])), properties)
    request = core.import_model(blob, "CPU", properties).create_infer_request()
    request.infer()
    Path(job["out"]).write_bytes(blob)


def _reason(error: Exception) -> str:
    """The line that says something, out of a trail of source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join((telling or lines or [type(error).__name__])[:2])[:300]


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
