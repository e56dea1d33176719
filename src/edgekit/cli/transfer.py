"""`edgekit transfer`: score a run's encoder on other labeled images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import completers
from edgekit.cli.choices import Number
from edgekit.processors import configure_openmp
from edgekit.shares import percent
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.result import Transfer, TransferSet


@click.command(name="transfer")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER…", shell_complete=completers.files)
@click.option(
    "--fine-tune",
    "finetune",
    is_flag=True,
    help="Also fine-tune all weights on each folder, from the encoder and from random weights, with the recipe's `finetune`.",
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs of the fine-tuning.  [default: the recipe's]")
@click.option(
    "--test",
    type=Number(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of each class held out as test set, for folders without their own test set.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result file's content instead of a table.")
def command(
    run: Path, folders: tuple[str, ...], finetune: bool, epochs: int | None, test: float, as_json: bool
) -> None:
    """Score a run's encoder on other labeled data sets. Each FOLDER has one subfolder per class, or train/ and test/ with them.

    Run the same command again to resume: complete data sets are not measured again. The scores and their protocols are
    written to RUN/transfer/transfer.json.

    \b
    For example:
      edgekit transfer runs/photos flowers/ pets/
      edgekit transfer runs/photos flowers/ pets/ cars/ --fine-tune --epochs 30
    """
    configure_openmp()
    from edgekit.run import Run

    opened = Run.open(run)
    recipe = opened.recipe

    from edgekit.result import Result
    from edgekit.train.analysis.transfer import transfer
    from edgekit.train.loop.failures import TrainingInterrupted

    def say(done: TransferSet) -> None:
        listed = ", ".join(f"{score.model} {percent(score.value)}" for score in done.scores)
        echo(f"{done.name}: {listed}", err=True)

    try:
        measured = transfer(opened, folders, finetune=finetune, epochs=epochs, test=test, on_set=say)
    except TrainingInterrupted:
        echo(f"{opened.path}: run the same command again to resume", err=True)
        raise KeyboardInterrupt from None
    result = Result.of(measured, seed=recipe.seed)
    path = opened.path / "transfer" / "transfer.json"
    result.write(path)
    if as_json:
        echo_json(result.model_dump_json(by_alias=True))
        return
    _print(measured, path)


def _print(measured: Transfer, path: Path) -> None:
    from rich.table import Table

    models = [s.model for s in measured.sets[0].scores]
    titles = {"encoder": "linear", "random": "linear, random weights"}
    table = Table(
        "data set",
        "classes",
        "train",
        "test",
        *(titles.get(m, m) for m in models),
        title="Top-1 accuracy",
        title_justify="left",
    )
    for row in measured.sets:
        values = ["n/a" if (value := row.value(m)) is None else percent(value) for m in models]
        table.add_row(row.name, str(row.classes), f"{row.train:,}", f"{row.test:,}", *values)
    console = new_console(highlight=False)
    console.print(table)
    protocols: dict[tuple[str, str], list[str]] = {}
    for row in measured.sets:
        for score in row.scores:
            protocols.setdefault((titles.get(score.model, score.model), score.protocol), []).append(row.name)
    for (model, protocol), names in protocols.items():
        of = "" if len(names) == len(measured.sets) else f" ({', '.join(names)})"
        console.print(f"{model + of}: {protocol}")
    console.print(f"written to {os.fspath(path)}")
