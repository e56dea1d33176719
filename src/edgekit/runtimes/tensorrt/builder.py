"""The builder's process: `python -m edgekit.runtimes.tensorrt.builder SPEC`. If TensorRT crashes, only this process dies.

It writes JSON lines to standard output: {"done": 0.4, "phase": …}, then {"report": …} or {"error": …}.
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

_STEP = 0.01  # progress between two lines


class _BuildLog:
    """The relevant messages of TensorRT's log."""

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
                    f"{target} would not compute what {model.name} specifies: {reason}",
                    "quantize the model with --target trt or trt-rtx, whose Q/DQ nodes are signed and symmetric",
                )


def run(model: Path, engine: Path, options: BuildOptions, timing_cache: Path | None, step: adapter.Step) -> BuildReport:
    """Build an engine in this process (see `edgekit.runtimes.tensorrt.launch.build`)."""
    target = adapter.TITLES[options.flavor]
    trt = adapter.load(options.flavor)
    log = _BuildLog()
    logger = adapter.logger(trt)
    logger.sink = log
    began = time.perf_counter()
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # no builder: no driver, or no GPU
        raise RuntimeMissing(f"{target} cannot start here: {_why(log, str(error))}", _GPU_HINT) from error
    strong = adapter.strongly_typed(options.flavor, adapter.version(trt))
    network = adapter.create_network(trt, builder, strong=strong)
    parser = adapter.parse(trt, network, model, target)
    log.refuse_fatal_warnings(target, model)
    config, flags, profile = adapter.configure(trt, builder, network, options)
    times = None
    if options.flavor == "trt" and timing_cache is not None:
        times = adapter.timing_cache(config, timing_cache.read_bytes() if timing_cache.is_file() else None)
    reraise = adapter.watch(trt, config, step)
    plan = adapter.build(builder, network, config)
    reraise()
    log.refuse_fatal_warnings(target, model)
    if plan is None:
        reason = _why(log, "no reason is given")
        hint = _GPU_HINT if "cudaError" in reason else _TURING_HINT if "Turing" in reason else ""
        raise ExportError(f"{target} could not build {model.name}: {reason}", hint)
    if times is not None and timing_cache is not None:
        write_bytes(timing_cache, times())
    quantized = adapter.dequantized(trt, network)
    found, source = _layers(trt, logger, log, plan)
    write_bytes(engine, plan)
    del parser  # it must outlive the network
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
        warnings=tuple(dict.fromkeys(log.warnings)),
    )


_GPU_HINT = "build on a machine with an NVIDIA GPU and its driver"
_TURING_HINT = "leave out compute capability 7.5, or use fp16"


def _layers(trt: Any, logger: Any, log: _BuildLog, plan: bytes) -> tuple[tuple[EngineLayer, ...], Any]:
    """Return the engine's layers and their source: the log, otherwise the inspector, which needs a GPU."""
    if found := layers.from_log(log.layers):
        return found, "log"
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return (), "none"
    try:
        found = layers.from_inspector(adapter.inspect(trt, engine))
    except Unreadable:  # the format differs between releases; the engine is usable without it
        return (), "none"
    return found, "inspector" if found else "none"


def _why(log: _BuildLog, otherwise: str) -> str:
    return "; ".join(dict.fromkeys(log.errors[-3:]))[:400] or otherwise


def main(spec: Path, out: BinaryIO) -> int:
    """Build an engine as a JSON file specifies: onnx, engine, timing_cache, options."""
    last_done = 0.0

    def say(**content: Any) -> None:
        out.write(json.dumps(content).encode() + b"\n")
        out.flush()

    def step(done: float, phase: str) -> bool:
        nonlocal last_done
        if done >= last_done + _STEP:
            last_done = done
            say(done=done, phase=phase)
        return True

    request = read_json(spec)
    cache = request["timing_cache"]
    try:
        report = run(
            Path(request["onnx"]),
            Path(request["engine"]),
            BuildOptions.model_validate(request["options"]),
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
    # TensorRT's libraries may write to standard output, so the messages use their own descriptor.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.exit(main(Path(sys.argv[1]), channel))
