"""What each stage is made from. Two stages with equal inputs are the same stage: that is what skipping, reusing and refusing
to mix old models with a new recipe rest on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from edgekit.data.splits import Splits
from edgekit.errors import RunError
from edgekit.files import digest_of
from edgekit.recipe import Recipe
from edgekit.run import Run, StageRecord

# Raise it when a change makes the same recipe train other weights, so that old stages are not taken for new ones.
_TRAINING_VERSION = 3


def stage_inputs(stage: str, recipe: Recipe, splits: Splits, run: Run) -> dict[str, Any]:
    """Everything that a stage's outputs depend on: parts of the recipe, digests of images, digests of the weights before it.

    Args:
        stage: one of `edgekit.run.STAGES`.
        recipe: what to train.
        splits: the recipe's images.
        run: where the stages before this one are complete.

    Raises:
        RunError: a stage before it is missing or damaged.
    """
    labelled = {"labelled": splits.labelled.digest, "classes": splits.classes}
    pool = {"pool": splits.pool.digest}
    if stage == "data":
        sets = {name: getattr(splits, name) for name in ("pool", "labelled", "probe", "test")}
        return {
            "data": _json(recipe.data),
            "digests": {name: s.digest for name, s in sets.items()},
            "names": digest_of([*(s.names for s in sets.values()), [(s.path, s.reason) for s in splits.skipped]]),
            "classes": splits.classes,
        }
    common = {
        "config": _json(getattr(recipe, stage)),
        "seed": recipe.seed,
        "pixels": {
            "preprocessing": _json(recipe.data.preprocessing()),
            "mean": recipe.data.mean,
            "std": recipe.data.std,
        },
        "training_version": _TRAINING_VERSION,
    }
    if stage == "pretrain":
        return {**pool, **common}
    if stage == "finetune":
        return {"from": _weights(run, "pretrain"), **labelled, **common}
    if stage == "distill":
        images = pool | (labelled if recipe.distill.labelled_weight else {"classes": splits.classes})
        return {"from": _weights(run, "finetune"), **images, **common}
    return {"student": _json(recipe.distill.student), **labelled, **common}


def require_current(stages: list[str], recipe: Recipe, splits: Splits, run: Run) -> dict[str, StageRecord]:
    """The records of complete stages that were made from this recipe and these images.

    Raises:
        RunError: one is missing, damaged, or was made from something else.
    """
    records = {}
    for stage in stages:
        records[stage] = run.require(stage)
        if records[stage].digest != digest_of(stage_inputs(stage, recipe, splits, run)):
            raise RunError(
                f"{run.path}: the stage {stage} was made from another recipe or other images than {run.recipe_path} now names",
                f"run `edgekit train {run.recipe_path} --run {run.path}`",
            )
    return records


def _weights(run: Run, stage: str) -> str:
    return run.require(stage).outputs["model.safetensors"]


def _json(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json")
