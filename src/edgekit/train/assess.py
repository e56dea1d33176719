"""The complete evaluation of a run: scores, differences with intervals, label draws, the worst errors, and advice."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.answers import FILE, Answers
from edgekit.data.splits import Splits
from edgekit.files import sha256
from edgekit.models.store import load_classifier
from edgekit.recipe import Recipe
from edgekit.result import Advice, AnswersFile, Draw, Evaluation
from edgekit.run import Run, classifier_stages
from edgekit.stages import MODEL_OF
from edgekit.train.advice import advise, gather
from edgekit.train.draws import complete_draws
from edgekit.train.evaluate import device_of, score_run
from edgekit.train.evaluate.answers import answer, differences, with_maps, with_worst
from edgekit.train.evaluate.few_shot import DRAWS
from edgekit.train.objective import objective_of, of_test


def evaluate(run: Run, splits: Splits, few_shot: Sequence[int] = (), draws: int = DRAWS) -> Evaluation:
    """Evaluate a run; the answers to the test images are written beside its result, `RUN/evaluate/answers.npz`.

    Args:
        run: with complete stages.
        splits: of its recipe.
        few_shot: numbers of images per class to learn from; none by default.
        draws: number of draws of those images.

    Raises:
        RunError: a stage is not complete, damaged, or made from another recipe or other images.
        DataError: the test set is empty, or a class has fewer labeled images than `few_shot` asks for.
    """
    recipe, test = run.recipe, splits.test
    evaluation, own, student = score_run(run, splits, few_shot, draws)
    if own is None:  # several classes an image: no answer is simply right or wrong
        return evaluation.model_copy(update={"draws": _recorded_draws(run, recipe, splits)})
    own, worst = with_worst(own, test, splits.classes)
    if student is not None and len(own.worst):
        own = with_maps(own, student, test, recipe, device_of(recipe))
    of_draws = _draws(run, recipe, splits)
    answers = [own, *(answers for _, answers in of_draws)]
    path = run.path / "evaluate" / FILE
    own.write(path)
    listed = [Draw(label_seed=recipe.data.label_seed, run=".", values=_values(own))] if of_draws else []
    listed += [draw for draw, _ in of_draws]
    return evaluation.model_copy(
        update={
            "differences": differences(answers, recipe.seed),
            "draws": listed,
            "advice": advise(gather(run, recipe, splits)),
            "answers": AnswersFile(file=FILE, sha256=sha256(path)),
            "worst": worst,
        }
    )


def advice_for(run: Run, splits: Splits) -> list[Advice]:
    """Return advice on the recipe of a complete run, from its numbers; empty without test images.

    Raises:
        EdgekitError: a model of the run cannot be read.
    """
    recipe = run.recipe
    return advise(gather(run, recipe, splits)) if len(splits.test) and objective_of(recipe).one_class else []


def _recorded_draws(run: Run, recipe: Recipe, splits: Splits) -> list[Draw]:
    """Return the metric of each draw's models as their stages recorded it; empty without further draws."""
    draws = []
    for number, other in [(0, run), *complete_draws(run, recipe, splits.test.digest)]:
        values = {MODEL_OF[stage]: of_test(other.require(stage).metrics) for stage in classifier_stages(recipe)}
        where = "." if other is run else str(other.path.relative_to(run.path))
        draws.append(Draw(label_seed=recipe.data.label_seed + number, run=where, values=values))
    return draws if len(draws) > 1 else []


def _draws(run: Run, recipe: Recipe, splits: Splits) -> list[tuple[Draw, Answers]]:
    draws = []
    for number, other in complete_draws(run, recipe, splits.test.digest):
        models = {
            MODEL_OF[stage]: load_classifier(other.stage_path(stage), other.require(stage).outputs)
            for stage in classifier_stages(recipe)
        }
        answers = answer(models, splits.test, recipe, device_of(recipe))
        where = str(other.path.relative_to(run.path))
        draw = Draw(label_seed=recipe.data.label_seed + number, run=where, values=_values(answers))
        draws.append((draw, answers))
    return draws


def _values(answers: Answers) -> dict[str, float]:
    return {model: answers.top1(model) for model in answers.predicted}
