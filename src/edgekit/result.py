"""The result: one JSON file a measurement, raw samples included, with what is needed to repeat it."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from edgekit.errors import EdgekitError
from edgekit.files import write_text
from edgekit.foreign import Unreadable, read_bytes, understood
from edgekit.machine import Machine, this_machine
from edgekit.shares import percent
from edgekit.text import visible
from edgekit.validation import first_problem

MOST_RESULT = 1 << 30  # bytes of a file: every sample is in it
# Texts, lists and groups of one file, counted by their signs. Samples are plain numbers; a profile has about fifteen a layer.
MOST_PIECES = 1_000_000
_MOST_TEXT = 100_000  # characters of one text
RESULT_SCHEMA = 1


T = TypeVar("T")
# Of many wrong elements the first is told; an error for each would take more memory than the file.
Many = Annotated[list[T], FailFast()]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class ResultPart(BaseModel):
    """A part of a result: no unknown keys."""

    model_config = ConfigDict(extra="forbid")


Scenario = Literal["single-stream", "multi-stream", "offline", "server"]


class RateProbe(ResultPart):
    """One rate that was tried in the search for the highest that keeps a bound."""

    rate: float = Field(description="queries a second that were offered")
    queries: int
    over: int = Field(description="of them answered later than the bound")
    allowed: int = Field(description="how many may be, so that the percentile keeps the bound at confidence 0.99")
    kept: bool


class Timeline(ResultPart):
    """What the sensors said while it was measured, about ten times a second; null where a sensor did not answer."""

    round: Many[Count] = Field(description="in which round of `rounds`, from 0")
    seconds: Many[float] = Field(description="since the first sample of that round")
    clock_mhz: Many[float | None]
    gpu_clock_mhz: Many[float | None]
    temperature_c: Many[float | None]
    power_w: Many[float | None]
    throttled: Many[bool | None]
    power_source: str = Field("", description="what was metered; empty where nothing can be")
    why_no_power: str = ""
    cost_seconds: float | None = Field(
        None,
        description="processor time that reading the sensors took, in the process that waits for the measuring one",
    )


class Latency(ResultPart):
    """The latency of one variant of a bundle at one batch size, measured in a fresh process."""

    kind: Literal["latency"] = "latency"
    bundle: str = Field(description="path of the bundle as given")
    bundle_digest: str = Field(description="SHA-256 of its bundle.json, which holds the digests of all its files")
    variant: str
    runtime: str
    runtime_version: str
    precision: str
    settings: dict[str, str] = Field(
        description="what the runtime was told and what it answered: provider, inference precision, …"
    )
    scenario: Scenario = "single-stream"
    batch: int = Field(description="images a run")
    threads: int = Field(description="of the inference, shared out over the streams; 0 left it to the runtime")
    provider: str | None = Field(None, description="what the runtime was told to compute with; null is its CPU")
    streams: int = Field(1, description="runs in flight at the same time")
    query: int | None = Field(None, description="images a query, the unit that is timed; null is one batch")
    rate: float | None = Field(None, description="server: queries a second that were offered, as a Poisson process")
    bound_ms: float | None = Field(None, description="server: the latency that p99 was to keep")
    probes: Many[RateProbe] = Field(default_factory=list, description="server: the rates that were tried, in order")
    affinity: Many[int] = Field(description="the processors that the measuring process could run on")
    quick: bool = Field(description="measured for less time than the floor asks")
    interrupted: bool = False
    warmup_runs: int
    samples_ns: Many[Count] = Field(
        description="the latency of every query, in order, in nanoseconds; none is dropped. single-stream: a `Session.run`; "
        "multi-stream: all images of a query; offline: a batch while every stream is busy; server: from the scheduled arrival"
    )
    rounds: Many[Count] = Field(
        default_factory=list,
        description="how many of the samples each fresh process took, in order; variants measured together take turns",
    )
    percentiles_ms: dict[str, float | None] = Field(
        description="p50, p90, p95, p99, p99.9; null where the samples do not suffice"
    )
    mean_ms: float
    cv: float = Field(description="standard deviation over mean")
    drift: float = Field(description="median of the last tenth of the samples over that of the first tenth, minus 1")
    throughput: float = Field(
        description="images a second: of a query over mean latency; offline and server: all images over the time from the first "
        "to the last"
    )
    stages_ms: dict[str, float | None] = Field(
        description="medians where there are several: import, load, first_run, preprocess, host_to_device, compute and "
        "device_to_host (null where nothing is transferred), run, postprocess, end_to_end (from JPEG bytes)"
    )
    peak_rss_bytes: int | None
    device_memory_bytes: int | None = Field(
        None, description="held on the accelerator at the end; null where none is used"
    )
    energy_joules: float | None = Field(
        None,
        description="drawn over the measured time, whatever it was for; null without a sensor, see `timeline.power_source`",
    )
    energy_joules_per_inference: float | None = Field(
        None, description="of an image: `energy_joules` less `idle_watts` times the time, over the number of images"
    )
    idle_watts: float | None = Field(None, description="drawn before anything was loaded")
    timeline: Timeline | None = None
    loadgen: dict[str, Any] | None = Field(
        None, description="of a run under MLCommons LoadGen: its version, its own summary, and the folder of its logs"
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
        description="governor, clocks, temperatures, load before and after; null where absent"
    )
    warnings: Many[str] = Field(description="why a figure here is not to be trusted, one sentence each")

    @model_validator(mode="after")
    def _older(self) -> Latency:
        for name in ("embedding_max_abs_diff", "embedding_cosine"):
            value = getattr(self, f"golden_{name}")
            if value is not None:
                self.golden_figures.setdefault(name, value)
        return self

    @model_validator(mode="after")
    def _whole(self) -> Latency:
        if self.bound_ms is not None and self.rate is None:
            raise ValueError("bound_ms is of a rate, and there is none")
        for name in ("p50", "p90", "p95", "p99", "p99.9"):
            self.percentiles_ms.setdefault(name, None)
        return self


class LayerTime(ResultPart):
    """The time of one node of the graph, as the runtime executes it."""

    name: str
    operator: str
    calls: int
    ms: float = Field(description="a run")
    share: float = Field(description="of the time of all nodes")


class Profile(ResultPart):
    """Where the time of one variant of a bundle goes: the runtime's own profiler, in a fresh process."""

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
    runs: int = Field(description="that were profiled, after a warm-up")
    run_ms: float = Field(description="median of a run without the profiler, in the same process")
    layers_ms: float = Field(description="a run, all nodes together; more than `run_ms` by what the profiler costs")
    layers: Many[LayerTime] = Field(description="in the order of execution")

    def by_operator(self) -> list[LayerTime]:
        """The layers of each operator added up, the longest first; their name is the number of nodes."""
        found: dict[str, list[LayerTime]] = {}
        for layer in self.layers:
            found.setdefault(layer.operator, []).append(layer)
        rows = [
            LayerTime.model_construct(
                name=str(len(layers)),
                operator=operator,
                calls=sum(layer.calls for layer in layers),
                ms=sum(layer.ms for layer in layers),
                share=sum(layer.share for layer in layers),
            )
            for operator, layers in found.items()
        ]
        return sorted(rows, key=lambda row: -row.ms)


class Score(ResultPart):
    """One number about one model, with the protocol that it was measured by."""

    model: str = Field(description="encoder, teacher, student, supervised, a variant's id; of a transfer, the weights")
    metric: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,39}$",
        description="of the run's task, such as top1; of what is read from an encoder's features: knn, linear, centroid, logistic",
    )
    value: float = Field(ge=0, le=1)
    samples: int
    protocol: str
    per_class: dict[str, float] | None = None
    shots: int | None = Field(
        None, description="of a few-shot score: labeled images a class; value is the mean over draws"
    )
    interval: tuple[float, float] | None = Field(
        None, description="of a few-shot score: 95 % of its mean over the draws"
    )


class Advice(ResultPart):
    """One thing that a run's own numbers say about its recipe."""

    rule: str = Field(description="name of the rule that found it")
    finding: str = Field(description="what is so, with the numbers, one sentence without a full stop")
    change: str = Field(description="what to change, and to what")


class Difference(ResultPart):
    """How much more often one model is right than another on the same test images, in the mean over the label draws."""

    first: str
    second: str
    value: float = Field(description="accuracy of the first minus that of the second")
    interval: tuple[float, float] = Field(description="95 %, paired bootstrap over images and, of several, label draws")
    samples: int = Field(description="test images")
    draws: int = Field(1, description="label draws that both were trained on")
    p_value: float | None = Field(None, description="McNemar's exact test; null for several draws")
    protocol: str

    @property
    def shown(self) -> bool:
        """Whether the numbers show a difference at all: 0 is outside the interval, and McNemar's test agrees at 5 %."""
        low, high = self.interval
        return not low <= 0 <= high and (self.p_value is None or self.p_value < 0.05)


class Draw(ResultPart):
    """The accuracies of the models that were trained on one draw of the label budget."""

    label_seed: int
    run: str = Field(description="its folder")
    values: dict[str, float] = Field(description="model -> top-1 on the test set")


class AnswersFile(ResultPart):
    """The file of the answers to every test image, beside the result; see `edgekit.answers`."""

    file: str
    sha256: str


class Worst(ResultPart):
    """A test image that the student is most certain about and wrong."""

    file: str
    truth: str
    predicted: str
    probability: float = Field(description="of the predicted class")


class Evaluation(ResultPart):
    """What the models of a run score on its test set."""

    kind: Literal["evaluation"] = "evaluation"
    task: str = Field("classification", description="what the models answer")
    run: str
    data: str = Field(description="what the test set is")
    scores: list[Score]
    classes: list[str] = Field(default_factory=list, description="names, in the order of the answers' numbers")
    differences: list[Difference] = Field(default_factory=list, description="of the student to the others")
    draws: list[Draw] = Field(default_factory=list, description="empty where the labels were drawn once")
    advice: list[Advice] = Field(default_factory=list, description="what counts most first")
    answers: AnswersFile | None = None
    worst: list[Worst] = Field(default_factory=list, description="in the order of their thumbnails in the answers")

    def difference(self, first: str, second: str) -> Difference | None:
        """The difference of two models, or None where it was not measured."""
        return next((d for d in self.differences if (d.first, d.second) == (first, second)), None)

    def value(self, model: str, metric: str) -> float | None:
        """One score, or None where it was not measured."""
        return next((s.value for s in self.scores if s.model == model and s.metric == metric), None)


class AblationCell(ResultPart):
    """One training of an ablation."""

    values: list[str] = Field(description="one for each axis, in their order")
    run: str = Field(description="its run folder, relative to the ablation's")
    scores: list[Score] = Field(default_factory=list, description="empty where it failed")
    seconds: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="of its stages, copied ones included; null where it failed"
    )
    error: str | None = None

    def value(self, model: str, metric: str) -> float | None:
        """One score, or None where it was not measured."""
        return next((s.value for s in self.scores if (s.model, s.metric) == (model, metric)), None)


class Axis(ResultPart):
    """What an ablation changes, and the values that it takes."""

    name: str = Field(description="a key of the recipe; first and second: the transformations of one branch, in order")
    values: list[str]


class Ablation(ResultPart):
    """A recipe trained with other values of some keys: every combination of them."""

    kind: Literal["ablation"] = "ablation"
    subject: Literal["augmentations", "values"] = Field(
        description="augmentations: SimCLR's figure 5, where a cell with the same transformation twice has it once"
    )
    recipe: str = Field(description="its name")
    data: str = Field(description="what the test set is")
    until: str = Field(description="the last stage that was trained")
    axes: list[Axis]
    planned: int = Field(description="how many cells it has; fewer are listed where it was interrupted")
    cells: list[AblationCell]

    def cell(self, *values: str) -> AblationCell | None:
        """The cell of these values, or None where it is not done."""
        return next((c for c in self.cells if c.values == list(values)), None)

    def metrics(self) -> list[tuple[str, str]]:
        """(model, metric) of every score, in the order of the stages."""
        return list(dict.fromkeys((s.model, s.metric) for c in self.cells for s in c.scores))


class TransferSet(ResultPart):
    """What a run's encoder comes to on one other labeled data set."""

    name: str
    data: str = Field(description="the folder as given")
    classes: int
    train: int = Field(description="images with labels")
    test: int
    split: str = Field(description="how train and test were divided")
    scores: list[Score] = Field(description="models: encoder, random; fine-tuned, from scratch")

    def value(self, model: str) -> float | None:
        """One accuracy, or None where it was not measured."""
        return next((s.value for s in self.scores if s.model == model), None)


class Transfer(ResultPart):
    """A run's encoder on other labeled data sets, as in SimCLR's table 8."""

    kind: Literal["transfer"] = "transfer"
    run: str
    weights_sha256: str = Field(description="of the pretrained encoder")
    sets: list[TransferSet]


class Result(ResultPart):
    """A measurement and the circumstances that it was made in."""

    result_schema: Literal[1] = Field(1, alias="schema")
    created: str
    command: list[str]
    seed: int | None = None
    machine: Machine
    measurement: Annotated[Latency | Profile | Evaluation | Ablation | Transfer, Field(discriminator="kind")]

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def __repr__(self) -> str:
        return visible(f"<Result {self.measurement.kind} {_in_short(self.measurement)}>")

    __str__ = __repr__  # all the samples of a measurement would fill a notebook

    @classmethod
    def of(cls, measurement: Latency | Profile | Evaluation | Ablation | Transfer, seed: int | None = None) -> Result:
        """A measurement made just now, on this machine, by this command."""
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        return cls(created=now(), command=command, seed=seed, machine=this_machine(), measurement=measurement)

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a result file.

        Raises:
            EdgekitError: the file is missing, damaged, or of a newer schema.
        """
        try:
            content = read_bytes(path, MOST_RESULT)
        except Unreadable as error:
            raise EdgekitError(f"{path}: {'no such result' if error.missing else error.reason}") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path | str) -> Result:
        """The result in the bytes of a file.

        Args:
            content: its bytes; reading them takes at most some 25 times as much memory, and half a gigabyte.
            path: its name, for messages.

        Raises:
            EdgekitError: it is damaged, holds a number that no measurement gives, or is of a newer schema.
        """
        if sum(content.count(sign) for sign in (b'"', b"[", b"{")) > MOST_PIECES:
            raise EdgekitError(f"{path}: not a result file: it holds more than {MOST_PIECES:,} texts and lists")
        try:
            with understood(path, f"a result file of schema {RESULT_SCHEMA}"):
                try:
                    result = cls.model_validate_json(content)
                except ValidationError as error:
                    raise ValueError(first_problem(error)) from error
                if not _plausible(result.model_dump(exclude={"measurement": {"samples_ns"}})):
                    raise ValueError("it holds a number or a text that is too large, or a number that is not finite")
        except Unreadable as error:
            raise EdgekitError(f"{path}: {error.reason}") from error
        return result

    def write(self, path: Path) -> None:
        """Write the result atomically."""
        write_text(path, self.model_dump_json(indent=1, by_alias=True) + "\n")


def _plausible(value: Any) -> bool:
    """Whether every number in groups and lists is finite and one that can be calculated with, and every text one that can be shown."""
    if isinstance(value, dict):
        return all(_plausible(key) and _plausible(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_plausible, value))
    if isinstance(value, str):
        return len(value) <= _MOST_TEXT
    return not isinstance(value, (int, float)) or abs(value) < 2**63  # false of what is not a number, too


def now() -> str:
    """The time, in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _in_short(measurement: Latency | Profile | Evaluation | Ablation | Transfer) -> str:
    """What a measurement found, for a person who looks at it in Python."""
    if isinstance(measurement, Latency):
        median = measurement.percentiles_ms.get("p50")
        speed = f"p50 {median:.3g} ms" if median is not None else f"mean {measurement.mean_ms:.3g} ms"
        return f"of {measurement.variant}, batch {measurement.batch}: {speed}, {measurement.throughput:.3g} images/s"
    if isinstance(measurement, Profile):
        return f"of {measurement.variant}, batch {measurement.batch}: {len(measurement.layers)} layers"
    if isinstance(measurement, Evaluation):
        scores = [s for s in measurement.scores if s.shots is None]
        return f"of {measurement.run}: " + ", ".join(f"{s.model} {s.metric} {percent(s.value)}" for s in scores)
    if isinstance(measurement, Ablation):
        return f"of {measurement.recipe}: {len(measurement.cells)} of {measurement.planned} cells"
    return f"of {measurement.run}: {', '.join(one.name for one in measurement.sets)}"
