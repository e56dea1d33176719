"""Train one recipe on several draws of the label budget, to measure how much results depend on the draw.

RUN/                 the recipe's own draw
RUN/draws/1, 2, …    the same recipe with `data.label_seed` raised by 1, 2, …; each is a run with a copy of the pretraining of RUN
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.data.splits import Splits, load_splits
from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipe import Recipe
from edgekit.result import Draw
from edgekit.run import Run, classifier_stages
from edgekit.stages import MODEL_OF
from edgekit.train.objective import of_test
from edgekit.train.stages.pipeline import Report, train

_PARTS = ("seed", "task", "multilabel", "data", "pretrain", "finetune", "distill", "supervised")


def of_draw(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe with the labels of another draw; number 0 is its own draw."""
    data = recipe.data.model_copy(update={"label_seed": recipe.data.label_seed + number})
    return recipe.model_copy(update={"data": data})


def run_of_draw(run: Run, number: int) -> Run:
    """Return the run of a draw; number 0 is the run itself."""
    return Run(run.path / "draws" / str(number)) if number else run


def check_draws(recipe: Recipe, draws: int) -> None:
    """Refuse several draws of labels that are not drawn.

    Raises:
        RecipeError: the labels are a list of files, or all labels.
    """
    labels = recipe.data.labels  # the number 1 is one label of each class, 1.0 is all of them
    if draws > 1 and (isinstance(labels, str) or (isinstance(labels, float) and labels == 1.0)):
        what = "lists the labeled files" if isinstance(labels, str) else "uses all labels"
        raise RecipeError(
            f"--draws {draws}: data.labels ({labels}) {what}, so every draw would be the same",
            "leave --draws out, or set data.labels to a share (0.1) or a count per class (10)",
        )


def check_draws_differ(recipe: Recipe, splits: Splits, draws: int) -> None:
    """Refuse several draws where a budget takes every label of every class: `{per_class: 50, at_most: true}` of classes of 40.

    Args:
        recipe: of the run.
        splits: its images.
        draws: how many there are to be.

    Raises:
        RecipeError: the next draw has the same labels as the run's own.
    """
    if (
        draws > 1
        and len(splits.labeled)
        and load_splits(of_draw(recipe, 1).data).labeled.digest == splits.labeled.digest
    ):
        raise RecipeError(
            f"--draws {draws}: data.labels takes every label there is outside the test and probe sets ({len(splits.labeled)}), so that "
            "every draw would be the same",
            "leave --draws out, or ask for fewer labels",
        )


def train_draws(
    recipe: Recipe,
    run: Run,
    draws: int,
    *,
    reuse: Sequence[Run] = (),
    on_stage: Callable[[int, Report], None] = lambda draw, report: None,
) -> None:
    """Train the draws after the first, each completely; complete stages are skipped and interrupted ones resumed.

    Args:
        recipe: of the run.
        run: complete.
        draws: number of draws, including that of the run itself.
        reuse: other runs to copy stages from.
        on_stage: called after each stage, with the draw's number.

    Raises:
        EdgekitError: as `edgekit.train.stages.pipeline.train`.
    """
    for number in range(1, draws):

        def say(report: Report, number: int = number) -> None:
            on_stage(number, report)

        train(of_draw(recipe, number), run_of_draw(run, number), reuse=[run, *reuse], on_stage=say)


def complete_draws(run: Run, recipe: Recipe, test_digest: str) -> list[tuple[int, Run]]:
    """Return the further draws of a run that are complete and have its recipe, its pretrained encoder and its test images.

    Args:
        run: the run.
        recipe: its recipe.
        test_digest: of its test set.
    """
    draws = []
    folder = run.path / "draws"
    numbers = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    for number in numbers:
        other = run_of_draw(run, number)
        try:
            same = all(getattr(other.recipe, part) == getattr(of_draw(recipe, number), part) for part in _PARTS)
            stages = classifier_stages(recipe)
            if not same or any(other.record(stage) is None for stage in stages):
                continue
            records = [other.require(stage) for stage in stages]
            encoder = run.require("pretrain").outputs["model.safetensors"]
        except EdgekitError:  # incomplete, or not written by edgekit
            continue
        measured = {str(record.metrics.get("measured_on", {}).get("test")) for record in records}
        if measured == {test_digest} and records[0].inputs.get("from") == encoder:
            draws.append((number, other))
    return draws


def accuracies(run: Run, draws: int) -> list[Draw]:
    """Return the test accuracies in the records of a run's draws.

    Args:
        run: complete.
        draws: number of draws, including that of the run itself.
    """
    values_of_draws = []
    for number in range(draws):
        other = run_of_draw(run, number)
        records = {model: other.record(stage) for stage, model in MODEL_OF.items()}
        values = {model: of_test(record.metrics) for model, record in records.items() if record is not None}
        values_of_draws.append(Draw(label_seed=other.recipe.data.label_seed, run=str(other.path), values=values))
    return values_of_draws
