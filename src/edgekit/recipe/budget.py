"""How long a stage trains: resolve `epochs: auto`, and split an epoch into batches that leave no image out.

The number of steps decides how well a network trains. A stage with few images needs many epochs, one with many images needs few. So
`auto` depends only on the number of images, the labels and the batch size, and is the same on every machine.
"""

from __future__ import annotations

import math
from typing import TypeVar, cast

from edgekit.recipe.bounds import BOUNDS
from edgekit.recipe.methods import MethodConfig
from edgekit.recipe.stages import Distill, Finetune, Supervised
from edgekit.recipe.training import Optimizer
from edgekit.recipe.whole import Recipe

Stage = TypeVar("Stage", bound=MethodConfig | Finetune | Distill | Supervised)


def whole_batches(images: int, batch_size: int) -> int:
    """Return the steps of an epoch without its last partial batch (contrastive losses compare the images of a whole batch)."""
    return images // batch_size


def even_batches(images: int, batch_size: int, processes: int = 1) -> list[int]:
    """Return the number of images of each process in each step of an epoch that shows every image.

    The sizes differ by at most one, exceed the batch size by at most one (where a batch of 2 would leave 1 image over), and are
    never 1, for BatchNorm, unless there is only one image for each process. Where the processes cannot share the images evenly,
    fewer images than there are processes are shown twice.

    Args:
        images: number of images, at least 1.
        batch_size: of all processes together, at least 2 per process.
        processes: number of processes that share each batch.
    """
    own = math.ceil(images / processes)
    steps = max(1, min(math.ceil(own / (batch_size // processes)), own // 2))
    return [own // steps + (step < own % steps) for step in range(steps)]


def epoch_steps(stage: str, images: int, batch_size: int) -> int:
    """Return the steps per epoch of a stage in one process."""
    batch_size = min(batch_size, images)
    return whole_batches(images, batch_size) if stage == "pretrain" else len(even_batches(images, batch_size))


def auto_epochs(stage: str, images: int, batch_size: int, steps: int | None = None) -> int:
    """Return the number of epochs for `epochs: auto`.

    Args:
        stage: pretrain, finetune, distill or supervised.
        images: number of training images, at least 2.
        batch_size: of the recipe.
        steps: of the recipe, which is then the only bound; None: `BOUNDS`.
    """
    each = epoch_steps(stage, images, batch_size)
    if steps is not None:
        return math.ceil(steps / each)
    bounds = BOUNDS[stage]
    epochs = max(bounds.low, math.ceil(bounds.steps / each))
    return epochs if bounds.high is None else min(bounds.high, epochs)


def settled_stage(stage: str, config: Stage, images: int) -> Stage:
    """Return a stage's part of the recipe with `epochs: auto` as a number and `optimizer.warmup` in epochs."""
    epochs = auto_epochs(stage, images, config.batch_size, config.steps) if config.epochs == "auto" else config.epochs
    warmup = config.optimizer.warmup_epochs
    if warmup is None:
        warmup = round(config.optimizer.warmup * epochs, 6)
    optimizer = config.optimizer.model_copy(update={"warmup_epochs": warmup, "warmup": 0.0})
    return cast(Stage, config.model_copy(update={"epochs": epochs, "steps": None, "optimizer": optimizer}))


def settled(recipe: Recipe, pool: int, labeled: int) -> Recipe:
    """Return a recipe with a number for every `auto` that depends on the number of images.

    Args:
        recipe: any; a settled one is returned unchanged.
        pool: images in the pool.
        labeled: images in the label budget.
    """
    distilled = labeled if recipe.distill.images == "labeled" else pool
    images = {"pretrain": pool, "finetune": labeled, "distill": distilled, "supervised": labeled}
    return recipe.model_copy(
        update={stage: settled_stage(stage, getattr(recipe, stage), max(2, count)) for stage, count in images.items()}
    )


def epochs_of(config: Stage) -> int:
    """Return the epochs of a settled stage."""
    assert config.epochs != "auto"
    return int(config.epochs)


def warmup_steps(optimizer: Optimizer, each: int, total: int) -> int:
    """Return the steps of the warm-up, always fewer than all: `warmup_epochs` may exceed the epochs that auto chooses.

    Args:
        optimizer: its warm-up is a share or a number of epochs.
        each: steps per epoch.
        total: steps of the stage.
    """
    epochs = optimizer.warmup_epochs
    steps = round(optimizer.warmup * total if epochs is None else epochs * each)
    return steps if steps < total else total // 2
