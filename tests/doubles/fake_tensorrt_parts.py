"""Which class of the TensorRT double does what: see the modules that they come from."""

from __future__ import annotations

import fake_tensorrt_builder as builder
import fake_tensorrt_runtime as runtime
from fake_tensorrt_values import Dims, HostMemory, nptype

__all__ = ["FUNCTIONS", "PARTS", "HostMemory"]

PARTS: dict[str, type] = {
    part.__name__: part
    for part in (
        Dims,
        builder.Logger,
        builder.Builder,
        builder.IBuilderConfig,
        builder.ITimingCache,
        builder.IOptimizationProfile,
        builder.OnnxParser,
        builder.ParserError,
        builder.INetworkDefinition,
        runtime.Runtime,
        runtime.ICudaEngine,
        runtime.IExecutionContext,
        runtime.IRuntimeConfig,
        runtime.IRuntimeCache,
    )
}
FUNCTIONS = {"nptype": nptype}
