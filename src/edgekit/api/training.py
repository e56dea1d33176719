"""Training and evaluation from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from edgekit import run as runs
from edgekit.api.extras import require
from edgekit.api.runs import Run, opened
from edgekit.arguments import Count, Within, checked
from edgekit.errors import RecipeError
from edgekit.processors import configure_openmp
from edgekit.recipe import Overrides, Recipe, recipe_of
from edgekit.stages import STAGES
from edgekit.tasks import ANOMALY

if TYPE_CHECKING:
    from edgekit.data.splits import Splits
    from edgekit.result import Result
    from edgekit.train.stages.pipeline import Report


@checked("recipe", "until")
def train(
    recipe: Recipe | Path | str | Mapping[str, Any],
    *,
    run: runs.Run | Path | str | None = None,
    overrides: Overrides = (),
    reuse: runs.Run | Path | str | None = None,
    devices: Count | None = None,
    nodes: Count | None = None,
    until: str = STAGES[-1],
    draws: Annotated[int, Within(1, 100)] = 1,
    on_stage: Callable[[Report, int], None] = lambda report, draw: None,
    on_start: Callable[[Splits], None] = lambda splits: None,
) -> Run:
    """Pretrain, fine-tune and distill, like `edgekit train`: complete, unchanged stages are skipped; an interrupted one resumes from its
    last checkpoint.

        run = edgekit.train("recipe.yaml", overrides={"data.labels": 10})

    Args:
        recipe: a recipe, the path of its YAML file, or its content as a dictionary.
        run: the run's folder; None: `runs/NAME` of the recipe.
        overrides: values that replace the recipe's: `{"data.labels": 10}`, or `["data.labels=10"]` as `--set` takes them.
        reuse: another run, whose stages are copied if their inputs are the same.
        devices: GPUs, or CPU processes, per machine; None: as in the recipe. Several are started as separate processes, unless torchrun
            or srun started this one.
        nodes: number of machines; None: as in the recipe.
        until: the last stage to train, one of `edgekit.stages.STAGES`.
        draws: number of draws of the label budget; further draws are trained in RUN/draws.
        on_stage: called after each stage with its report and the number of the label draw (0 for that of the run).
        on_start: called with the images before the first stage; not called if other processes train.

    Returns:
        The run.

    Raises:
        RecipeError, DataError: the recipe or its images are invalid.
        RunError: the run is in use, or an unfinished stage was started from another recipe.
        RuntimeMissing: the extra [train] is not installed.
        KeyboardInterrupt: after Ctrl-C; complete stages are kept.
    """
    configure_openmp()
    require("torch", "lightning")
    hardware = {f"hardware.{name}": value for name, value in (("devices", devices), ("nodes", nodes)) if value}
    loaded = recipe_of(recipe_of(recipe, overrides), hardware)
    target = Run(run.path if isinstance(run, runs.Run) else run or Path("runs") / loaded.name)
    others = [opened(reuse)] if reuse is not None else []
    _check(loaded, until, draws)
    from edgekit.train.loop.processes import place

    if loaded.hardware.devices > 1 and loaded.hardware.nodes == 1 and place() is None:
        from edgekit.api.processes import train_in_processes

        train_in_processes(loaded, target, others, until, draws, on_stage)
    else:
        _train_here(loaded, target, others, until, draws, on_stage, on_start)
    return target


def _check(recipe: Recipe, until: str, draws: int) -> None:
    if until not in STAGES:
        raise RecipeError(f"until: {until!r} is not a stage", f"give one of {', '.join(STAGES)}")
    if draws > 1 and until != STAGES[-1]:
        raise RecipeError(f"draws: {draws} draws need complete runs, but until is {until}", "leave until out")
    from edgekit.train.draws import check_draws

    check_draws(recipe, draws)


def _train_here(
    recipe: Recipe,
    run: Run,
    reuse: Sequence[runs.Run],
    until: str,
    draws: int,
    on_stage: Callable[[Report, int], None],
    on_start: Callable[[Splits], None],
) -> None:
    """Train in this process."""
    from edgekit.train.draws import check_draws_differ, run_of_draw, train_draws
    from edgekit.train.loop.failures import TrainingInterrupted
    from edgekit.train.records.unfinished import after_interrupt
    from edgekit.train.stages.pipeline import train as train_stages

    current: runs.Run = run

    def start(splits: Splits) -> None:
        check_draws_differ(recipe, splits, draws)
        on_start(splits)

    def after_draw(draw: int, report: Report) -> None:
        nonlocal current
        current = run_of_draw(run, draw)
        on_stage(report, draw)

    try:
        train_stages(recipe, run, reuse=reuse, until=until, on_stage=lambda report: on_stage(report, 0), on_start=start)
        if draws > 1 and run.record("finetune") is not None:  # not without a single label
            train_draws(recipe, run, draws, reuse=reuse, on_stage=after_draw)
    except TrainingInterrupted:
        raise KeyboardInterrupt(f"{current.path}: {after_interrupt(current)}") from None


@checked("draws")
def evaluate(run: runs.Run | Path | str, *, few_shot: Sequence[int] = (), draws: int = 100) -> Result:
    """Score a run's encoder (kNN, linear probe), teacher, student and supervised student on its test set, like `edgekit evaluate`; of a run of
    task anomaly, its detector.

    The result is written to RUN/evaluate/evaluation.json; earlier few-shot accuracies of the same encoder are kept.

    Args:
        run: the run or its folder.
        few_shot: numbers of labeled images per class for few-shot accuracies of the encoder, for instance `[1, 5, 10]`.
        draws: number of random draws of those images, at least 2.

    Returns:
        The result; its `measurement` is an `edgekit.result.Evaluation`.

    Raises:
        RunError: there is no such run, a stage is not complete or damaged, or was made from another recipe or other images.
        DataError: the test set is empty, or a class has fewer labeled images than `few_shot` asks for.
        RuntimeMissing: the extra [train] is not installed.
    """
    configure_openmp()
    target = opened(run)
    recipe = target.recipe
    require("torch", "sklearn")
    shots = sorted(set(few_shot))
    if any(k < 1 for k in shots) or draws < 2:
        raise RecipeError(
            f"evaluate: few_shot {shots} or draws {draws} is too small", "few_shot must be at least 1, draws at least 2"
        )
    if recipe.task == ANOMALY:
        if shots:
            raise RecipeError(f"evaluate: few_shot {shots}: a detector learns from no labels", "leave few_shot out")
        return _evaluate_detector(target)
    from edgekit.data.splits import load_splits
    from edgekit.result import Result
    from edgekit.train.assess import evaluate as evaluate_run
    from edgekit.train.evaluate import with_earlier_few_shot

    path = target.path / "evaluate" / "evaluation.json"
    measured = with_earlier_few_shot(evaluate_run(target, load_splits(recipe.data, target), shots, draws), path)
    result = Result.of(measured, seed=recipe.seed)
    result.write(path)
    return result


def _evaluate_detector(run: Run) -> Result:
    from edgekit.result import Result
    from edgekit.train.detect.evaluate import evaluate_detector

    result = Result.of(evaluate_detector(run), seed=run.recipe.seed)
    result.write(run.path / "evaluate" / "evaluation.json")
    return result
