"""The builder's own process: `python -m edgekit.runtimes.tensorrt.builder SPEC`. TensorRT can crash, and then only this process dies.

What it says comes as JSON lines on standard output: {"done": 0.4, "phase": …}, then {"report": …} or {"error": …}.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.children import end_with_parent
from edgekit.errors import EdgekitError, ExportError, RuntimeMissing
from edgekit.files import write_bytes
from edgekit.foreign import Unreadable, read_json
from edgekit.runtimes.tensorrt import adapter, layers
from edgekit.runtimes.tensorrt.options import BuildOptions, BuildReport, EngineLayer

_STEP = 0.01  # of progress between two lines


class _Logged:
    """What TensorRT's log says that matters."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.layers = ""

    def __call__(self, severity: str, message: str) -> None:
        if severity == "WARNING":
            self.warnings.append(" ".join(message.split()))
        elif severity in {"ERROR", "INTERNAL_ERROR"}:
            self.errors.append(" ".join(message.split()))
        elif message.startswith(layers.LOG_HEAD):
            self.layers = message

    def refuse_fatal_warnings(self, target: str, model: Path) -> None:
        for warning in self.warnings:
            if any(words in warning for words in adapter.FATAL_WARNINGS):
                reason = re.sub(r"^\w+\.cpp:\d+: ", "", warning)[:200]
                raise ExportError(
                    f"{target} would compute something else than {model.name} says: {reason}",
                    "quantize it with --target trt or trt-rtx, whose Q/DQ nodes are signed and symmetric",
                )


def run(model: Path, engine: Path, options: BuildOptions, timing_cache: Path | None, step: adapter.Step) -> BuildReport:
    """Build an engine in this process (see `edgekit.runtimes.tensorrt.launch.build`)."""
    target = adapter.TITLES[options.flavor]
    trt = adapter.load(options.flavor)
    logged = _Logged()
    logger = adapter.logger(trt)
    logger.sink = logged
    began = time.perf_counter()
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # the factory gave no builder: no driver, no GPU
        raise RuntimeMissing(f"{target} cannot start here: {_why(logged, str(error))}", _GPU_HINT) from error
    strong = adapter.strongly_typed(options.flavor, adapter.version(trt))
    network = adapter.create_network(trt, builder, strong=strong)
    parser = adapter.parse(trt, network, model, target)
    logged.refuse_fatal_warnings(target, model)
    config, flags, profile = adapter.configure(trt, builder, network, options)
    times = None
    if options.flavor == "trt" and timing_cache is not None:
        times = adapter.timing_cache(config, timing_cache.read_bytes() if timing_cache.is_file() else None)
    reraise = adapter.watch(trt, config, step)
    plan = adapter.build(builder, network, config)
    reraise()
    logged.refuse_fatal_warnings(target, model)
    if plan is None:
        reason = _why(logged, "it does not say why")
        hint = _GPU_HINT if "cudaError" in reason else _TURING_HINT if "Turing" in reason else ""
        raise ExportError(f"{target} could not build {model.name}: {reason}", hint)
    if times is not None and timing_cache is not None:
        write_bytes(timing_cache, times())
    quantized = adapter.dequantized(trt, network)
    found, source = _layers(trt, logger, logged, plan)
    write_bytes(engine, plan)
    del parser  # it had to outlive the network's use
    return BuildReport(
        tensorrt=str(trt.__version__),
        typing="strong" if strong else "weak",
        flags=flags,
        profile=profile,
        seconds=round(time.perf_counter() - began, 3),
        engine_bytes=len(plan),
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        layers=found,
        layers_from=source,
        quantized=quantized,
        int8=layers.computed_in_int8(found, quantized),
        warnings=tuple(dict.fromkeys(logged.warnings)),
    )


_GPU_HINT = "it needs an NVIDIA GPU and its driver on this machine"
_TURING_HINT = "leave out compute capability 7.5, or take fp16"


def _layers(trt: Any, logger: Any, logged: _Logged, plan: bytes) -> tuple[tuple[EngineLayer, ...], Any]:
    """The engine's layers and where they were learned from: the log, else the inspector, which needs a GPU."""
    if found := layers.from_log(logged.layers):
        return found, "log"
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return (), "none"
    try:
        found = layers.from_inspector(adapter.inspect(trt, engine))
    except Unreadable:  # the format is the release's own; without it the engine is as good
        return (), "none"
    return found, "inspector" if found else "none"


def _why(logged: _Logged, otherwise: str) -> str:
    return "; ".join(dict.fromkeys(logged.errors[-3:]))[:400] or otherwise


def main(spec: Path, out: BinaryIO) -> int:
    """Build what a JSON file asks for: onnx, engine, timing_cache, options."""
    told = 0.0

    def say(**content: Any) -> None:
        out.write(json.dumps(content).encode() + b"\n")
        out.flush()

    def step(done: float, phase: str) -> bool:
        nonlocal told
        if done >= told + _STEP:
            told = done
            say(done=done, phase=phase)
        return True

    asked = read_json(spec)
    cache = asked["timing_cache"]
    try:
        report = run(
            Path(asked["onnx"]),
            Path(asked["engine"]),
            BuildOptions.model_validate(asked["options"]),
            Path(cache) if cache else None,
            step,
        )
    except EdgekitError as error:
        say(error={"kind": type(error).__name__, "message": error.message, "hint": error.hint})
        return error.exit_code
    say(report=report.model_dump(mode="json"))
    return 0


if __name__ == "__main__":
    end_with_parent()
    # TensorRT's libraries write to standard output as they like: the channel gets a descriptor of its own.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.exit(main(Path(sys.argv[1]), channel))
