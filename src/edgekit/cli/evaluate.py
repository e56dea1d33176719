"""`edgekit evaluate`: what a run's models score on its test set."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command(name="evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result file's content instead of tables.")
def command(run: Path, as_json: bool) -> None:
    """Score a run's encoder (kNN, linear probe), teacher, student and supervised student on its test set.

    The numbers and their protocols are written to RUN/evaluate/evaluation.json.

    \b
    For example:
      edgekit evaluate runs/photos
      edgekit evaluate runs/photos --json | jq '.measurement.scores[] | {model, metric, value}'
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from edgekit.run import Run

    opened = Run.open(run)
    recipe = opened.recipe

    from edgekit.data.splits import load_splits
    from edgekit.result import Result
    from edgekit.train.evaluate import evaluate

    measured = evaluate(opened, load_splits(recipe.data))
    result = Result.of(measured, seed=recipe.seed)
    path = opened.path / "evaluate" / "evaluation.json"
    result.write(path)
    if as_json:
        click.echo(result.model_dump_json(by_alias=True))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("model", "metric", "accuracy", "images", "protocol", title=measured.data, title_justify="left")
    for score in measured.scores:
        table.add_row(score.model, score.metric, f"{score.value:.1%}", str(score.samples), score.protocol)
    per_class = {s.model: s.per_class for s in measured.scores if s.per_class}
    classes = Table("class", *per_class, title="accuracy by class", title_justify="left")
    for name in next(iter(per_class.values())):
        classes.add_row(name, *(f"{scores[name]:.1%}" for scores in per_class.values()))
    console = Console()
    console.print(table)
    console.print(classes)
    console.print(f"written to {path}")
