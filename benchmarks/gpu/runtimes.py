"""Runtimes on the GPU: golden tensors and latency, or the exact reason why not.

The bundle was exported where the kit was prepared (a network with random weights; its golden logits are the network's own). ONNX Runtime's
CUDA provider runs it where it is installed; TensorRT for RTX gets an engine that was built there, without a GPU.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from record import Options, Record, Unexecuted

from edgekit.bench.golden import prove
from edgekit.bundle import Bundle, Variant
from edgekit.errors import EdgekitError
from edgekit.runtimes import load, why_not
from edgekit.runtimes.session import Session
from edgekit.runtimes.tensorrt.options import RTX_CAPABILITIES

WARMUP, RUNS = 30, 200


def run(record: Record) -> None:
    record.about["what"] = __doc__
    with tempfile.TemporaryDirectory() as folder:
        check_all(record, Path(folder))


def check_all(record: Record, scratch: Path) -> None:
    """Find the bundle, then its variants."""
    opened: list[Bundle] = []

    def find() -> dict[str, Any]:
        opened.append(Bundle.open(the_bundle(record.options, scratch)))
        return {"variants": [variant.id for variant in opened[0].manifest.variants]}

    record.check("bundle", find, needs=2)
    for bundle in opened:
        check_bundle(record, bundle)


def check_bundle(record: Record, bundle: Bundle) -> None:
    """Every variant that the kit has a runtime for."""
    for variant in bundle.manifest.variants:
        if variant.runtime == "onnxruntime":
            record.check(f"{variant.id}, CPU", lambda v=variant: measure(bundle, v, {}), needs=2)  # type: ignore[misc]
            record.check(f"{variant.id}, CUDA", lambda v=variant: on_cuda(bundle, v), needs=5)  # type: ignore[misc]
        elif variant.runtime == "tensorrt-rtx":
            record.check(variant.id, lambda v=variant: on_rtx(bundle, v), needs=5)  # type: ignore[misc]


def the_bundle(options: Options, scratch: Path) -> Path:
    """The carried bundle; a rehearsal without one makes its own, small."""
    folder = options.carried / "bundle"
    if folder.is_dir():
        return folder
    if not options.rehearse:
        raise Unexecuted(f"{folder} is not there: no bundle was carried (see --prepare and --unpack)")
    import carry

    return carry.export_bundle(scratch / "bundle", targets=("onnx",))


def on_cuda(bundle: Bundle, variant: Variant) -> dict[str, Any]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        raise Unexecuted(
            f"ONNX Runtime {onnxruntime.__version__} was built without CUDA: it has {', '.join(available)}"
        )
    return measure(bundle, variant, {"provider": "cuda"})


def on_rtx(bundle: Bundle, variant: Variant) -> dict[str, Any]:
    """Measure on TensorRT for RTX. If edgekit cannot load the variant here, its error is the reason, not a failure of the kit."""
    here, known = capability(), ""
    if here and here not in RTX_CAPABILITIES:
        known = f"; TensorRT for RTX builds for {', '.join(RTX_CAPABILITIES)}, this GPU has {here}"
    if missing := why_not("tensorrt-rtx"):
        raise Unexecuted(f"{missing.message} ({missing.hint}){known}")
    try:
        loaded = timed_load(bundle, variant, {})
    except EdgekitError as error:
        raise Unexecuted(f"{type(error).__name__}: {error.message} ({error.hint}){known}") from error
    return measure_session(bundle, variant, *loaded)


def capability() -> str:
    """The GPU's compute capability; an empty string without a GPU."""
    import torch

    return ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""


def measure(bundle: Bundle, variant: Variant, settings: Mapping[str, str]) -> dict[str, Any]:
    """Load a variant, then `measure_session`."""
    return measure_session(bundle, variant, *timed_load(bundle, variant, settings))


def timed_load(bundle: Bundle, variant: Variant, settings: Mapping[str, str]) -> tuple[Session, float]:
    """Load a variant; return the session and the seconds."""
    began = time.perf_counter()
    session = load(bundle, variant, settings=settings)
    return session, time.perf_counter() - began


def measure_session(bundle: Bundle, variant: Variant, session: Session, load_seconds: float) -> dict[str, Any]:
    """Check the golden tensors, then measure latencies in this process, and close the session; `edgekit bench` would take minutes."""
    try:
        golden = bundle.golden_outputs()
        proof = prove(session, variant, golden, 1, bundle.task)
        found = {"load_seconds": round(load_seconds, 3), "proof": vars(proof), "passed": not proof.warning}
        return {**found, "latency_ms": {f"batch {n}": latency(session, golden["images"], n) for n in (1, 8)}}
    finally:
        session.close()


def latency(session: Session, images: np.ndarray, batch: int) -> dict[str, float]:
    pixels = np.concatenate([images] * (batch // len(images) + 1))[:batch]
    for _ in range(WARMUP):
        session.run(pixels)
    samples = []
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        session.run(pixels)
        samples.append((time.perf_counter_ns() - start) / 1e6)
    return {"median": statistics.median(samples), "p99": float(np.percentile(samples, 99)), "runs": RUNS}
