"""`edgekit evaluate`: what a run's models score on its test set."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.processors import tell_openmp
from edgekit.shares import hundredths, percent
from edgekit.terminal import echo_json, new_console


def _shots(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        shots = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        shots = [0]
    if any(k < 1 for k in shots):
        raise click.BadParameter(f"{text!r} is not a list of whole numbers from 1 on, like 1,5,10")
    return shots


@click.command(name="evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--few-shot",
    metavar="K,K,…",
    default="",
    callback=_shots,
    help="Also few-shot accuracy of the encoder, with so many labelled images of each class, for instance 1,5,10.",
)
@click.option("--draws", type=click.IntRange(2), default=100, show_default=True, help="Random draws of those images.")
@click.option("--json", "as_json", is_flag=True, help="Print the result file's content instead of tables.")
def command(run: Path, few_shot: list[int], draws: int, as_json: bool) -> None:
    """Score a run's encoder (kNN, linear probe), teacher, student and supervised student on its test set.

    The numbers and their protocols are written to RUN/evaluate/evaluation.json; few-shot accuracies of the same encoder that
    are there already stay.

    \b
    For example:
      edgekit evaluate runs/photos
      edgekit evaluate runs/photos --few-shot 1,5,10
      edgekit evaluate runs/photos --json | jq '.measurement.scores[] | {model, metric, value}'
    """
    tell_openmp()
    from edgekit.run import Run

    opened = Run.open(run)
    recipe = opened.recipe

    from edgekit.data.splits import load_splits
    from edgekit.result import Result
    from edgekit.train.evaluate import evaluate, with_earlier_few_shot

    path = opened.path / "evaluate" / "evaluation.json"
    measured = with_earlier_few_shot(evaluate(opened, load_splits(recipe.data, opened), few_shot, draws), path)
    result = Result.of(measured, seed=recipe.seed)
    result.write(path)
    if as_json:
        echo_json(result.model_dump_json(by_alias=True))
        return

    from rich.table import Table

    table = Table("model", "metric", "accuracy", "images", "protocol", title=measured.data, title_justify="left")
    for score in measured.scores:
        metric = score.metric if score.shots is None else f"{score.shots}-shot {score.metric}"
        spread = f" ±{hundredths((score.interval[1] - score.interval[0]) / 2)}" if score.interval else ""
        table.add_row(score.model, metric, f"{percent(score.value)}{spread}", str(score.samples), score.protocol)
    per_class = {s.model: s.per_class for s in measured.scores if s.per_class}
    classes = Table("class", *per_class, title="accuracy by class", title_justify="left")
    for name in next(iter(per_class.values())):
        classes.add_row(name, *(percent(scores[name]) for scores in per_class.values()))
    console = new_console()
    console.print(table)
    console.print(classes)
    console.print(f"written to {path}")
