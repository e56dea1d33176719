"""`edgekit search`: find the student that fits a budget on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit import targets
from edgekit.cli import completers
from edgekit.cli.choices import Number, SizeOption, TableChoice, override_option
from edgekit.processors import configure_openmp
from edgekit.shares import percent
from edgekit.sizes import MOST_TRAINED, ImageSize
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.result import Search


@click.command(name="search")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="LIMIT",
    help='What the model may take: "p50 < 5 ms" (or p90, p95, p99), "size < 2 MB", "energy < 10 mJ"; may be repeated.',
)
@click.option(
    "--device", "devices", multiple=True, metavar="SSH", help="Measure there: ssh://user@host:port.  [default: here]"
)
@click.option(
    "--candidate",
    "given",
    multiple=True,
    metavar="STUDENT",
    help='A student, by name or as "{name: resnet18, width: [0.25, 0.5]}"; may be repeated.  [default: a curated list]',
)
@click.option("--candidates", "file", type=click.Path(path_type=Path), help="A YAML file with a list of students.")
@click.option(
    "--image-size",
    "sizes",
    multiple=True,
    type=SizeOption(MOST_TRAINED),
    metavar="PIXELS",
    help="Resolution of the students, PIXELS or HEIGHT,WIDTH; may be repeated.  [default: the recipe's]",
)
@click.option(
    "--target",
    "names",
    multiple=True,
    type=TableChoice(targets.every),
    help="Runtime to export for; may be repeated.  [default: onnx and openvino]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(targets.PRECISIONS),
    help="Only this precision; may be repeated.",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="Inference threads; 0: the runtime decides.")
@click.option(
    "--rounds", type=click.IntRange(1, 6), default=2, show_default=True, help="Short trainings before the full one."
)
@click.option(
    "--reduction",
    type=click.IntRange(2, 10),
    default=3,
    show_default=True,
    help="After each round, one candidate in this many is kept, and the next round is this many times as long.",
)
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    help="Measuring time of one turn, in seconds.  [default: 1, or as long as the percentiles need]",
)
@click.option(
    "--max-drop",
    type=Number(0, 100),
    default=1.0,
    show_default=True,
    help="Largest loss of accuracy by the export, in points.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="Where the winner leaves much of the budget, also prune a larger network to it. Needs the extra [prune].",
)
@override_option
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="The search's folder.  [default: runs/NAME-search]"
)
@click.option(
    "--storage",
    metavar="URL",
    shell_complete=completers.files,
    help="Shared by several machines: postgresql://…, mysql://…, a .db or .log file.  [default: in the folder]",
)
@click.option(
    "--reuse", type=click.Path(path_type=Path), help="A run to copy the teacher from, if its inputs are the same."
)
@click.option("--python", metavar="PATH", help="With --device: a Python there that has the packages.")
@click.option(
    "--wheel",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --device: this wheel of edgekit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result file's content instead of a table.")
def command(
    recipe: Path,
    budgets: tuple[str, ...],
    devices: tuple[str, ...],
    given: tuple[str, ...],
    file: Path | None,
    sizes: tuple[ImageSize, ...],
    names: tuple[str, ...],
    precisions: tuple[str, ...],
    threads: int,
    rounds: int,
    reduction: int,
    seconds: float | None,
    max_drop: float,
    prune: bool,
    overrides: tuple[str, ...],
    folder: Path | None,
    storage: str | None,
    reuse: Path | None,
    python: str | None,
    wheel: Path | None,
    as_json: bool,
) -> None:
    """Find the student that fits a budget on a device.

    Every candidate is exported untrained and measured on the device. Those within the budget are distilled from RECIPE's teacher in short
    rounds, of which the best go on; the winner is trained in full, exported and measured again. Results: search.json, search.html and
    winner.yaml, which is RECIPE with the winner as its student. Run the same command again to resume.

    \b
    For example:
      edgekit search recipe.yaml --device ssh://pi@raspberrypi.local --budget "p50 < 5 ms" --budget "size < 2 MB"
      edgekit search recipe.yaml --budget "p99 < 20 ms" --candidate "{name: resnet18, width: [0.25, 0.5, 1]}"
      edgekit search recipe.yaml --budget "p50 < 5 ms" --device ssh://nano --storage postgresql://user@host/searches
    """
    configure_openmp()
    from edgekit.api.searching import require_winner, search
    from edgekit.result import Search

    result = search(
        recipe,
        budget=budgets,
        device=devices,
        candidate=given,
        candidates=file,
        image_size=sizes,
        target=names,
        precision=precisions,
        threads=threads,
        rounds=rounds,
        reduction=reduction,
        seconds=seconds,
        max_drop=max_drop,
        prune=prune,
        overrides=overrides,
        run=folder,
        storage=storage,
        reuse=reuse,
        python=python,
        wheel=wheel,
        gate=False,
    )
    found = result.measurement
    assert isinstance(found, Search)
    if as_json:
        echo_json(result.model_dump_json(by_alias=True))
    else:
        _print(found, folder or Path("runs") / f"{found.recipe}-search")
    require_winner(found)


def _print(found: Search, folder: Path) -> None:
    """Print the candidates within the budget, and the winner."""
    from rich.table import Table

    from edgekit.report import format as show

    table = Table(
        "candidate", "variant", "p50", "size", "score", "left out", title=", ".join(found.budgets), title_justify="left"
    )
    fitting = [(c, v) for c in found.candidates if (v := c.fitting()) is not None]
    for candidate, variant in sorted(fitting, key=lambda both: both[1].p50 or 0.0):
        score = show.NONE if candidate.score is None else percent(candidate.score)
        why = "the winner" if candidate.name == found.winner else candidate.left_out
        table.add_row(candidate.name, variant.id, show.milliseconds(variant.p50), show.size(variant.bytes), score, why)
    if fitting:
        new_console().print(table)
    outside = len(found.candidates) - len(fitting)
    if outside:
        echo(
            f"{outside} of {len(found.candidates)} candidates are outside the budget or cannot be measured: see the page"
        )
    won = found.won()
    if won is not None:
        best = next(v for v in won.variants if v.id == won.variant)
        p50, accuracy = show.milliseconds(best.percentiles_ms.get("p50")), percent(best.accuracy or won.accuracy)
        change = f", {100 * (best.ratio - 1):+.1f} % against before the training" if best.ratio is not None else ""
        echo(f"winner: {won.candidate}, {best.id}: {accuracy} on the test set, {p50}{change}, {show.size(best.bytes)}")
        echo(f"  its run: {folder / won.run}, its recipe: {folder / (found.winner_recipe or '')}")
    if found.pruning is not None:
        echo(f"pruning: {found.pruning.outcome}")
    echo(
        f"cost: {sum(found.seconds.values()) / 60:.1f} minutes; written to {folder / 'search.json'} and {folder / 'search.html'}"
    )


__all__ = ["command"]
