"""Read everything in a run's folder once; a missing or unreadable part becomes a `Gap`, never an error."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import tasks
from edgekit.answers import FILE, Answers, read_answers
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.files import sha256
from edgekit.foreign import Unreadable, read_csv, read_json, read_text, understood
from edgekit.recipe import Recipe
from edgekit.report.stale import bundle_is_stale, evaluation_is_stale, stale_stages
from edgekit.result import Evaluation, Latency, Profile, Result
from edgekit.run import Run, StageRecord
from edgekit.tasks import ANOMALY
from edgekit.tasks.anomaly_answers import FILE as ANOMALY_FILE
from edgekit.tasks.anomaly_answers import AnomalyAnswers, read_anomaly_answers


@dataclass(frozen=True)
class Gap:
    """A part that is missing from the report, the reason, and the command that makes it."""

    part: str
    why: str
    command: str


@dataclass(frozen=True)
class History:
    """A stage's history.csv: `columns[name][i]` is the value after epoch `epochs[i]`, None if none was logged."""

    epochs: list[float]
    columns: dict[str, list[float | None]]


@dataclass(frozen=True)
class Stage:
    """A complete stage."""

    name: str
    record: StageRecord
    history: History | None


@dataclass(frozen=True)
class LatencyFacts:
    """A latency result, and whether it measures the run's current bundle; `device` is empty for this machine."""

    file: str
    result: Result
    latency: Latency
    current: bool
    device: str = ""


@dataclass(frozen=True)
class ImageCounts:
    """The number of images in a set, and in each class if they are labeled."""

    images: int
    per_class: dict[str, int]


@dataclass(frozen=True)
class DataFacts:
    """The output of the data stage (splits.json, skipped.csv): the sets pool, labels, probe and test."""

    classes: list[str]
    sets: dict[str, ImageCounts]
    notes: list[str]
    skipped: list[tuple[str, str]]


@dataclass
class ReportFacts:
    """The facts about a run."""

    path: Path
    recipe: Recipe
    recipe_text: str
    stages: dict[str, Stage] = field(default_factory=dict)
    data: DataFacts | None = None
    evaluation_result: Result | None = None
    evaluation: Evaluation | None = None
    answers: Answers | None = None
    anomalies: AnomalyAnswers | None = None
    bundle: Bundle | None = None
    measured: list[LatencyFacts] = field(default_factory=list)  # single-stream
    scenarios: list[LatencyFacts] = field(default_factory=list)  # all others
    profiles: list[tuple[Profile, str]] = field(default_factory=list)  # of the current bundle, with the device
    views: Path | None = None
    gaps: list[Gap] = field(default_factory=list)

    @property
    def task(self) -> tasks.Task:
        """What its models answer."""
        return tasks.find(
            self.evaluation.task if self.evaluation else self.bundle.manifest.task if self.bundle
            else ANOMALY if self.detects else tasks.DEFAULT
        )  # fmt: skip

    @property
    def detects(self) -> bool:
        """Whether the run builds a detector of anomalies, and no classifier."""
        return self.recipe.task == ANOMALY

    def command(self, name: str) -> str:
        """Return the command line that makes a part of this run, ready to paste into a shell."""
        run = shlex.quote(str(self.path))
        if name == "train":
            elsewhere = "" if self.path == Path("runs") / self.recipe.name else f" --run {run}"
            return f"edgekit train {shlex.quote(str(self.path / 'recipe.yaml'))}{elsewhere}"
        return f"edgekit {name} {shlex.quote(str(self.path / 'export')) if name == 'bench' else run}"

    def missing(self, part: str) -> list[Gap]:
        """Return the gaps of one part."""
        return [gap for gap in self.gaps if gap.part == part]


def collect(path: Path | str) -> ReportFacts:
    """Read a run's folder.

    Raises:
        RunError: it is not a run folder.
        RecipeError: its recipe is invalid.
    """
    run = Run.open(path)
    facts = ReportFacts(path=run.path, recipe=run.recipe, recipe_text=read_text(run.recipe_path))
    _read_stages(run, facts)
    records = {name: stage.record for name, stage in facts.stages.items()}
    stale = stale_stages(records)
    for name, why in stale.items():
        facts.gaps.append(Gap(name, why, facts.command("train")))
        del facts.stages[name]
    _read_evaluation(run, facts, records, stale)
    _read_bundle(run, facts, records, stale)
    _read_latencies(run, facts)
    views = run.stage_path("pretrain") / "views.png"
    if views.is_file():
        facts.views = views
    elif "pretrain" in facts.stages:
        facts.gaps.append(Gap("views", "views.png of the pretraining is missing", facts.command("train")))
    return facts


def _read_stages(run: Run, facts: ReportFacts) -> None:
    train = facts.command("train")
    for name in facts.recipe.stages:
        folder = run.stage_path(name)
        try:
            record = run.record(name)
            if record is None:
                facts.gaps.append(Gap(name, f"the stage {name} is not complete", train))
                continue
            if name == "data":
                facts.data = _read_data(folder)
                history = None
            elif name == ANOMALY and not (folder / "history.csv").exists():
                history = None  # only one of its methods trains a network
            else:
                try:
                    history = _read_history(folder / "history.csv")
                except Unreadable as error:
                    history, why = (
                        None,
                        "has no history.csv" if error.missing else f"has a history.csv that is {error.reason}",
                    )
                    facts.gaps.append(Gap("training", f"the stage {name} {why}", train))
        except EdgekitError as error:
            facts.gaps.append(Gap(name, error.message, train))
            continue
        facts.stages[name] = Stage(name, record, history)


def _read_evaluation(
    run: Run, facts: ReportFacts, records: Mapping[str, StageRecord], stale: Mapping[str, str]
) -> None:
    path, command = run.path / "evaluate" / "evaluation.json", facts.command("evaluate")
    if not path.is_file():
        facts.gaps.append(Gap("evaluate", "the models have not been evaluated", command))
        return
    try:
        result = Result.read(path)
    except EdgekitError as error:
        facts.gaps.append(Gap("evaluate", error.message, command))
        return
    if isinstance(result.measurement, Evaluation):
        try:
            tasks.find(result.measurement.task)
        except EdgekitError as error:
            facts.gaps.append(Gap("evaluate", f"{path}: {error}", command))
            return
        if stale or evaluation_is_stale(result.measurement, records):
            why = "the evaluation is of other models or test images than the run now has"
            facts.gaps.append(Gap("evaluate", why, command))
            return
        facts.evaluation_result, facts.evaluation = result, result.measurement
        if facts.detects:
            _read_anomalies(path.parent / ANOMALY_FILE, facts)
        else:
            _read_answers(path.parent / FILE, facts, result.measurement)
    else:
        facts.gaps.append(Gap("evaluate", f"{path} is not an evaluation", command))


def _read_answers(path: Path, facts: ReportFacts, evaluation: Evaluation) -> None:
    command = facts.command("evaluate")
    if not tasks.find(evaluation.task).categorical:
        return  # no prediction for an image is simply right or wrong
    if evaluation.answers is None:
        facts.gaps.append(Gap("mistakes", "this evaluation has no predictions for single images", command))
        return
    try:
        if path.is_file() and sha256(path) != evaluation.answers.sha256:
            raise Unreadable(path, "belongs to another evaluation")
        answers = read_answers(path, len(evaluation.classes))
        if len(answers.thumbnails) != len(evaluation.worst):
            raise Unreadable(path, "its thumbnails belong to another evaluation")
    except (Unreadable, OSError) as error:
        facts.gaps.append(
            Gap("mistakes", error.message if isinstance(error, Unreadable) else f"{path}: {error}", command)
        )
        return
    facts.answers = answers


def _read_anomalies(path: Path, facts: ReportFacts) -> None:
    try:
        facts.anomalies = read_anomaly_answers(path)
    except Unreadable as error:
        facts.gaps.append(Gap("anomalies", error.message, facts.command("evaluate")))


def _read_bundle(run: Run, facts: ReportFacts, records: Mapping[str, StageRecord], stale: Mapping[str, str]) -> None:
    path, command = run.path / "export", facts.command("export")
    if not (path / "bundle.json").is_file():
        what = "detector" if facts.detects else "student"
        facts.gaps.append(Gap("export", f"the {what} has not been exported", command))
        return
    try:
        bundle = Bundle.open(path)
    except EdgekitError as error:
        facts.gaps.append(Gap("export", error.message, command))
        return
    if bundle_is_stale(bundle.manifest.provenance, records, stale):
        facts.gaps.append(Gap("export", "the bundle is of another model than the run now has", command))
        return
    facts.bundle = bundle


def _read_latencies(run: Run, facts: ReportFacts) -> None:
    command = facts.command("bench")
    folder = run.path / "bench"
    remote = [
        path for path in sorted(folder.glob("*/*.json")) if not path.name.startswith("mlperf_")
    ]  # without LoadGen's logs
    for path in [*sorted(folder.glob("*.json")), *remote]:  # one subfolder per remote device
        try:
            result = Result.read(path)
        except EdgekitError as error:
            facts.gaps.append(Gap("bench", error.message, command))
            continue
        device = path.parent.name if path.parent != folder else ""
        if isinstance(result.measurement, Profile):
            if facts.bundle is not None and result.measurement.bundle_digest == facts.bundle.digest:
                facts.profiles.append((result.measurement, device))
        elif isinstance(result.measurement, Latency):
            current = facts.bundle is not None and result.measurement.bundle_digest == facts.bundle.digest
            found = LatencyFacts(path.name, result, result.measurement, current, device)
            (facts.measured if found.latency.scenario == "single-stream" else facts.scenarios).append(found)
    if not facts.measured:
        facts.gaps.append(Gap("bench", "no latency has been measured", command))
    elif facts.bundle is not None and not any(m.current for m in facts.measured):
        facts.gaps.append(Gap("bench", "all latencies were measured on another export of this run", command))


def _read_history(path: Path) -> History:
    names, lines = read_csv(path)
    rows = [row for _, row in lines]
    epochs = [_number(row.get("epoch")) for row in rows]
    if not rows or any(epoch is None for epoch in epochs):
        raise Unreadable(path, "not a training history")
    columns = {name: [_number(row[name]) for row in rows] for name in names if name and name != "epoch"}
    return History(
        epochs=[epoch for epoch in epochs if epoch is not None],
        columns={name: values for name, values in columns.items() if any(v is not None for v in values)},
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_data(folder: Path) -> DataFacts:
    with understood(folder / "splits.json", "an output of the data stage"):
        content: dict[str, Any] = read_json(folder / "splits.json")
        sets = {
            name: ImageCounts(int(content[name]["images"]), dict(content[name].get("per_class") or {}))
            for name in ("pool", "labels", "probe", "test")
        }
        skipped = [(row["file"], row["reason"]) for _, row in read_csv(folder / "skipped.csv", "replace")[1]]
        return DataFacts([str(c) for c in content["classes"]], sets, [str(n) for n in content["notes"]], skipped)
