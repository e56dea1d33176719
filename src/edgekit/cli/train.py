"""`edgekit train`: train a run from a recipe."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit import progress
from edgekit.cli.choices import override_option
from edgekit.processors import configure_openmp, load_of_others, usable_cpus
from edgekit.shares import percent
from edgekit.stages import MODEL_OF, STAGES
from edgekit.task_names import RECOGNITION
from edgekit.terminal import echo, echo_json
from edgekit.text import counted, plural

if TYPE_CHECKING:
    from edgekit.data.splits import Splits
    from edgekit.recipe import Recipe
    from edgekit.result import Advice
    from edgekit.run import Run
    from edgekit.train.stages.pipeline import Report


@click.command(name="train")
@click.argument("recipe", type=click.Path(path_type=Path))
@override_option
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/NAME of the recipe]"
)
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    help="A run to copy stages from, where their inputs are the same.",
)
@click.option("--devices", type=click.IntRange(1), help="GPUs, or CPU processes, per machine.  [default: the recipe's]")
@click.option(
    "--nodes", type=click.IntRange(1), help="Number of machines; start the command on each with torchrun or srun."
)
@click.option("--until", type=click.Choice(STAGES), default=STAGES[-1], help="The last stage to train.")
@click.option(
    "--draws",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Number of random draws of the label budget. Draws after the first are trained in RUN/draws, with the same pretraining.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per stage.")
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    folder: Path | None,
    reuse: Path | None,
    devices: int | None,
    nodes: int | None,
    until: str,
    draws: int,
    as_json: bool,
) -> int:
    """Pretrain, fine-tune and distill, as RECIPE says.

    Complete stages whose inputs have not changed are skipped. An interrupted stage resumes from its last checkpoint.

    \b
    For example:
      edgekit train recipe.yaml
      edgekit train recipe.yaml --set data.labels=0.01 --set pretrain.epochs=200 --run runs/one-percent
      edgekit train recipe.yaml --devices 4
      edgekit train recipe.yaml --draws 3
    """
    configure_openmp()
    from edgekit.api.training import train
    from edgekit.recipe import load
    from edgekit.run import Run

    hardware = [f"hardware.{name}={value}" for name, value in (("devices", devices), ("nodes", nodes)) if value]
    loaded = load(recipe, [*overrides, *hardware])
    run = Run(folder or Path("runs") / loaded.name)

    from edgekit.train.loop.launch import launch
    from edgekit.train.loop.processes import place

    if loaded.hardware.devices > 1 and loaded.hardware.nodes == 1 and place() is None:
        return launch(loaded.hardware.devices, sys.argv[1:])

    from edgekit.train.draws import check_draws
    from edgekit.train.stages.pipeline import WITHOUT_LABELS

    if draws > 1 and until != STAGES[-1]:
        raise click.UsageError("--draws cannot be combined with --until: it compares complete runs")
    check_draws(loaded, draws)
    reports: dict[str, Report] = {}
    outcomes = set[str]()
    images: list[Splits] = []

    def say(report: Report, draw: int) -> None:
        reports[report.stage] = report
        outcomes.add(report.outcome)
        _say(report, draw if draws > 1 else None, as_json)

    def announce(splits: Splits) -> None:
        """Print when the training will end; unknown if stages are copied from another run."""
        from edgekit.train.estimate import expected

        images.append(splits)
        if until != "data":
            _say_if_one_thread_may_be_faster(loaded)
        if reuse is None and (seconds := expected(loaded, splits, run, until, say=progress.say)):
            seconds_by_stage = {
                stage: value * (1 if stage in WITHOUT_LABELS else draws) for stage, value in seconds.items()
            }
            echo(_end(seconds_by_stage), err=True)

    try:
        train(loaded, run=run, reuse=reuse, until=until, draws=draws, on_stage=say, on_start=announce)
    except KeyboardInterrupt as stopped:
        if stopped.args and os.environ.get("RANK", "0") == "0":
            echo(str(stopped), err=True)
        raise
    if until == STAGES[-1] and os.environ.get("RANK", "0") == "0":
        if "finetune" in reports:
            _say_findings(run, images[0], draws, bool(outcomes - {"skipped"}), as_json)
        if not as_json:
            _next(run, list(reports))
    return 0


def _say_if_one_thread_may_be_faster(recipe: Recipe) -> None:
    """Several threads wait for one another at every operation, for as long as another program holds a processor."""
    import torch

    from edgekit.train.loop.devices import device_for

    load, threads = load_of_others(), recipe.hardware.threads or torch.get_num_threads()
    if load is not None and threads > 1 and device_for(recipe.hardware).type == "cpu":
        echo(
            f"note: other programs use this machine (load {load:.0f} on {usable_cpus()} CPUs): one thread may be faster than {threads}, "
            "with --set hardware.threads=1",
            err=True,
        )


def _say(report: Report, draw: int | None, as_json: bool) -> None:
    """Print a stage's outcome; with the number of the label draw if there are several."""
    if not as_json:
        echo(*(line if draw is None else f"draw {draw}: {line}" for line in _lines(report)))
        return
    record = report.record
    line = {
        "stage": report.stage,
        "outcome": report.outcome,
        "seconds": round(record.seconds, 1),
        "metrics": record.metrics,
    }
    echo_json(json.dumps(line if draw is None else line | {"draw": draw}))


def _next(run: Run, trained: list[str]) -> None:
    """Print the commands that come after the training."""
    if "finetune" in trained or "anomaly" in trained:
        bundle = f"export-{RECOGNITION}" if run.recipe.task == RECOGNITION else "export"
        echo(
            "",
            f"{run.path} is complete. Next:",
            f"  edgekit evaluate {run.path}",
            f"  edgekit export {run.path}",
            f"  edgekit bench {run.path / bundle}",
            f"  edgekit report {run.path}",
        )
        return
    echo(
        "",
        f"{run.path} has a pretrained encoder but no labels yet. Next:",
        f"  edgekit label suggest {run.path}",
        "then add the labels to the recipe (data.labels: labels.csv) and train again.",
    )


def _end(seconds: dict[str, float]) -> str:
    """Return a line such as `expected to take about 18 minutes, until 14:32 (pretrain 11:02, finetune 0:40, …)`."""
    from datetime import datetime, timedelta

    from edgekit.progress import duration

    total = sum(seconds.values())
    end = datetime.now() + timedelta(seconds=total)
    until = end.strftime("%H:%M" if total < 20 * 3600 else "%Y-%m-%d %H:%M")
    minutes = max(1, round(total / 60))
    long = f"{minutes} {plural(minutes, 'minute')}" if total < 5400 else f"{total / 3600:.1f} hours"
    stages = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items())
    return f"expected to take about {long}, until {until} ({stages}), estimated from a few steps"


def _say_findings(run: Run, splits: Splits, draws: int, trained: bool, as_json: bool) -> None:
    """Print the accuracies of the label draws and, if something was trained now, advice."""
    from edgekit.cli.findings import advice_lines, draw_lines
    from edgekit.errors import EdgekitError

    advice: list[Advice] = []
    if trained:
        from edgekit.train.assess import advice_for

        try:
            advice = advice_for(run, splits)
        except EdgekitError as error:  # the training is complete: missing advice is not a failure
            echo(f"no advice: {error.message}", err=True)
    if as_json:
        if trained:
            found = [a.model_dump(mode="json") for a in advice]
            echo_json(json.dumps({"stage": "advice", "outcome": "done", "seconds": 0.0, "metrics": {"advice": found}}))
        return
    from edgekit.train.advice import MOST
    from edgekit.train.draws import accuracies

    for lines in (draw_lines(accuracies(run, draws)) if draws > 1 else [], advice_lines(advice, MOST)):
        if lines:
            echo("", *lines)


def teacher_lines(metrics: dict[str, Any]) -> list[str]:
    """The scores of the encoder that taught, beside those of the student; empty without one."""
    teacher = metrics.get("teacher", {})
    if not {"knn", "linear"} <= set(teacher):
        return []
    return [
        f"           teacher {teacher['title']}: kNN {percent(teacher['knn'])}, linear probe {percent(teacher['linear'])}; "
        f"student: kNN {percent(metrics['knn'])}, linear probe {percent(metrics['linear'])}"
    ]


def _detector(metrics: dict[str, Any]) -> tuple[str, list[str]]:
    """What a detector was built from, and a note on the images that were left out."""
    size = f", a bank of {counted(metrics['bank'], 'patch', 'patches')}" if "bank" in metrics else ""
    levels = ", ".join(f"{name} {height} x {width}" for name, height, width in metrics["levels"])
    notes = (
        [f"           {metrics['trimmed']} of the most unusual images were left out (trimmed.csv)"]
        if metrics["trimmed"]
        else []
    )
    return f"{metrics['method']} from {metrics['images']} normal images{size}; {levels}", notes


def _lines(report: Report) -> list[str]:
    from edgekit import tasks

    metrics, seconds, notes = report.record.metrics, report.record.seconds, list[str]()
    minutes, rest = divmod(round(seconds), 60)
    how = {"done": f"in {minutes}:{rest:02}", "skipped": "up to date", "copied": "copied"}[report.outcome]
    if report.stage == "data":
        sizes = (
            metrics["images"]
            if any(n for name, n in metrics["images"].items() if name != "pool")
            else {"pool": metrics["images"]["pool"]}
        )
        counts = ", ".join(f"{name} {count}" for name, count in sizes.items())
        notes = [f"           {note}" for note in metrics["notes"]]
        what = f"{counts}" + (
            f"; {metrics['skipped']} unreadable {plural(metrics['skipped'], 'file')} skipped"
            if metrics["skipped"]
            else ""
        )
    elif report.stage == "pretrain" and "knn" not in metrics:
        what = f"loss {metrics['loss']:.3f}"
    elif report.stage == "pretrain" and report.current:
        before = "starting" if "started_from" in metrics else "random"
        what = f"loss {metrics['loss']:.3f}, kNN {percent(metrics['knn'])} ({before} weights {percent(metrics[f'knn_{before}_weights'])})"
        notes = teacher_lines(metrics)
    elif report.stage == "anomaly":
        what, notes = _detector(metrics)
    elif not report.current:
        what = "(its accuracy was measured on other test or probe images; see edgekit evaluate)"
    else:
        name = "student from scratch" if report.stage == "supervised" else MODEL_OF[report.stage]
        metric = metrics.get("metric", "top1")
        said = "accuracy" if metric == "top1" else tasks.find(tasks.MULTILABEL).metrics[metric]
        what = f"{name}: test {said} {percent(metrics[f'test_{metric}'])}"
    return [f"{report.stage:<10} {how:<10} {what}", *notes]
