"""`edgekit evaluate`: score a run's models on its test set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.shares import hundredths, percent
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.result import Evaluation, Score


_ERRORS = ("ECE", "NLL")  # of the lines about calibration


def _shots(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        shots = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        shots = [0]
    if any(k < 1 for k in shots):
        raise click.BadParameter(f"{text!r} is not a list of positive whole numbers such as 1,5,10")
    return shots


@click.command(name="evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--few-shot",
    metavar="K,K,…",
    default="",
    callback=_shots,
    help="Also measure the encoder's few-shot accuracy with K labeled images per class, for example 1,5,10.",
)
@click.option(
    "--draws", type=click.IntRange(2), default=100, show_default=True, help="Number of random draws of those images."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result file's content instead of tables.")
def command(run: Path, few_shot: list[int], draws: int, as_json: bool) -> None:
    """Score a run's encoder (kNN, linear probe), teacher, student and supervised student on its test set; of a run of task anomaly, its detector.

    Also prints how much better the student is than the same network trained from scratch, with a confidence interval (which
    includes label draws if `edgekit train --draws` trained several), and advice on the recipe.

    The scores and their protocols are written to RUN/evaluate/evaluation.json. Few-shot accuracies of the same encoder that
    are already in that file are kept.

    \b
    For example:
      edgekit evaluate runs/photos
      edgekit evaluate runs/photos --few-shot 1,5,10
      edgekit evaluate runs/photos --json | jq '.measurement.scores[] | {model, metric, value}'
    """
    from edgekit.api.training import evaluate

    result = evaluate(run, few_shot=few_shot, draws=draws)
    if as_json:
        echo_json(result.model_dump_json(by_alias=True))
        return

    from edgekit.result import Evaluation

    assert isinstance(result.measurement, Evaluation)
    _print(result.measurement)
    echo(f"written to {run / 'evaluate' / 'evaluation.json'}")


def _print(measured: Evaluation) -> None:
    """Print tables of at most 80 columns, each protocol once below them, then differences and advice."""
    from rich import box
    from rich.table import Table

    from edgekit import tasks, terms
    from edgekit.cli.findings import WIDTH, advice_lines, calibration_lines, difference_lines, draw_lines, paragraph

    protocols = list(dict.fromkeys(map(_protocol, measured.scores)))
    console = new_console()
    console.width = min(console.width, WIDTH)
    title = measured.data
    if measured.guessing is not None:
        title += f"; guessing the most frequent class: {percent(measured.guessing)}"
    echo(*paragraph(title, rest="  "))
    table = Table("model", "metric", box=box.SIMPLE_HEAD)
    task = tasks.find(measured.task)
    for name in ("score" if task.alarms or task.of_class else task.quality, "images", "how"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in measured.scores:
        metric = score.metric if score.shots is None else f"{score.shots}-shot {score.metric}"
        spread = f" ±{hundredths((score.interval[1] - score.interval[0]) / 2)}" if score.interval else ""
        how = f"[{protocols.index(_protocol(score)) + 1}]"
        table.add_row(score.model, metric, f"{percent(score.value)}{spread}", str(score.samples), how)
    console.print(table)
    notes = [paragraph(text, f"[{i}] ") for i, text in enumerate(protocols, 1)]
    said = " ".join([*(score.metric for score in measured.scores), *(_ERRORS if measured.calibrations else ())])
    notes += [paragraph(f"{term.name}: {term.meaning}", rest="  ") for term in terms.used(said)]
    echo(*(line for lines in notes for line in lines), "")

    per_class = {s.model: s.per_class for s in measured.scores if s.per_class}
    if per_class:
        classes = Table(
            "defect" if task.alarms else "class",
            box=box.SIMPLE_HEAD,
            title="decided rightly" if task.alarms else f"{task.of_class or task.quality} by class",
            title_justify="left",
        )
        for model in per_class:
            classes.add_column(model, justify="right", no_wrap=True)
        for name in next(iter(per_class.values())):
            classes.add_row(name, *(percent(scores[name]) for scores in per_class.values()))
        console.print(classes)
    for lines in (
        calibration_lines(measured.calibrations), draw_lines(measured.draws), difference_lines(measured.differences),
        advice_lines(measured.advice, len(measured.advice)),
    ):  # fmt: skip
        if lines:
            echo(*lines, "")


def _protocol(score: Score) -> str:
    """Return the protocol with K in place of the number of shots, so that all few-shot scores share one."""
    return score.protocol if score.shots is None else score.protocol.replace(f"{score.shots}-shot", "K-shot")
