"""How fast a variant is beside its runtime's own float variant, here: a first look at export, so that no slow INT8 is the default.

Not a benchmark: half a second each, one batch, the runtime's default threads. `edgekit bench` measures.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.bundle import Speed, Variant
from edgekit.export.int8.quantize import saturates
from edgekit.machine import this_machine
from edgekit.progress import progress
from edgekit.runtimes import Session, open_session

SECONDS = 0.5  # of each of the two
_ROUNDS = 3  # each in sessions of its own, one at a time: two that live at once slow each other down
_WARMUP, _FEWEST = 3, 5  # runs
_TINY_MS = 0.5  # below, what a call costs whatever it computes is a large part of the time
_RUNTIMES = ("onnxruntime", "openvino")  # those that read the float ONNX


def with_speed(
    variants: list[Variant], folder: Path, float_onnx: Path, images: NDArray[np.uint8], seconds: float = SECONDS
) -> list[Variant]:
    """The variants, the verified INT8 ones with their speed, and those that are slower than float with a note that says why.

    A variant whose speed is known keeps it.

    Args:
        variants: of one bundle.
        folder: of their files.
        float_onnx: the float graph that they were made from, its batch axis free.
        images: one batch, uint8 (n, s, s, 3), of the size that the bundle's graphs take.
        seconds: to measure each of the two for.
    """
    wanted = [
        v
        for v in variants
        if v.precision == "int8" and v.status == "verified" and v.runtime in _RUNTIMES and v.speed is None
    ]
    found: dict[str, Variant] = {}
    with progress("speed", len(wanted) * _ROUNDS, unit="rounds") as advance:
        for variant in wanted:
            times = np.zeros((_ROUNDS, 2))
            samples = 0
            for i in range(_ROUNDS):
                for j, model in enumerate((float_onnx, folder / variant.files[0].path)):
                    session = open_session(variant.runtime, model, settings=variant.settings)
                    try:
                        runs = _time(session, images, seconds / _ROUNDS)
                    finally:
                        session.close()
                    times[i, j] = np.median(runs)
                    samples += len(runs) * j
                advance()
            of_float, of_variant = np.median(times, axis=0) / 1e6
            machine = this_machine()
            speed = Speed(
                p50_ms=of_variant,
                float_p50_ms=of_float,
                ratio=of_float / of_variant,
                batch=len(images),
                samples=samples,
                cores=machine.cores,
                cpu=machine.cpu,
                isa=machine.isa,
            )
            note = "" if speed.ratio >= 1 else why_slow(speed, float_onnx, variant)
            found[variant.id] = variant.model_copy(
                update={"speed": speed, "note": "; ".join(n for n in (variant.note, note) if n)}
            )
    return [found.get(v.id, v) for v in variants]


def why_slow(speed: Speed, float_onnx: Path, variant: Variant) -> str:
    """A sentence for a variant that is slower than float: by how much, and what is known to do that."""
    operators = {node.op_type for node in onnx.load(float_onnx).graph.node}
    reasons = []
    if saturates():
        reasons.append("this CPU has no 8-bit dot product (VNNI)")
    if operators & {"HardSwish", "HardSigmoid", "Sigmoid", "Erf", "Softmax"}:
        reasons.append(
            "the network's activations (hard-swish, SiLU, GELU, squeeze-and-excitation, attention) stay in float"
        )
    if speed.float_p50_ms < _TINY_MS:
        reasons.append("the network is so small that what every call costs is a large part")
    if (variant.quantization or {}).get("rung") == "layers in float":
        reasons.append("some of its layers stay in float")
    because = f": {', '.join(reasons)}" if reasons else ""
    return (
        f"slower than float on this machine ({speed.p50_ms:.2f} against {speed.float_p50_ms:.2f} ms at export), so not the "
        f"default here{because}"
    )


def _time(session: Session, images: NDArray[np.uint8], seconds: float) -> list[int]:
    """Nanoseconds of each run."""
    for _ in range(_WARMUP):
        session.run(images)
    runs: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(runs) < _FEWEST or time.perf_counter_ns() < end:
        began = time.perf_counter_ns()
        session.run(images)
        runs.append(time.perf_counter_ns() - began)
    return runs
