"""TensorRT and TensorRT for RTX: engines built in a process of their own, cached, and run.

Nothing here imports `tensorrt` or `tensorrt_rtx` before an engine is built or a session opened.
"""

from __future__ import annotations

from edgekit.runtimes.tensorrt.launch import build
from edgekit.runtimes.tensorrt.options import BatchRange, BuildOptions, BuildPlan, BuildReport, EngineRecord, Flavor

__all__ = ["BatchRange", "BuildOptions", "BuildPlan", "BuildReport", "EngineRecord", "Flavor", "build"]
