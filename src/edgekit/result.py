"""The result: one JSON file per measurement, with raw samples and everything needed to repeat it."""

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
from edgekit.sizes import LEAST_SIDE, MOST_SIDE, ImageSize, SizeBounds
from edgekit.text import visible
from edgekit.validation import first_problem

MOST_RESULT = 1 << 30  # bytes of a file, which has every sample
# Texts, lists and groups of one file, counted by their delimiters. Samples are plain numbers; a profile has about fifteen per layer.
MOST_PIECES = 1_000_000
_MOST_TEXT = 100_000  # characters of one text
RESULT_SCHEMA = 1


T = TypeVar("T")
# Only the first of many wrong elements is reported: an error for each would take more memory than the file.
Many = Annotated[list[T], FailFast()]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class ResultPart(BaseModel):
    """A part of a result, without unknown keys."""

    model_config = ConfigDict(extra="forbid")


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


class Score(ResultPart):
    """One score of one model, with its protocol."""

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
        None, description="of a few-shot score: labeled images per class; the value is the mean over draws"
    )
    interval: tuple[float, float] | None = Field(
        None, description="of a few-shot score: 95 % interval of the mean over the draws"
    )


class Advice(ResultPart):
    """One piece of advice on a recipe, from the run's own numbers."""

    rule: str = Field(description="name of the rule that found it")
    finding: str = Field(description="the finding with its numbers, one sentence without a full stop")
    change: str = Field(description="what to change, and to what")


class Difference(ResultPart):
    """The difference in accuracy of two models on the same test images, as the mean over the label draws."""

    first: str
    second: str
    value: float = Field(description="accuracy of the first minus that of the second")
    interval: tuple[float, float] = Field(
        description="95 %, paired bootstrap over images and, if there are several, label draws"
    )
    samples: int = Field(description="test images")
    draws: int = Field(1, description="label draws that both were trained on")
    p_value: float | None = Field(None, description="McNemar's exact test; null for several draws")
    protocol: str

    @property
    def shown(self) -> bool:
        """Whether the difference is significant: 0 is outside the interval, and McNemar's test agrees at 5 %."""
        low, high = self.interval
        return not low <= 0 <= high and (self.p_value is None or self.p_value < 0.05)


class Draw(ResultPart):
    """The accuracies of the models trained on one draw of the label budget."""

    label_seed: int
    run: str = Field(description="its folder")
    values: dict[str, float] = Field(description="model -> top-1 on the test set")


class AnswersFile(ResultPart):
    """The file beside the result with the predictions for every test image; see `edgekit.answers`."""

    file: str
    sha256: str


class WorstImage(ResultPart):
    """A wrong test image with the student's highest confidence."""

    file: str
    truth: str
    predicted: str
    probability: float = Field(description="of the predicted class")


class ModelCalibration(ResultPart):
    """What a temperature, set on the probe set, does to a classifier's probabilities on the test set (Guo et al. 2017).

    Of a multi-label classifier the calibration error is the class-wise one, and `nll` the binary cross-entropy.
    """

    model: str
    temperature: float = Field(gt=0)
    probe: int = Field(description="images that it was set on")
    samples: int = Field(description="test images that the errors are of")
    ece: tuple[float, float] = Field(
        description="expected calibration error with 15 bins of equal width, before and after"
    )
    nll: tuple[float, float] = Field(description="negative log-likelihood in nats, before and after")


class Evaluation(ResultPart):
    """The scores of a run's models on its test set."""

    kind: Literal["evaluation"] = "evaluation"
    task: str = Field("classification", description="what the models answer")
    run: str
    data: str = Field(description="what the test set is")
    scores: list[Score]
    classes: list[str] = Field(
        default_factory=list, description="names, in the order of the class numbers in the answers"
    )
    differences: list[Difference] = Field(default_factory=list, description="of the student to the others")
    draws: list[Draw] = Field(default_factory=list, description="empty if the labels were drawn once")
    calibrations: list[ModelCalibration] = Field(
        default_factory=list,
        description="of the classifiers; empty where the probe set is too small, and in older results",
    )
    advice: list[Advice] = Field(default_factory=list, description="the most important first")
    answers: AnswersFile | None = None
    worst: list[WorstImage] = Field(default_factory=list, description="in the order of their thumbnails in the answers")

    def difference(self, first: str, second: str) -> Difference | None:
        """Return the difference of two models, or None if it was not measured."""
        return next((d for d in self.differences if (d.first, d.second) == (first, second)), None)

    def value(self, model: str, metric: str) -> float | None:
        """Return one score, or None if it was not measured."""
        return next((s.value for s in self.scores if s.model == model and s.metric == metric), None)


class AblationCell(ResultPart):
    """One training of an ablation."""

    values: list[str] = Field(description="one for each axis, in order")
    run: str = Field(description="its run folder, relative to the ablation's")
    scores: list[Score] = Field(default_factory=list, description="empty if it failed")
    seconds: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="time of its stages, including copied ones; null if it failed"
    )
    error: str | None = None

    def value(self, model: str, metric: str) -> float | None:
        """Return one score, or None if it was not measured."""
        return next((s.value for s in self.scores if (s.model, s.metric) == (model, metric)), None)


class Axis(ResultPart):
    """A key that an ablation changes, and its values."""

    name: str = Field(description="a key of the recipe; first and second: the transformations of one branch, in order")
    values: list[str]


class Ablation(ResultPart):
    """A recipe trained with every combination of values of some keys."""

    kind: Literal["ablation"] = "ablation"
    subject: Literal["augmentations", "values"] = Field(
        description="augmentations: SimCLR's figure 5, where a cell with the same transformation twice applies it once"
    )
    recipe: str = Field(description="its name")
    data: str = Field(description="what the test set is")
    until: str = Field(description="the last stage that was trained")
    axes: list[Axis]
    planned: int = Field(description="number of cells; fewer are listed if it was interrupted")
    cells: list[AblationCell]

    def cell(self, *values: str) -> AblationCell | None:
        """Return the cell of these values, or None if it is not complete."""
        return next((c for c in self.cells if c.values == list(values)), None)

    def metrics(self) -> list[tuple[str, str]]:
        """Return (model, metric) of every score, in the order of the stages."""
        return list(dict.fromkeys((s.model, s.metric) for c in self.cells for s in c.scores))


class TransferSet(ResultPart):
    """The scores of a run's encoder on another labeled data set."""

    name: str
    data: str = Field(description="the folder, as the user wrote it")
    classes: int
    train: int = Field(description="images with labels")
    test: int
    split: str = Field(description="how train and test were divided")
    scores: list[Score] = Field(description="models: encoder, random; fine-tuned, from scratch")

    def value(self, model: str) -> float | None:
        """Return one accuracy, or None if it was not measured."""
        return next((s.value for s in self.scores if s.model == model), None)


class Transfer(ResultPart):
    """The scores of a run's encoder on other labeled data sets, as in SimCLR's table 8."""

    kind: Literal["transfer"] = "transfer"
    run: str
    weights_sha256: str = Field(description="of the pretrained encoder")
    sets: list[TransferSet]


class SearchVariant(ResultPart):
    """One variant of a candidate of a search, measured with random weights."""

    id: str
    runtime: str
    precision: str
    bytes: int = Field(ge=0)
    percentiles_ms: dict[str, float | None] = Field(
        default_factory=dict,
        description="over the samples of all turns; null where there are too few, empty where it was not measured",
    )
    energy_mj: float | None = Field(None, description="per image; null without a sensor")
    samples: int = 0
    turns: int = Field(0, description="short benches, in turns with the other candidates")
    spread: float | None = Field(None, description="largest median of a turn divided by the smallest, minus 1")
    golden_agreement: float | None = Field(
        None,
        description="share of the golden images on which the device decides as PyTorch does; of random weights partly a matter of chance",
    )
    error: str = Field("", description="why it could not be measured")
    outside: list[str] = Field(
        default_factory=list, description="the limits that it breaks; empty: it is within the budget"
    )

    @property
    def p50(self) -> float | None:
        """Median latency, ms."""
        return self.percentiles_ms.get("p50")


class SearchRound(ResultPart):
    """One short training of a candidate."""

    epochs: int
    score: float | None = Field(
        None, ge=0, le=1, description="see `scored_on` of the search; null if the training failed"
    )
    images: int = Field(0, description="that the score counts")
    seconds: float = 0.0
    error: str = ""


class SearchCandidate(ResultPart):
    """One student of a search."""

    name: str
    student: dict[str, Any] = Field(description="its keys of `distill.student`")
    image_size: Annotated[ImageSize, SizeBounds(LEAST_SIDE, MOST_SIDE)]
    variants: list[SearchVariant] = Field(default_factory=list)
    rounds: list[SearchRound] = Field(default_factory=list, description="short trainings, the shortest first")
    error: str = Field("", description="why it could not be exported or measured")
    left_out: str = Field(
        "", description="why it was not trained further; empty for the winner, and while the search goes on"
    )

    def fitting(self) -> SearchVariant | None:
        """Return the fastest variant within the budget; None if there is none."""
        found = [v for v in self.variants if not v.error and not v.outside and v.p50 is not None]
        return min(found, key=lambda v: v.p50 or 0.0, default=None)

    @property
    def score(self) -> float | None:
        """The score of its longest short training."""
        return next((r.score for r in reversed(self.rounds) if r.score is not None), None)


class TrainedVariant(ResultPart):
    """A variant of a student that was trained in full, measured in turns with the same variant with random weights."""

    id: str
    precision: str
    status: str
    accuracy: float | None = Field(None, description="on the test set")
    bytes: int
    percentiles_ms: dict[str, float | None] = Field(default_factory=dict)
    energy_mj: float | None = None
    before_p50_ms: float | None = Field(None, description="of random weights, in the same turns")
    ratio: float | None = Field(
        None, description="median over the turns of its median latency divided by that of random weights"
    )
    outside: list[str] = Field(default_factory=list, description="the limits that it breaks, or why it was rejected")


class SearchTrained(ResultPart):
    """A candidate that was trained in full."""

    candidate: str
    run: str = Field(description="its run folder, relative to the search's")
    accuracy: float = Field(ge=0, le=1, description="of the student before export, top-1 on the test set")
    teacher_accuracy: float | None = None
    samples: int = Field(description="test images")
    variants: list[TrainedVariant]
    variant: str | None = Field(description="the most accurate one within the budget; null if none is")
    seconds: float


class PrunedStep(ResultPart):
    """One step of pruning: channels are removed, then the network is distilled and measured on the device."""

    removed: float = Field(ge=0, le=1, description="share of the whole network's channels that are gone")
    parameters: int = Field(description="of the encoder")
    epochs: int = Field(description="of the distillation after it")
    score: float | None = Field(None, ge=0, le=1, description="after the distillation; see `scored_on` of the search")
    variants: list[SearchVariant] = Field(default_factory=list)
    seconds: float = Field(0.0, description="of the distillation")


class Pruning(ResultPart):
    """A larger network than the winner, pruned to the budget."""

    candidate: str | None = Field(None, description="the network that was pruned; null if none was")
    against: str | None = Field(None, description="the winner before; null if nothing was within the budget")
    name: str | None = Field(None, description="of the pruned network; null if it could not be made")
    whole_score: float | None = Field(None, ge=0, le=1, description="of the network before pruning")
    steps: list[PrunedStep] = Field(default_factory=list)
    score: float | None = Field(None, ge=0, le=1, description="of the pruned network; see `scored_on` of the search")
    against_score: float | None = Field(None, ge=0, le=1, description="of `against`, trained in full")
    images: int = Field(0, description="that the scores count")
    kept: bool = Field(False, description="whether it is the winner now")
    outcome: str = Field(description="what came of it, in words")
    skipped: list[str] = Field(default_factory=list, description="networks that cannot be pruned, with the reason")
    seconds: float = 0.0


class Search(ResultPart):
    """A search for the student that fits a budget on a device."""

    kind: Literal["search"] = "search"
    recipe: str = Field(description="its name")
    device: str
    device_machine: str = Field("", description="its processor")
    threads: int = 0
    budgets: list[str]
    candidates: list[SearchCandidate]
    scored_on: str = Field(description="what the short rounds are scored on")
    full_epochs: int | None = None
    trained: list[SearchTrained] = Field(
        default_factory=list, description="in full, in the order in which they were tried"
    )
    pruning: Pruning | None = Field(None, description="with --prune: a larger network, pruned to the budget")
    winner: str | None = Field(None, description="the candidate's name; null if there is none, or not yet")
    winner_recipe: str | None = Field(None, description="file of its recipe, relative to the search's folder")
    nearest: str = Field("", description="if nothing is within the budget: what comes nearest, with its numbers")
    seconds: dict[str, float] = Field(
        default_factory=dict,
        description="the cost by phase: measure, teacher, rounds, full, pruning; of all machines and sessions",
    )

    def candidate(self, name: str) -> SearchCandidate | None:
        """Return a candidate by its name, or None."""
        return next((c for c in self.candidates if c.name == name), None)

    def won(self) -> SearchTrained | None:
        """Return the full training of the winner, or None."""
        return next((t for t in self.trained if t.candidate == self.winner), None)


class Result(ResultPart):
    """A measurement with its time, command, seed and machine."""

    result_schema: Literal[1] = Field(1, alias="schema")
    created: str
    command: list[str]
    seed: int | None = None
    machine: Machine
    measurement: Annotated[Latency | Profile | Evaluation | Ablation | Transfer | Search, Field(discriminator="kind")]

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def __repr__(self) -> str:
        return visible(f"<Result {self.measurement.kind} {_in_short(self.measurement)}>")

    __str__ = __repr__  # all the samples of a measurement would fill a notebook

    @classmethod
    def of(
        cls, measurement: Latency | Profile | Evaluation | Ablation | Transfer | Search, seed: int | None = None
    ) -> Result:
        """Return a result for a measurement that this command has just made on this machine."""
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        return cls(created=now(), command=command, seed=seed, machine=this_machine(), measurement=measurement)

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a result file.

        Raises:
            EdgekitError: the file is missing or damaged, or has a newer schema.
        """
        try:
            content = read_bytes(path, MOST_RESULT)
        except Unreadable as error:
            raise EdgekitError(f"{path}: {'no such result' if error.missing else error.reason}") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path | str) -> Result:
        """Parse the bytes of a result file.

        Args:
            content: its bytes; parsing takes at most about 25 times as much memory, and half a gigabyte.
            path: its name, for messages.

        Raises:
            EdgekitError: it is damaged, has an impossible number, or has a newer schema.
        """
        if sum(content.count(sign) for sign in (b'"', b"[", b"{")) > MOST_PIECES:
            raise EdgekitError(f"{path}: not a result file: it has more than {MOST_PIECES:,} texts and lists")
        try:
            with understood(path, f"a result file of schema {RESULT_SCHEMA}"):
                try:
                    result = cls.model_validate_json(content)
                except ValidationError as error:
                    raise ValueError(first_problem(error)) from error
                if not _plausible(result.model_dump(exclude={"measurement": {"samples_ns"}})):
                    raise ValueError("it has a number or a text that is too large, or a number that is not finite")
        except Unreadable as error:
            raise EdgekitError(f"{path}: {error.reason}") from error
        return result

    def write(self, path: Path) -> None:
        """Write the result atomically."""
        write_text(path, self.model_dump_json(indent=1, by_alias=True) + "\n")


def _plausible(value: Any) -> bool:
    """Whether every number in groups and lists is finite and not too large, and every text not too long."""
    if isinstance(value, dict):
        return all(_plausible(key) and _plausible(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_plausible, value))
    if isinstance(value, str):
        return len(value) <= _MOST_TEXT
    return not isinstance(value, (int, float)) or abs(value) < 2**63  # also false for NaN


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _in_short(measurement: Latency | Profile | Evaluation | Ablation | Transfer | Search) -> str:
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
    if isinstance(measurement, Search):
        found = f"the winner is {measurement.winner}" if measurement.winner else "no winner"
        return f"of {measurement.recipe}: {len(measurement.candidates)} candidates, {found}"
    return f"of {measurement.run}: {', '.join(one.name for one in measurement.sets)}"
