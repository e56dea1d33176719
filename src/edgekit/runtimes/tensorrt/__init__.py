"""TensorRT and TensorRT for RTX: build engines in their own process, cache them, and run them.

`tensorrt` or `tensorrt_rtx` is imported only when an engine is built or a session is opened.
"""

from __future__ import annotations

from edgekit.runtimes.tensorrt.launch import build
from edgekit.runtimes.tensorrt.options import BatchRange, BuildOptions, BuildPlan, BuildReport, EngineRecord, Flavor

__all__ = ["BatchRange", "BuildOptions", "BuildPlan", "BuildReport", "EngineRecord", "Flavor", "build"]
