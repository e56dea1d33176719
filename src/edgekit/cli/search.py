"""`edgekit search`: find the student that fits a budget on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit import targets
from edgekit.cli.choices import TableChoice, override_option
from edgekit.processors import configure_openmp
from edgekit.shares import percent
from edgekit.terminal import echo, echo_json, new_console

if TYPE_CHECKING:
    from edgekit.result import Result, Search
    from edgekit.search.devices import Device
    from edgekit.search.plan import SearchPlan


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
    type=int,
    help="Resolution of the students; may be repeated.  [default: the recipe's]",
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
    help="Of this many candidates one is kept after each round; the next round is so many times as long.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="Of one turn of measuring.  [default: 1, or as percentiles need]",
)
@click.option(
    "--max-drop", type=float, default=1.0, show_default=True, help="Largest loss of accuracy by the export, in points."
)
@override_option
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="The search's folder.  [default: runs/NAME-search]"
)
@click.option(
    "--storage",
    metavar="URL",
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
    sizes: tuple[int, ...],
    names: tuple[str, ...],
    precisions: tuple[str, ...],
    threads: int,
    rounds: int,
    reduction: int,
    seconds: float | None,
    max_drop: float,
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
    from edgekit.api.extras import require
    from edgekit.recipe import load, read_yaml
    from edgekit.search.budget import parse_budgets

    limits = parse_budgets(budgets)
    loaded = load(recipe, overrides)
    folder = folder or Path("runs") / f"{loaded.name}-search"
    require("optuna", "torch", "onnx")  # the first that is missing names the extra, and [search] brings all of them
    from edgekit.errors import GateFailed
    from edgekit.result import Search
    from edgekit.search.candidates import chosen_candidates
    from edgekit.search.devices import device_of
    from edgekit.search.plan import SearchPlan
    from edgekit.search.rounds import Halving
    from edgekit.targets import DEFAULT_TARGETS

    plan = SearchPlan(
        recipe=loaded,
        text=recipe.read_text(encoding="utf-8"),
        overrides={key.strip(): read_yaml(value) for key, _, value in (text.partition("=") for text in overrides)},
        limits=limits,
        candidates=chosen_candidates(loaded, given, file, sizes),
        targets=tuple(dict.fromkeys(names)) or DEFAULT_TARGETS,
        precisions=tuple(dict.fromkeys(precisions)),
        halving=Halving(rounds, reduction),
        seconds=seconds,
        threads=threads,
        max_drop=max_drop,
    )

    result = _run(plan, device_of(devices, threads, python, wheel, _tell), folder, storage, reuse)
    found = result.measurement
    assert isinstance(found, Search)
    if as_json:
        echo_json(result.model_dump_json(by_alias=True))
    else:
        _print(found, folder)
    if found.winner is None:
        what = f"the nearest is {found.nearest}" if found.nearest else _why_none(found)
        raise GateFailed(
            f"no candidate is within the budget ({', '.join(found.budgets)}) on {found.device}: {what}",
            "allow more, or give smaller candidates with --candidate",
        )


def _run(plan: SearchPlan, device: Device, folder: Path, storage: str | None, reuse: Path | None) -> Result:
    """Search, and write the results so far after each step."""
    from edgekit.errors import RemoteError
    from edgekit.report.page import require_jinja2
    from edgekit.report.search import write_search
    from edgekit.result import Result
    from edgekit.run import Run
    from edgekit.search.search import search
    from edgekit.train.loop.engine import TrainingInterrupted

    def keep(found: Search) -> Result:
        result = Result.of(found, seed=plan.recipe.seed)
        result.write(folder / "search.json")
        write_search(result, folder / "search.html")
        return result

    require_jinja2()  # before minutes of measuring
    others = [Run.open(reuse)] if reuse else []
    try:
        return keep(search(plan, device, folder, storage, reuse=others, on_change=keep, say=_tell))
    except (TrainingInterrupted, KeyboardInterrupt):
        _tell(f"{folder}: run the same command again to resume: what was measured and trained is kept")
        raise KeyboardInterrupt from None
    except RemoteError as error:
        hint = (
            f"{f'{error.hint}; ' if error.hint else ''}what was measured is kept: run the same command again to resume"
        )
        raise RemoteError(error.reason, hint, where=error.where) from error


def _tell(line: str) -> None:
    echo(line, err=True)


def _why_none(found: Search) -> str:
    reasons = [f"{t.candidate}, {v.id}: {', '.join(v.outside)}" for t in found.trained for v in t.variants]
    errors = [f"{c.name}: {c.error}" for c in found.candidates if c.error]
    return "; ".join((reasons or errors)[:3]) or "nothing could be measured"


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
    echo(
        f"cost: {sum(found.seconds.values()) / 60:.1f} minutes; written to {folder / 'search.json'} and {folder / 'search.html'}"
    )


__all__ = ["command"]
