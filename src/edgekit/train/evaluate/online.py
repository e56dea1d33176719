"""Evaluation while the encoder is pretrained: kNN and linear probe every few epochs, into the history and the curves."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgekit.data.splits import Splits
from edgekit.recipe import Monitor, Recipe
from edgekit.train.evaluate import encoder_scores
from edgekit.train.loop.distributed import broadcast, rank

_PARTS = 4  # of a training, at whose ends `monitor.every: auto` measures: two doublings of the epochs are among them


def monitor_every(monitor: Monitor, epochs: int) -> int:
    """`monitor.every` in epochs; 0 for never."""
    return monitor.every if monitor.every != "auto" else max(1, epochs // _PARTS)


def online(encoder: nn.Module, splits: Splits, recipe: Recipe) -> Callable[[], dict[str, float]] | None:
    """What `edgekit.train.loop.engine.fit` calls every `monitor.every` epochs, or None where the recipe asks for nothing, or there are no labels.

    The encoder is measured where it is, in evaluation mode and float32, as after the training (same bank, test set and
    protocol: the last epoch's number is the stage's). It gets its modes back, no random number is drawn and no weight
    changes, so that a training with it ends with the same bits as one without. Of several processes, the first measures
    and the others wait for its numbers.

    Args:
        encoder: the one that trains.
        splits: with a labeled bank, which the pool does not hold, and the test set.
        recipe: its `monitor` says what is measured.
    """
    monitor = recipe.monitor
    if not monitor.every or not (monitor.knn or monitor.linear) or not len(splits.labeled):
        return None

    def measure() -> dict[str, float]:
        device = next(encoder.parameters()).device
        return encoder_scores(encoder, splits, recipe, device, knn_too=monitor.knn, linear_too=monitor.linear)

    return lambda: broadcast(measure() if rank() == 0 else None)
