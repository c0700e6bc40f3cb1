"""Conversion to another precision: measure, plan, apply, gate, write (``convert.py``).

Here are the names that a user may type; they cost no import of onnx.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["CONVERTED", "METHODS", "Method", "PrecisionName"]

PrecisionName = Literal["fp16", "bf16", "int8", "int8-fp16"]
CONVERTED: tuple[PrecisionName, ...] = ("fp16", "bf16", "int8", "int8-fp16")

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
"""How the range of an activation follows from its magnitudes; see ``measurements.py``."""
