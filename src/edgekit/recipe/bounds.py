"""The bounds of `epochs: auto` for each stage; the fields of the recipe describe them, and `edgekit.recipe.budget` applies them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochBounds:
    """The bounds of `epochs: auto`.

    Args:
        steps: the least number of steps.
        low: the least number of epochs.
        high: the largest number of epochs, since more would only repeat; None for no limit. It wins over `steps`.
    """

    steps: int
    low: int
    high: int | None = None


# Tried on 6,000 small images with ten labels a class: 200 epochs of pretraining (4,600 steps), 40 of distillation (900 steps).
# Fine-tuning with pseudo-labels gains up to 600 steps on four sets (benchmarks/results/finetune_ablation.json).
# A network from scratch needs more steps than a pretrained one on as few labels; with fewer steps, the baseline would look too weak.
BOUNDS = {
    "pretrain": EpochBounds(5000, 100, 400),
    "finetune": EpochBounds(600, 30),
    "distill": EpochBounds(2000, 20, 200),
    "supervised": EpochBounds(1000, 60),
}
