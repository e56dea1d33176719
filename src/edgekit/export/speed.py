"""A quick comparison of an INT8 variant's speed with float in the same runtime, on the exporting machine.

Its purpose is that INT8 slower than float never becomes the default. It is not a benchmark: `edgekit bench` measures latency. The answer must
be right on a busy machine too, where wall-clock time misleads however often it is measured: a run that fits into the scheduler's time slice
is hardly ever interrupted, but a longer one waits for all other programs (a network twice as fast looked 30 times as fast). So this
measures CPU time on one thread, which on an idle machine equals wall-clock time. The two sessions take turns of a few milliseconds in
random order; see `edgekit.bench.paired`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.paired import LOOKS, compare
from edgekit.bundle import SLOWER, Speed, Variant
from edgekit.errors import ExportError
from edgekit.export.catalog import split
from edgekit.machine import this_machine
from edgekit.onnx_graph.files import read_onnx
from edgekit.progress import progress
from edgekit.quantization import FLOAT_LAYERS
from edgekit.quantize.qdq import saturates
from edgekit.runtimes import Session, open_session
from edgekit.runtimes.session import OUTSIDE, PARTITIONS
from edgekit.targets import LITERT, Target, find_runtime, resolve
from edgekit.tasks import Task
from edgekit.temporary import scratch_folder

SECONDS = 20.0  # wall-clock limit per variant; the pairs of the first look are measured in any case
_TURN_NS = 10_000_000  # CPU time of a turn; one run if that takes longer
_WARMUP = 3  # runs
# Numbers of pairs before which both sessions are opened again, so that the first look uses two of each. Two sessions of the same model
# differed by up to 14 % for as long as both lived (OpenVINO, ResNet-18), because of where their memory was.
_FRESH = (0, LOOKS[0] // 2, *LOOKS[:-1])
_TINY_MS = 0.5  # below this, the fixed cost of a call is a large part of the time
# What INT8 leaves in float, by operator of ONNX, and its name. LiteRT's files have the others of these in INT8.
_FLOAT_IN_LITERT = {
    "Softmax": "attention", "LayerNormalization": "LayerNorm", "InstanceNormalization": "GroupNorm", "Erf": "GELU",
}  # fmt: skip
_FLOAT = {
    "HardSwish": "hard-swish", "HardSigmoid": "hard-sigmoid", "Sigmoid": "the sigmoid (of SiLU, squeeze-and-excitation)",
    "Softplus": "Mish", "Tanh": "tanh", **_FLOAT_IN_LITERT,
}  # fmt: skip
_NONE: Mapping[str, str] = MappingProxyType({})
_UNDECIDED = "not clearly faster than float on this machine"


def with_speed(
    variants: list[Variant],
    folder: Path,
    float_onnx: Path,
    images: NDArray[np.uint8],
    task: Task,
    seconds: float = SECONDS,
) -> list[Variant]:
    """Return the variants; verified INT8 ones get their speed, and a note if they are not faster than float.

    A known speed is kept, unless it was undecided or an older edgekit measured it in another way.

    Args:
        variants: the variants of one bundle.
        folder: the folder of their files.
        float_onnx: the float graph that they were made from, with a free batch axis.
        images: one batch, uint8 (n, h, w, 3), of the size that the bundle's graphs take.
        task: the task of the bundle.
        seconds: the time limit for each; the pairs of the first look are measured in any case.
    """
    wanted = [
        v
        for v in variants
        if v.precision == "int8"
        and v.status == "verified"
        and _has_float(v)
        and (v.speed is None or v.speed.verdict in (None, "undecided"))
    ]
    found: dict[str, Variant] = {}
    with progress("speed", len(wanted), unit="variants") as advance, scratch_folder("speed") as scratch:
        for variant in wanted:
            of_float = _float_of(variant, variants, folder) or _float_model(variant, float_onnx, scratch)
            speed, settings = _measured(variant, folder, of_float, images, task, seconds)
            notes = [n for n in variant.note.split("; ") if n and not n.startswith((SLOWER, _UNDECIDED))]
            found[variant.id] = variant.model_copy(
                update={"speed": speed, "note": "; ".join([*notes, *_notes(speed, float_onnx, variant, settings)])}
            )
            advance()
    return [found.get(v.id, v) for v in variants]


def _has_float(variant: Variant) -> bool:
    """Whether there is a float model that the variant's runtime opens, or can be made of the float ONNX."""
    runtime = find_runtime(variant.runtime)
    target = _target(variant)
    return runtime is not None and (runtime.reads_onnx or (target is not None and bool(target.float_model)))


def _float_of(variant: Variant, variants: Sequence[Variant], folder: Path) -> Path | None:
    """The bundle's own FP32 file for the runtime, if it has one and the target's float model would have to be made."""
    target = _target(variant)
    if target is None or not target.float_model:
        return None
    files = [v.files[0].path for v in variants if v.id == f"{target.name}-fp32" and v.status == "verified"]
    return folder / files[0] if files else None


def _float_model(variant: Variant, float_onnx: Path, scratch: Path) -> Path:
    """The float model that a variant is timed against; made in `scratch` where it is not the ONNX itself."""
    target = _target(variant)
    if target is None or not target.float_model:
        return float_onnx
    made: Path = resolve(target.float_model)(float_onnx, scratch)
    return made


def _target(variant: Variant) -> Target | None:
    try:
        return split(variant.id)[0]
    except ExportError:  # of a package that is not installed any more
        return None


def _notes(speed: Speed, float_onnx: Path, variant: Variant, settings: Mapping[str, str] = _NONE) -> list[str]:
    if speed.outcome == "faster":
        return []
    if speed.outcome == "slower":
        return [why_slow(speed, float_onnx, variant, settings)]
    return [f"{_UNDECIDED} ({speed.low:.2f} to {speed.high:.2f} times its speed at export), so not the default here"]


def why_slow(speed: Speed, float_onnx: Path, variant: Variant, settings: Mapping[str, str] = _NONE) -> str:
    """A note for a variant that is slower than float: by how much, and the known reasons.

    Args:
        speed: of the variant.
        float_onnx: the float graph that it was made from.
        variant: it.
        settings: of its session; XNNPACK's runtimes state there in how many parts they run the graph.
    """
    operators = {node.op_type for node in read_onnx(float_onnx).graph.node}
    reasons = []
    if saturates():
        reasons.append("this CPU has no 8-bit dot product (VNNI)")
    if settings.get(PARTITIONS, "1") not in {"1", "unknown"}:
        reasons.append(
            f"XNNPACK runs it in {settings[PARTITIONS]} parts, because it does not compute what lies between them: {settings[OUTSIDE]}"
        )
    kinds = _FLOAT_IN_LITERT if variant.runtime == LITERT.name else _FLOAT
    if names := list(dict.fromkeys(name for kind, name in kinds.items() if kind in operators)):
        reasons.append(f"left in float between the layers are {', '.join(names)}")
    if speed.float_p50_ms < _TINY_MS:
        reasons.append("the network is so small that the fixed cost of a call is a large part")
    if variant.quantization is not None and variant.quantization.strategy == FLOAT_LAYERS:
        reasons.append("some of its layers stay in float")
    because = f": {', '.join(reasons)}" if reasons else ""
    return (
        f"{SLOWER} ({speed.p50_ms:.2f} against {speed.float_p50_ms:.2f} ms at export), so not the default here{because}"
    )


def _measured(
    variant: Variant, folder: Path, float_model: Path, images: NDArray[np.uint8], task: Task, seconds: float
) -> tuple[Speed, dict[str, str]]:
    """The speed of a variant, and the settings of its session."""
    pairs = _TimedPairs(variant, (float_model, folder / variant.files[0].path), images, task)
    began = time.monotonic()
    try:
        found = compare(pairs.measure, lambda: time.monotonic() - began > seconds)
        settings = pairs.settings
    finally:
        pairs.close()
    of_float, of_variant = np.median(pairs.nanoseconds, axis=0) / 1e6
    machine = this_machine()
    speed = Speed(
        p50_ms=of_variant,
        float_p50_ms=of_float,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        verdict=found.verdict,
        clock="cpu",
        threads=1,
        batch=len(images),
        samples=pairs.runs[1],
        cores=machine.cores,
        cpu=machine.cpu,
        isa=machine.isa,
    )
    return speed, settings


class _TimedPairs:
    """Timed turns of float and a variant, pair by pair. Both sessions stay open meanwhile and are opened again at `_FRESH`.

    Args:
        variant: gives the runtime and the settings.
        models: the float model and the variant's model.
        images: one batch of images.
        task: the task of both.
    """

    def __init__(self, variant: Variant, models: tuple[Path, Path], images: NDArray[np.uint8], task: Task) -> None:
        self._variant, self._models, self._images, self._task = variant, models, images, task
        self._random_order = random.Random(0)
        self._sessions: dict[int, Session] = {}
        self._clock: Callable[[], int] = time.thread_time_ns
        self.nanoseconds: list[tuple[float, float]] = []  # CPU time of one run: of float, of the variant
        self.runs = [0, 0]

    def measure(self) -> tuple[float, float]:
        """Measure one pair: CPU time of one run of float and of the variant, in nanoseconds."""
        if len(self.nanoseconds) in _FRESH:
            self._open()
        spent = [0.0, 0.0]
        for i in self._random_order.sample((0, 1), 2):
            spent[i], runs = _turn(self._sessions[i], self._images, self._clock)
            self.runs[i] += runs
        self.nanoseconds.append((spent[0], spent[1]))
        return self.nanoseconds[-1]

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the variant's session, while it is open."""
        return dict(self._sessions[1].settings)

    def _open(self) -> None:
        self.close()
        settings = self._variant.settings
        for i in self._random_order.sample((0, 1), 2):  # the order may change where their memory is
            self._sessions[i] = open_session(
                self._variant.runtime, self._models[i], threads=1, settings=settings, task=self._task
            )
        self._clock = _clock(list(self._sessions.values()), self._images)

    def close(self) -> None:
        """Release both models."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


def _turn(session: Session, images: NDArray[np.uint8], clock: Callable[[], int]) -> tuple[float, int]:
    """CPU time of a run in nanoseconds, the mean over one turn, and the number of runs."""
    began, runs, spent = clock(), 0, 0
    while spent < _TURN_NS:
        session.run(images)
        runs += 1
        spent = clock() - began
    return spent / runs, runs


def _clock(sessions: list[Session], images: NDArray[np.uint8]) -> Callable[[], int]:
    """Warm up; return the CPU clock of this thread, or of the process if the runtime works on another thread."""
    on_thread, in_process = time.thread_time_ns(), time.process_time_ns()
    for session in sessions:
        for _ in range(_WARMUP):
            session.run(images)
    share = (time.thread_time_ns() - on_thread) / max(1, time.process_time_ns() - in_process)
    return time.thread_time_ns if share > 0.5 else time.process_time_ns
