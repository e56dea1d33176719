"""What `edgekit bench` measures: the latency of a variant, and the time of each of its layers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from edgekit.result.part import Count, Many, ResultPart

Scenario = Literal["single-stream", "multi-stream", "offline", "server"]


class RateProbe(ResultPart):
    """One rate that was tried in the search for the highest rate that keeps a bound."""

    rate: float = Field(description="offered queries per second")
    queries: int
    over: int = Field(description="number of queries answered later than the bound")
    allowed: int = Field(description="how many may be late so that the percentile keeps the bound at confidence 0.99")
    kept: bool


class Timeline(ResultPart):
    """The sensors during the measurement, about ten times per second; null where a sensor did not answer."""

    round: Many[Count] = Field(description="index in `rounds`, from 0")
    seconds: Many[float] = Field(description="since the first sample of that round")
    clock_mhz: Many[float | None]
    gpu_clock_mhz: Many[float | None]
    temperature_c: Many[float | None]
    power_w: Many[float | None]
    throttled: Many[bool | None]
    power_source: str = Field("", description="what was measured; empty without a power sensor")
    why_no_power: str = ""
    cost_seconds: float | None = Field(
        None,
        description="processor time for reading the sensors, in the process that waits for the measuring one",
    )


class Latency(ResultPart):
    """The latency of one variant of a bundle at one batch size, measured in a fresh process."""

    kind: Literal["latency"] = "latency"
    bundle: str = Field(description="path of the bundle, as the user wrote it")
    bundle_digest: str = Field(description="SHA-256 of its bundle.json, which has the digests of all its files")
    variant: str
    runtime: str
    runtime_version: str
    precision: str
    settings: dict[str, str] = Field(
        description="settings given to the runtime and reported by it: provider, inference precision, …"
    )
    scenario: Scenario = "single-stream"
    batch: int = Field(description="images per run")
    threads: int = Field(description="inference threads, divided among the streams; 0: the runtime decided")
    provider: str | None = Field(
        None, description="the device or library that the runtime computes with; null is its CPU"
    )
    streams: int = Field(1, description="runs in flight at the same time")
    query: int | None = Field(None, description="images per query, the timed unit; null is one batch")
    rate: float | None = Field(None, description="server: offered queries per second, as a Poisson process")
    bound_ms: float | None = Field(None, description="server: the upper bound of p99")
    probes: Many[RateProbe] = Field(default_factory=list, description="server: the rates that were tried, in order")
    affinity: Many[int] = Field(description="the processors that the measuring process could run on")
    quick: bool = Field(description="measured for less time than the minimum")
    interrupted: bool = False
    warmup_runs: int
    samples_ns: Many[Count] = Field(
        description="the latency of every query, in order, in nanoseconds; none is dropped. single-stream: a `Session.run`; "
        "multi-stream: all images of a query; offline: a batch while every stream is busy; server: from the scheduled arrival"
    )
    rounds: Many[Count] = Field(
        default_factory=list,
        description="number of samples of each process, in order; variants that are measured together take turns",
    )
    percentiles_ms: dict[str, float | None] = Field(
        description="p50, p90, p95, p99, p99.9; null where there are too few samples"
    )
    mean_ms: float
    cv: float = Field(description="standard deviation divided by mean")
    drift: float = Field(
        description="median of the last tenth of the samples divided by that of the first tenth, minus 1"
    )
    throughput: float = Field(
        description="images per second: images of a query divided by mean latency; offline and server: all images divided by the time from "
        "the first to the last"
    )
    stages_ms: dict[str, float | None] = Field(
        description="medians if there are several: import, load, first_run, preprocess, host_to_device, compute and "
        "device_to_host (null where nothing is transferred), run, postprocess, end_to_end (from JPEG bytes)"
    )
    peak_rss_bytes: int | None
    device_memory_bytes: int | None = Field(
        None, description="memory on the accelerator at the end; null if none is used"
    )
    energy_joules: float | None = Field(
        None,
        description="total energy over the measured time; null without a sensor, see `timeline.power_source`",
    )
    energy_joules_per_inference: float | None = Field(
        None,
        description="per image: `energy_joules` minus `idle_watts` times the time, divided by the number of images",
    )
    idle_watts: float | None = Field(None, description="power before anything was loaded")
    timeline: Timeline | None = None
    loadgen: dict[str, Any] | None = Field(
        None, description="for a run under MLCommons LoadGen: its version, its summary, and the folder of its logs"
    )
    golden_max_abs_diff: float | None = Field(
        description="largest difference from the golden values of the main output, checked in the same process"
    )
    golden_agreement: float | None = Field(
        validation_alias=AliasChoices("golden_agreement", "golden_top1_agreement"),
        description="share of the golden images on which it decides as the trained model does",
    )
    golden_figures: dict[str, float] = Field(
        default_factory=dict,
        description="of the other outputs: NAME_max_abs_diff and NAME_cosine, the largest and the smallest",
    )
    golden_embedding_max_abs_diff: float | None = Field(None, exclude=True, description="older form of golden_figures")
    golden_embedding_cosine: float | None = Field(None, exclude=True, description="older form of golden_figures")
    accuracy: float | None = Field(
        None, description="the metric of the variant where it was exported, as the bundle has it"
    )
    accuracy_metric: str | None = Field(None, description="which one; null in older results, where it was top1")
    accuracy_samples: int | None = Field(
        None, description="the test images that it counts; null where it is no share of them"
    )
    conditions: dict[str, Any] = Field(
        description="governor, clocks, temperatures and load, before and after; null if not reported"
    )
    warnings: Many[str] = Field(description="reasons not to trust this result, one sentence each")

    @model_validator(mode="after")
    def _older(self) -> Latency:
        for name in ("embedding_max_abs_diff", "embedding_cosine"):
            value = getattr(self, f"golden_{name}")
            if value is not None:
                self.golden_figures.setdefault(name, value)
                setattr(self, f"golden_{name}", None)
        return self

    @model_validator(mode="after")
    def _whole(self) -> Latency:
        if self.bound_ms is not None and self.rate is None:
            raise ValueError("bound_ms needs a rate, and there is none")
        for name in ("p50", "p90", "p95", "p99", "p99.9"):
            self.percentiles_ms.setdefault(name, None)
        return self


class LayerTime(ResultPart):
    """The time of one node of the runtime's graph."""

    name: str
    operator: str
    calls: int
    ms: float = Field(description="per run")
    share: float = Field(description="share of the time of all nodes")


class Profile(ResultPart):
    """The time of each node of a variant, from the runtime's profiler, in a new process."""

    kind: Literal["profile"] = "profile"
    bundle: str = Field(description="path of the bundle as given")
    bundle_digest: str
    variant: str
    runtime: str
    runtime_version: str
    precision: str
    settings: dict[str, str]
    batch: int
    threads: int
    provider: str | None = None
    runs: int = Field(description="number of profiled runs, after a warm-up")
    run_ms: float = Field(description="median of a run without the profiler, in the same process")
    layers_ms: float = Field(
        description="per run, all nodes together; more than `run_ms` because of the profiler's overhead"
    )
    layers: Many[LayerTime] = Field(description="in the order of execution")

    def by_operator(self) -> list[LayerTime]:
        """Return the sum of each operator's layers, the longest first; `name` is the number of nodes."""
        layers_of: dict[str, list[LayerTime]] = {}
        for layer in self.layers:
            layers_of.setdefault(layer.operator, []).append(layer)
        rows = [
            LayerTime.model_construct(
                name=str(len(layers)),
                operator=operator,
                calls=sum(layer.calls for layer in layers),
                ms=sum(layer.ms for layer in layers),
                share=sum(layer.share for layer in layers),
            )
            for operator, layers in layers_of.items()
        ]
        return sorted(rows, key=lambda row: -row.ms)
