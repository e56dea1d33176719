"""Evaluation while the encoder is pretrained: kNN and linear probe every few epochs, into the history and the curves."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgekit.data.splits import Splits
from edgekit.recipe import Monitor, Recipe
from edgekit.train.evaluate import encoder_scores
from edgekit.train.loop.distributed import broadcast, rank

_PARTS = 4  # `monitor.every: auto` measures after each quarter: so the epochs double twice


def monitor_every(monitor: Monitor, epochs: int) -> int:
    """Return `monitor.every` in epochs; 0 for never."""
    return monitor.every if monitor.every != "auto" else max(1, epochs // _PARTS)


def online(encoder: nn.Module, splits: Splits, recipe: Recipe) -> Callable[[], dict[str, float]] | None:
    """Return the function that `edgekit.train.loop.engine.fit` calls every `monitor.every` epochs; None if there is nothing to measure.

    The encoder is measured in evaluation mode and float32, as after the training (same bank, test set and protocol: the number of
    the last epoch is that of the stage). Its modes are restored, no random number is drawn and no weight changes, so the training ends
    with the same bits as without monitoring. Of several processes, the first measures and the others wait for its numbers.

    Args:
        encoder: the encoder in training.
        splits: with a labeled bank, whose images are not in the pool, and the test set.
        recipe: its `monitor` defines what is measured.
    """
    monitor = recipe.monitor
    if not monitor.every or not (monitor.knn or monitor.linear) or not len(splits.labeled):
        return None

    def measure() -> dict[str, float]:
        device = next(encoder.parameters()).device
        return encoder_scores(encoder, splits, recipe, device, knn_too=monitor.knn, linear_too=monitor.linear)

    return lambda: broadcast(measure() if rank() == 0 else None)
