"""Conversion to another precision: measure, plan, apply, gate, write (``convert.py``).

Here are the names that a user may type; they cost no import of onnx.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["CONVERTED", "METHODS", "Method", "PrecisionName"]

PrecisionName = Literal["fp16", "bf16", "int8", "int8-fp16"]
CONVERTED: tuple[PrecisionName, ...] = get_args(PrecisionName)

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How the range of an activation follows from its magnitudes; see ``measurements.py``."""
