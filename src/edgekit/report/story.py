"""The top of the page: the main sentence, the main numbers, and the run's steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit import targets
from edgekit.recipe import Architecture
from edgekit.report import format as show
from edgekit.report.differences import words
from edgekit.report.facts import ReportFacts
from edgekit.report.headline import Headline, p50, score
from edgekit.report.tables import interval
from edgekit.result import Score
from edgekit.text import counted, plural


@dataclass(frozen=True)
class Tile:
    """One number of the headline with its unit, and a note."""

    name: str
    value: str
    unit: str
    note: str
    hero: bool = False
    loss: bool = False


@dataclass(frozen=True)
class Step:
    """One step from images to a measured model; `missing` is the reason if it is missing, `command` makes it."""

    name: str
    detail: str
    time: str = ""
    missing: str = ""
    command: str = ""


def lead(facts: ReportFacts, top: Headline) -> str:
    """Return the page's main sentence."""
    text = ""
    if facts.data is not None:
        pool, labels = facts.data.sets["pool"].images, facts.data.sets["labels"].images
        text = f"From {counted(pool, 'unlabeled image')} and {counted(labels, 'label')}"
        if facts.detects:
            text = f"From {show.count(pool)} normal images"
    if top.shipped is not None and facts.bundle is not None:
        verified = sum(v.status == "verified" for v in facts.bundle.manifest.variants)
        model = f"a {'detector' if facts.detects else 'model'} of {show.size(top.shipped.bytes)}, verified in {_many(verified, 'variant')}"
        if _guesses(facts, top.student):
            model += ", that is no better than guessing"
        return f"{text} to {model}." if text else f"{model[0].upper()}{model[1:]}."
    return f"{text}." if text else "This run is not complete yet."


def tiles(facts: ReportFacts, top: Headline) -> list[Tile]:
    """Return the five main numbers; a missing one shows how to get it."""
    last = _found if facts.detects else _gain
    return [_student(facts, top), _int8(facts, top), _fastest(facts, top), _size(facts, top), last(facts, top)]


def _student(facts: ReportFacts, top: Headline) -> Tile:
    model = "Detector" if facts.detects else "Student"
    if top.student is None:
        return Tile(f"{model} {facts.task.quality}", show.NONE, "", f"run {facts.command('evaluate')}")
    metric = facts.task.metrics[facts.task.metric]
    note = f"{metric} on {show.count(top.student.samples)} test images"
    if ends := interval(facts.task, top.student):
        note += f"; 95\u00a0% interval {show.hundredths(ends[0])} to {show.hundredths(ends[1])}"
    if facts.evaluation and facts.evaluation.guessing is not None:
        note += f"; guessing: {show.percent(facts.evaluation.guessing)}"
    guesses = _guesses(facts, top.student)
    name = f"{model} {facts.task.quality}" + (": no better than guessing" if guesses else "")
    return Tile(name, show.hundredths(top.student.value), "%", note, loss=guesses)


def _guesses(facts: ReportFacts, student: Score | None) -> bool:
    """Whether the student is not shown to be better than naming the most frequent class."""
    guessing = facts.evaluation.guessing if facts.evaluation else None
    ends = interval(facts.task, student) if student is not None else None
    return guessing is not None and ends is not None and ends[0] <= guessing


def _int8(facts: ReportFacts, top: Headline) -> Tile:
    if top.int8 is None or top.int8.accuracy is None:
        return Tile(
            f"INT8 {facts.task.quality}", show.NONE, "", _export_note(facts, "no verified INT8 variant in the bundle")
        )
    change = -top.int8.drop if top.int8.drop is not None else None
    against = f"{show.points(change)} points against float" if change is not None else "drop not measured"
    note = f"{top.int8.id}, {against}, {counted(top.int8.accuracy.samples, 'image')}"
    return Tile(f"INT8 {facts.task.quality}", show.hundredths(top.int8.accuracy.value), "%", note)


def _fastest(facts: ReportFacts, top: Headline) -> Tile:
    if top.fastest is None:
        return Tile("Fastest, p50", show.NONE, "", f"run {facts.command('bench')}")
    latency = top.fastest.latency
    quick = ", quick" if latency.quick else ""
    quick += "; read its warnings below" if len(latency.warnings) > latency.quick else ""
    runtime = targets.title(latency.runtime)
    note = f"{latency.variant} on {runtime}, {counted(len(latency.samples_ns), 'run')}{quick}"
    return Tile("Fastest, p50", show.significant(p50(top.fastest) or 0.0), "ms", note)


def _size(facts: ReportFacts, top: Headline) -> Tile:
    if top.shipped is None:
        return Tile("Size", show.NONE, "", _export_note(facts, "no verified variant in the bundle"))
    value, unit = show.size(top.shipped.bytes).split("\u00a0")
    note = f"{top.shipped.id} on disk"
    if top.full and top.full.bytes > top.shipped.bytes:
        note += f", {top.full.bytes / top.shipped.bytes:.1f}× smaller than {top.full.id}"
    return Tile("Size", value, unit, note)


def _found(facts: ReportFacts, top: Headline) -> Tile:
    """Return the share of the anomalous test images that the threshold finds."""
    name, answers = "Defects found", facts.anomalies
    if answers is None or answers.threshold is None or not answers.labels.any():
        why = f"run {facts.command('evaluate')}" if answers is None else "needs a threshold and anomalous test images"
        return Tile(name, show.NONE, "", why, hero=True)
    above, labels = answers.scores > answers.threshold, answers.labels.astype(bool)
    good = int((~labels).sum())
    alarms = (
        f"; {show.percent(float(above[~labels].mean()))} of {show.count(good)} normal ones are false alarms"
        if good
        else ""
    )
    note = f"of {show.count(int(labels.sum()))} anomalous test images, at the threshold{alarms}"
    return Tile(name, show.hundredths(float(above[labels].mean())), "%", note, hero=True)


def _gain(facts: ReportFacts, top: Headline) -> Tile:
    name = "Gain from unlabeled images"
    if top.gain is None or top.student is None or top.supervised is None:
        why = f"needs the {facts.task.quality} of the student and of the same network trained from scratch"
        if not facts.recipe.supervised.enabled:
            why = "the recipe does not train a supervised student for comparison (supervised.enabled)"
        return Tile(name, show.NONE, "", why, hero=True)
    student, scratch = (_mean(facts, score) for score in (top.student, top.supervised))
    note = f"student {show.percent(student)}, the same network from scratch on the same labels {show.percent(scratch)}"
    unclear = top.lead is not None and not top.lead.shown
    if top.lead is not None:
        note += f"; {words(top.lead)}"
    if unclear:
        name = "Gain from unlabeled images: not significant"
    elif top.gain < 0:
        name = "The unlabeled images did not help here"
    return Tile(name, show.points(top.gain), "points", note, hero=True, loss=unclear or top.gain < 0)


def _mean(facts: ReportFacts, score: Score) -> float:
    """Return a model's accuracy; with several label draws, their mean."""
    values = [
        draw.values[score.model]
        for draw in (facts.evaluation.draws if facts.evaluation else [])
        if score.model in draw.values
    ]
    return sum(values) / len(values) if values else score.value


def _export_note(facts: ReportFacts, otherwise: str) -> str:
    return otherwise if facts.bundle else f"run {facts.command('export')}"


def architecture(a: Architecture) -> str:
    """Return a network's short name: `resnet18 ×0.5`, `resnet50 + SK`, `vit_tiny_patch16_224 /4`."""
    width = "" if a.width == 1.0 else f" ×{a.width:g}"
    kernels = " + SK" if a.selective_kernels else ""
    patches = f" /{a.patch_size}" if a.patch_size else ""
    return f"{a.name}{width}{kernels}{patches}"


def _epochs(facts: ReportFacts, stage: str) -> str:
    """Return `60 epochs`: of the complete stage, otherwise the recipe's, which may depend on the number of images."""
    known = facts.stages.get(stage)
    config = known.record.inputs.get("config") if known else None
    epochs = config.get("epochs") if isinstance(config, dict) else None
    epochs = epochs or getattr(facts.recipe, stage).epochs
    return counted(epochs, "epoch") if isinstance(epochs, int) else f"{epochs} epochs"


def _from_scratch(facts: ReportFacts) -> str:
    """Return the epochs of the supervised student; where several settings were tried, those of the chosen ones: `best of 4 settings, 300 epochs`."""
    known = facts.stages.get("supervised")
    tried, name = (known.record.metrics.get(key) for key in ("search", "chosen")) if known else (None, None)
    entries = [entry for entry in tried if isinstance(entry, dict)] if isinstance(tried, list) else []
    epochs = next((entry.get("epochs") for entry in entries if entry.get("name") == name), None)
    if len(entries) < 2 or not isinstance(epochs, int):
        return _epochs(facts, "supervised")
    return f"best of {len(entries)} settings, {counted(epochs, 'epoch')}"


def steps(facts: ReportFacts) -> list[Step]:
    """Return the steps from the images to the measured model."""
    recipe = facts.recipe
    labels = f"{show.count(facts.data.sets['labels'].images)} labels" if facts.data else "labels"
    knn = score(facts, "encoder", "knn")
    seen = (
        f"{'' if facts.detects else f'{len(facts.data.classes)} classes, '}{show.count(facts.data.sets['pool'].images)} images"
        if facts.data
        else ""
    )
    details = {
        "data": ("Data", seen),
        "pretrain": (
            "Pretrain",
            f"{recipe.pretrain.title}, {architecture(recipe.pretrain.encoder)}, {_epochs(facts, 'pretrain')}",
        ),
        "finetune": ("Fine-tune", f"{labels}, {_epochs(facts, 'finetune')}"),
        "distill": ("Distill", f"{architecture(recipe.distill.student)}, {_epochs(facts, 'distill')}"),
        "supervised": ("From scratch", f"for comparison, {_from_scratch(facts)}"),
    }
    listed = []
    if facts.detects:
        details = {**details, "anomaly": ("Detector", recipe.anomaly.method)}
        details = {stage: details[stage] for stage in recipe.stages}
    for stage, (name, detail) in details.items():
        if stage == "supervised" and not recipe.supervised.enabled:
            continue
        record = facts.stages.get(stage)
        listed.append(_step(facts, stage, name, detail, show.duration(record.record.seconds) if record else ""))
    scored = f"{_many(len(facts.evaluation.scores), 'score')}" if facts.evaluation else ""
    if knn is not None:
        scored += f", encoder kNN {show.percent(knn.value)}"
    listed.append(_step(facts, "evaluate", "Evaluate", scored))
    exported = ""
    if facts.bundle is not None:
        by_status = {
            s: sum(v.status == s for v in facts.bundle.manifest.variants)
            for s in ("verified", "rejected", "unexecuted")
        }
        exported = ", ".join(f"{n} {s}" for s, n in by_status.items() if n)
    listed.append(_step(facts, "export", "Export", exported))
    listed.append(_step(facts, "bench", "Bench", _many(len(facts.measured), "measurement") if facts.measured else ""))
    commands: set[str] = set()
    for i, step in enumerate(listed):  # one command makes several steps: only the first names it
        if step.command in commands:
            listed[i] = replace(step, command="")
        commands.add(step.command)
    return listed


def _step(facts: ReportFacts, part: str, name: str, detail: str, time: str = "") -> Step:
    gaps = facts.missing(part)
    if not gaps:
        return Step(name, detail, time)
    return Step(name, detail, time, missing=gaps[0].why, command=gaps[0].command)


def _many(number: int, noun: str) -> str:
    return f"{number} {plural(number, noun)}"
