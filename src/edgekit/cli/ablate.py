"""`edgekit ablate`: train a recipe with several augmentations or values and compare them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from edgekit import shares
from edgekit.cli import completers
from edgekit.cli.choices import override_option
from edgekit.processors import configure_openmp
from edgekit.stages import STAGES
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.result import Ablation, Result

_AUGMENTATIONS = "augmentations"


def _what(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Offer `augmentations`, or files: click cannot know that the last of these words is RECIPE."""
    if typed and _AUGMENTATIONS.startswith(typed):
        return [CompletionItem(_AUGMENTATIONS)]
    return completers.files(context, parameter, typed)


@click.command(name="ablate")
@click.argument("what", nargs=-1, required=True, metavar="augmentations|FIELD=V1,V2,…", shell_complete=_what)
@click.argument("recipe", type=click.Path(path_type=Path))
@override_option
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="The ablation's folder.  [default: runs/NAME-ablate-…]"
)
@click.option(
    "--reuse", type=click.Path(path_type=Path), help="A run to copy stages from, where their inputs are the same."
)
@click.option(
    "--until",
    type=click.Choice(STAGES[1:]),
    help="The last stage to train.  [default: pretrain for augmentations; the common stage of all fields; otherwise the last]",
)
@click.option(
    "--only",
    metavar="A,B,…",
    help="Only these transformations; for `augmentations`.  [default: those of SimCLR's figure 5]",
)
@click.option(
    "--storage",
    metavar="URL",
    shell_complete=completers.files,
    help="Share the cells with other machines that run the same command: postgresql://…, mysql://…, a .db or .log file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result file's content instead of tables.")
def command(
    what: tuple[str, ...],
    recipe: Path,
    overrides: tuple[str, ...],
    folder: Path | None,
    reuse: Path | None,
    until: str | None,
    only: str | None,
    storage: str | None,
    as_json: bool,
) -> int:
    """Train RECIPE once for each combination of some values, and compare.

    `augmentations` is SimCLR's figure 5: every single transformation and every ordered pair, applied to one branch, evaluated by
    linear probe and kNN. FIELD=V1,V2,… lists values for a recipe key; several fields make a grid. Each cell is a run in
    the ablation's folder. Run the same command again to resume. Results: ablation.json and ablation.html.

    \b
    For example:
      edgekit ablate augmentations recipe.yaml --set pretrain.epochs=20
      edgekit ablate augmentations recipe.yaml --only crop,color,blur
      edgekit ablate pretrain.temperature=0.1,0.2,0.5 pretrain.batch_size=128,512 recipe.yaml
      edgekit ablate data.labels=0.01,0.1,1.0 recipe.yaml
    """
    configure_openmp()
    if _AUGMENTATIONS in what and len(what) > 1:
        raise click.UsageError("`augmentations` cannot be combined with FIELD=…: run them as two ablations")
    if only is not None and what[0] != _AUGMENTATIONS:
        raise click.UsageError("--only is for `augmentations`: leave it out")

    from edgekit.result import Result
    from edgekit.run import Run
    from edgekit.train.ablate import ablate, plan_augmentations, plan_values

    if what[0] == _AUGMENTATIONS:
        names = [name.strip() for name in only.split(",")] if only is not None else []
        plan = plan_augmentations(recipe, overrides, names, until)
        suffix = _AUGMENTATIONS
    else:
        plan = plan_values(recipe, overrides, what, until)
        suffix = "-".join(axis.name.rpartition(".")[2] for axis in plan.axes)
    base = plan.cells[0].recipe
    folder = folder or Path("runs") / f"{base.name}-ablate-{suffix}"

    from edgekit.report.ablation import cell_name, verdict, write_ablation
    from edgekit.train.loop.failures import TrainingInterrupted

    clock = _Clock(len(plan.cells))
    result: Result | None = None

    def say(ablation: Ablation, trained: bool) -> None:
        nonlocal result
        result = Result.of(ablation, seed=base.seed)
        result.write(folder / "ablation.json")
        write_ablation(result, folder / "ablation.html")
        echo(clock.line(ablation, cell_name(ablation, ablation.cells[-1]), trained), err=True)

    try:
        done = ablate(
            plan, folder, reuse=[Run.open(reuse)] if reuse else [], storage=storage, on_cell=say, on_wait=_say_waiting
        )
    except TrainingInterrupted:
        echo(
            f"{folder}: run the same command again to resume: complete cells are kept; the interrupted cell resumes from its last "
            "checkpoint, or starts again if it has none",
            err=True,
        )
        raise KeyboardInterrupt from None
    assert result is not None
    if storage is not None:  # the cells were listed as they came, and are in order now
        result = Result.of(done, seed=base.seed)
        result.write(folder / "ablation.json")
        write_ablation(result, folder / "ablation.html")
    if as_json:
        echo_json(result.model_dump_json(by_alias=True))
    else:
        _print(done)
        if text := verdict(done):
            echo(f"best: {text}")
        echo(f"written to {folder / 'ablation.json'} and {folder / 'ablation.html'}")
    return 1 if any(cell.error for cell in done.cells) else 0


def _say_waiting(held_by: dict[str, str]) -> None:
    listed = ", ".join(f"{name} ({host})" for name, host in list(held_by.items())[:3])
    echo(f"waiting for other processes: {listed}{', …' if len(held_by) > 3 else ''}", err=True)


class _Clock:
    """Progress over the cells. Cells that were complete already do not count for the remaining time."""

    def __init__(self, planned: int) -> None:
        self.planned = planned
        self.last = time.monotonic()
        self.spent: list[float] = []

    def line(self, ablation: Ablation, name: str, trained: bool) -> str:
        from edgekit.report.ablation import metric_name
        from edgekit.report.format import duration, percent

        now = time.monotonic()
        elapsed, self.last = now - self.last, now
        cell, done = ablation.cells[-1], len(ablation.cells)
        if cell.error or trained:
            self.spent.append(elapsed)
        what = cell.error or ", ".join(f"{metric_name(s.model, s.metric)} {percent(s.value)}" for s in cell.scores)
        how = f"in {duration(elapsed)}" if trained or cell.error else "up to date"
        left = (self.planned - done) * sum(self.spent) / len(self.spent) if self.spent else None
        eta = f", about {duration(left)} left" if left else ""
        return f"[{done}/{self.planned}] {name}: {what} ({how}{eta})"


def _print(ablation: Ablation) -> None:
    """Print a matrix for each metric where there are two axes, otherwise one row per cell."""
    from rich.table import Table

    from edgekit.report.ablation import metric_name, metrics

    console, pairs = new_console(), metrics(ablation)
    for pair in pairs if len(ablation.axes) == 2 else ():
        rows, columns = ablation.axes
        title = f"{metric_name(*pair)} (%), {rows.name} ↓ {columns.name} →"
        matrix = Table("", *columns.values, title=title, title_justify="left")
        for row in rows.values:
            cells = [ablation.cell(row, column) for column in columns.values]
            values = [cell.value(*pair) if cell else None for cell in cells]
            matrix.add_row(row, *("–" if v is None else shares.hundredths(v) for v in values))
        console.print(matrix)
    if len(ablation.axes) != 2:
        names = [axis.name for axis in ablation.axes]
        listed = Table(*names, *(metric_name(*pair) for pair in pairs), title=ablation.data, title_justify="left")
        for cell in ablation.cells:
            values = [cell.value(*pair) for pair in pairs]
            listed.add_row(*cell.values, *("–" if v is None else shares.percent(v) for v in values))
        console.print(listed)
