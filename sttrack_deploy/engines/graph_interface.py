"""Holding what a back end read from an ONNX file against the bundle's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sttrack_deploy.bundle import GraphSpec
from sttrack_deploy.errors import UserError

__all__ = ["Ports", "check_interface"]

Ports = Mapping[str, tuple[str, tuple[int | str, ...]]]
"""dtype and shape by name; an axis that is not fixed is a name."""


def check_interface(
    path: Path, spec: GraphSpec, inputs: Ports, outputs: Ports, batch: int | None = None
) -> None:
    """Raises UserError where a graph's inputs or outputs are not the manifest's.

    Args:
        batch: what the manifest's dynamic axes were fixed to, if they were.
    """
    for side, actual, expected in (("input", inputs, spec.inputs), ("output", outputs, spec.outputs)):
        wanted = {e.name: (e.dtype, _fixed(e.shape, batch)) for e in expected}
        for name in sorted({*actual, *wanted}):
            seen, told = actual.get(name), wanted.get(name)
            if seen != told:
                raise UserError(
                    f"{path} does not match its manifest: {side} '{name}' is {_show(seen)} in the file, "
                    f"{_show(told)} in the manifest; export the bundle again"
                )


def _fixed(shape: tuple[int | str, ...], batch: int | None) -> tuple[int | str, ...]:
    return tuple(batch if isinstance(axis, str) and batch is not None else axis for axis in shape)


def _show(value: tuple[str, tuple[int | str, ...]] | None) -> str:
    return "absent" if value is None else f"{value[0]} {list(value[1])}"
