"""What a measuring process returns. Standard-library data classes, because the process times its imports and needs few of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.bench.golden import Proof
    from edgekit.runtimes.session import ProfiledNode


@dataclass(frozen=True, kw_only=True)
class WorkerOutcome:
    """What every measuring process returns.

    Attributes:
        runtime_version: version of the runtime.
        settings: the settings that the runtime was given, and those that it reported.
        affinity: the processors that the process could use; empty if the system does not report them.
        golden: how close its outputs were to the golden tensors.
    """

    runtime_version: str
    settings: dict[str, str]
    affinity: list[int]
    golden: Proof


@dataclass(frozen=True)
class RoundTimeline:
    """The sensors over a round; each list has one item per sample.

    Attributes:
        seconds: since the first query.
        cost_seconds: processor time for reading all samples.
        clock_mhz, gpu_clock_mhz, temperature_c, power_w, throttled: see `edgekit.result.Timeline`.
    """

    seconds: list[float]
    cost_seconds: float
    clock_mhz: list[float | None]
    gpu_clock_mhz: list[float | None]
    temperature_c: list[float | None]
    power_w: list[float | None]
    throttled: list[bool | None]


@dataclass(frozen=True)
class Watch:
    """What the parent process of the worker measured meanwhile.

    Attributes:
        timeline: the sensors between the first and the last query.
        power_source: what `power_w` and `joules` measure.
        why_no_power: why there is no power sensor.
        joules: energy between the first and the last query; None if not measured.
        seconds: the time that `joules` covers.
    """

    timeline: RoundTimeline
    power_source: str = ""
    why_no_power: str = ""
    joules: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RoundOutcome(WorkerOutcome):
    """The measurement of one round of a scenario.

    Attributes:
        samples_ns, warmup_runs, settled, interrupted, began_ns, ended_ns: see `edgekit.bench.measure.Timed`.
        streams: runs in flight at the same time.
        stages_ms: times of loading, and of the steps from an image file to class names.
        peak_rss_bytes: peak memory of the process; None if the system does not report it.
        device_memory_bytes: memory of the process on an accelerator.
        conditions: see `edgekit.bench.sensors.conditions`.
        loadgen: LoadGen's version, scenario and summary, if it ran.
        watch: None until the worker's parent process has added it.
    """

    samples_ns: list[int]
    warmup_runs: int
    settled: bool
    interrupted: bool
    began_ns: int
    ended_ns: int
    streams: int
    stages_ms: dict[str, float]
    peak_rss_bytes: int | None
    device_memory_bytes: int | None
    conditions: dict[str, Any]
    loadgen: dict[str, Any] | None = None
    watch: Watch | None = None

    @classmethod
    def read(cls, content: dict[str, Any]) -> RoundOutcome:
        """From the JSON of `dataclasses.asdict`, as the worker writes it."""
        return cls(**{**content, "golden": _proof(content)})

    @property
    def elapsed_ns(self) -> int:
        """Time from the first query to the end of the last."""
        return self.ended_ns - self.began_ns


@dataclass(frozen=True, kw_only=True)
class ProfileOutcome(WorkerOutcome):
    """The measurement of a profile.

    Attributes:
        samples_ns: times of runs without the profiler.
        layers: every node's time over all profiled runs.
    """

    samples_ns: list[int]
    layers: list[ProfiledNode] = field(default_factory=list)

    @classmethod
    def read(cls, content: dict[str, Any]) -> ProfileOutcome:
        """From the JSON of `dataclasses.asdict`, as the worker writes it."""
        from edgekit.runtimes.session import ProfiledNode

        return cls(
            **{**content, "golden": _proof(content), "layers": [ProfiledNode(*row) for row in content["layers"]]}
        )


@dataclass(frozen=True)
class WorkerFailure:
    """Why a measuring process measured nothing: the class name, message and hint of an `EdgekitError`."""

    kind: str
    message: str
    hint: str


def _proof(content: dict[str, Any]) -> Proof:
    from edgekit.bench.golden import Proof

    return Proof(**content["golden"])
