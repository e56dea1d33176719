"""What a measuring process brings back. Data classes of the standard library: the process times its imports, so it has few."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.bench.golden import Proof
    from edgekit.runtimes.session import ProfiledNode


@dataclass(frozen=True, kw_only=True)
class WorkerOutcome:
    """What every measuring process says.

    Attributes:
        runtime_version: of the runtime that computed.
        settings: what the runtime was told, and what it answered.
        affinity: the processors that the process could use; empty where the system does not say.
        golden: how near it came to the golden tensors.
    """

    runtime_version: str
    settings: dict[str, str]
    affinity: list[int]
    golden: Proof


@dataclass(frozen=True)
class RoundTimeline:
    """The sensors over a round; the lists have an item a sample.

    Attributes:
        seconds: since the first query.
        cost_seconds: that reading all samples took.
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
    """What the process that started the worker saw meanwhile.

    Attributes:
        timeline: the sensors between the first query and the last.
        power_source: what `power_w` and `joules` are of.
        why_no_power: where there is none.
        joules: drawn between the first query and the last; None where that is not measured.
        seconds: that `joules` are of.
    """

    timeline: RoundTimeline
    power_source: str = ""
    why_no_power: str = ""
    joules: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RoundOutcome(WorkerOutcome):
    """What one round of a scenario measured.

    Attributes:
        samples_ns, warmup_runs, settled, interrupted, began_ns, ended_ns: see `edgekit.bench.measure.Timed`.
        streams: runs in flight at the same time.
        stages_ms: of loading, and of the way from an image file to class names.
        peak_rss_bytes: the most memory that the process held; None where the system does not say.
        device_memory_bytes: that it holds on an accelerator.
        conditions: see `edgekit.bench.sensors.conditions`.
        loadgen: LoadGen's version, scenario and summary, where it asked.
        watch: None until the process that started the worker has added it.
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
        """From the first query to the end of the last."""
        return self.ended_ns - self.began_ns


@dataclass(frozen=True, kw_only=True)
class ProfileOutcome(WorkerOutcome):
    """What a profile found.

    Attributes:
        samples_ns: of runs without the profiler.
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
    """Why a measuring process measured nothing: an `EdgekitError` of that kind."""

    kind: str
    message: str
    hint: str


def _proof(content: dict[str, Any]) -> Proof:
    from edgekit.bench.golden import Proof

    return Proof(**content["golden"])
