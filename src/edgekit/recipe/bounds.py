"""What `epochs: auto` keeps to, stage by stage; the recipe's fields say it, and `edgekit.recipe.budget` counts with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochBounds:
    """What `epochs: auto` keeps to.

    Args:
        steps: at least so many.
        low: and at least so many epochs.
        high: but at most so many epochs, where that is a number: more would only repeat.
    """

    steps: int
    low: int
    high: int | None = None


# Tried on 6,000 small images with ten labels a class: 200 epochs of pretraining (4,600 steps), 40 of distillation (900 steps).
# Fine-tuning with pseudo-labels gains up to 600 steps on four sets (benchmarks/results/finetune_ablation.json).
# The labels are few, and a network from scratch needs more steps than one that is pretrained: else the comparison flatters.
BOUNDS = {
    "pretrain": EpochBounds(5000, 100, 400),
    "finetune": EpochBounds(600, 30),
    "distill": EpochBounds(2000, 20, 200),
    "supervised": EpochBounds(1000, 60),
}
