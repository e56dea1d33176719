"""Search from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import run as runs
from edgekit.api.extras import require
from edgekit.arguments import CountOrZero, Positive, checked, several
from edgekit.errors import GateFailed, RecipeError, check_range
from edgekit.processors import configure_openmp
from edgekit.recipe import Overrides, Recipe, dump, read_yaml, recipe_of
from edgekit.sizes import ImageSize, SizeLike
from edgekit.terminal import echo

if TYPE_CHECKING:
    from edgekit.result import Result, Search
    from edgekit.search.devices import Device
    from edgekit.search.plan import SearchPlan


@checked("recipe")
def search(
    recipe: Recipe | Path | str | Mapping[str, Any],
    *,
    budget: str | Sequence[str],
    device: str | Sequence[str] = (),
    candidate: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = (),
    candidates: Path | str | None = None,
    image_size: SizeLike | Sequence[SizeLike] = (),
    target: str | Sequence[str] = (),
    precision: str | Sequence[str] = (),
    threads: CountOrZero = 0,
    rounds: int = 2,
    reduction: int = 3,
    seconds: Positive | None = None,
    max_drop: float = 1.0,
    prune: bool = False,
    overrides: Overrides = (),
    run: Path | str | None = None,
    storage: str | None = None,
    reuse: runs.RunFolder | Path | str | None = None,
    python: str | None = None,
    wheel: Path | str | None = None,
    gate: bool = True,
) -> Result:
    """Find the most accurate student within a budget on a device, and train it, like `edgekit search` with the options of the same names.

        found = edgekit.search("recipe.yaml", budget=["p50 < 5 ms", "size < 2 MB"], device="ssh://pi@raspberrypi.local").measurement
        found.winner, found.won().accuracy

    Its folder gets search.json, search.html, winner.yaml and the runs. The same call resumes what was interrupted.

    Args:
        recipe: a recipe, the path of its YAML file, or its content as a dictionary.
        budget: what the model may take: `"p50 < 5 ms"` (or p90, p95, p99), `"size < 2 MB"`, `"energy < 10 mJ"`; one or several.
        device: measure there instead of here: `ssh://user@host:port`.
        candidate: students, each a name or keys of `distill.student`, in which a list stands for each of its values; none: a curated list.
        candidates: a YAML file with a list of them.
        image_size: resolutions of the students, in pixels: a side, an `ImageSize`, or a list of sides and pairs [height, width]; none: the
            recipe's.
        target: runtimes to export for; none: onnx and openvino.
        precision: fp32, fp16, int8; none: each target's defaults.
        threads: of the inference; 0 leaves it to the runtime.
        rounds: short trainings before the full one, 1 to 6.
        reduction: of so many candidates one is kept after each round, 2 to 10; the next round is so many times as long.
        seconds: of one turn of measuring; None: 1, or as long as the percentiles of the budget need.
        max_drop: largest loss of accuracy by the export, in percentage points.
        prune: where the winner leaves much of the budget, also prune a larger network to it.
        overrides: values that replace the recipe's: `{"data.labels": 10}`, or `["data.labels=10"]` as `--set` takes them.
        run: the search's folder; None: `runs/NAME-search` of the recipe.
        storage: shared by several machines: postgresql://…, mysql://…, a .db or .log file; None: in the folder.
        reuse: a run to copy the teacher from, if its inputs are the same.
        python: of a device: its Python that has the packages; None: a private environment is made.
        wheel: for a device: this wheel of edgekit; None: the edgekit that runs here.
        gate: raise an error if nothing is within the budget. False: `winner` is None then, and `nearest` says what comes nearest.

    Returns:
        The result; its `measurement` is an `edgekit.result.Search`.

    Raises:
        GateFailed: nothing is within the budget; the results are written.
        RecipeError, DataError: the recipe, a candidate or the images are invalid.
        RemoteError: the device cannot be reached; what was measured is kept.
        RuntimeMissing: the extra [search], or [prune], is not installed.
        EdgekitError: options are invalid, or a training or an export failed.
        KeyboardInterrupt: after Ctrl-C; what was measured and trained is kept.
    """
    configure_openmp()
    from edgekit.search.budget import parse_budgets

    limits = parse_budgets(several(budget))
    _within("rounds", rounds, 1, 6)
    _within("reduction", reduction, 2, 10)
    loaded = recipe_of(recipe, overrides)
    folder = Path("runs") / f"{loaded.name}-search" if run is None else Path(run)
    require("torch", "onnx", "optuna", *(["torch_pruning"] if prune else []))
    from edgekit.search.candidates import chosen_candidates
    from edgekit.search.devices import device_of
    from edgekit.search.plan import SearchPlan
    from edgekit.search.rounds import Halving
    from edgekit.targets import DEFAULT_TARGETS

    check_range("max_drop", max_drop, 0, 100)
    given = [candidate] if isinstance(candidate, (str, Mapping)) else list(candidate)
    sizes = [image_size] if isinstance(image_size, int | ImageSize) else list(image_size)
    plan = SearchPlan(
        recipe=loaded,
        text=_text_of(recipe),
        overrides=_values(overrides),
        limits=limits,
        candidates=chosen_candidates(loaded, given, None if candidates is None else Path(candidates), sizes),
        targets=tuple(dict.fromkeys(several(target))) or DEFAULT_TARGETS,
        precisions=tuple(dict.fromkeys(several(precision))),
        halving=Halving(rounds, reduction),
        seconds=seconds,
        threads=threads,
        max_drop=max_drop,
        prune=prune,
    )
    where = device_of(several(device), threads, python, None if wheel is None else Path(wheel), _tell)
    result = _run(plan, where, folder, storage, reuse)
    if gate:
        require_winner(_found(result))
    return result


def require_winner(found: Search) -> None:
    """Check that something is within the budget.

    Raises:
        GateFailed: nothing is; the message says what comes nearest.
    """
    if found.winner is None:
        what = f"the nearest is {found.nearest}" if found.nearest else _why_none(found)
        raise GateFailed(
            f"no candidate is within the budget ({', '.join(found.budgets)}) on {found.device}: {what}",
            "allow more, or give smaller candidates with --candidate",
        )


def _found(result: Result) -> Search:
    from edgekit.result import Search

    assert isinstance(result.measurement, Search)
    return result.measurement


def _run(
    plan: SearchPlan, device: Device, folder: Path, storage: str | None, reuse: runs.RunFolder | Path | str | None
) -> Result:
    """Search, and write the results so far after each step."""
    from edgekit.api.runs import opened
    from edgekit.errors import RemoteError
    from edgekit.report.page import require_jinja2
    from edgekit.report.search import write_search
    from edgekit.result import Result
    from edgekit.search.search import search as find
    from edgekit.train.loop.failures import TrainingInterrupted

    def keep(found: Search) -> Result:
        result = Result.of(found, seed=plan.recipe.seed)
        result.write(folder / "search.json")
        write_search(result, folder / "search.html")
        return result

    require_jinja2()  # before minutes of measuring
    others = [] if reuse is None else [opened(reuse)]
    kept = "run the same command again to resume"
    try:
        return keep(find(plan, device, folder, storage, reuse=others, on_change=keep, say=_tell))
    except (TrainingInterrupted, KeyboardInterrupt):
        _tell(f"{folder}: {kept}: what was measured and trained is kept")
        raise KeyboardInterrupt from None
    except RemoteError as error:
        hint = f"{f'{error.hint}; ' if error.hint else ''}what was measured is kept: {kept}"
        raise RemoteError(error.reason, hint, where=error.where) from error


def _text_of(recipe: Recipe | Path | str | Mapping[str, Any]) -> str:
    """Return the text of a recipe, for the winner's: that of its file, with its comments."""
    if isinstance(recipe, (str, Path)):
        return Path(recipe).read_text(encoding="utf-8")
    return dump(recipe_of(recipe))


def _values(overrides: Overrides) -> dict[str, Any]:
    """Return overrides by the paths of their keys."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    texts = [overrides] if isinstance(overrides, str) else overrides
    return {key.strip(): read_yaml(value) for key, _, value in (text.partition("=") for text in texts)}


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise RecipeError(f"{name}: {value} is not possible", f"give a whole number from {low} to {high}")


def _tell(line: str) -> None:
    echo(line, err=True)


def _why_none(found: Search) -> str:
    reasons = [f"{t.candidate}, {v.id}: {', '.join(v.outside)}" for t in found.trained for v in t.variants]
    errors = [f"{c.name}: {c.error}" for c in found.candidates if c.error]
    return "; ".join((reasons or errors)[:3]) or "nothing could be measured"
