"""Warnings about a trained model's own outputs, before any conversion. Most often the preprocessing is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.export.verify import ReferenceOutputs

MARK = "WARNING: "
_ENOUGH = 8  # images, before one class for all of them says something


def doubts(reference: ReferenceOutputs, classes: Sequence[str]) -> list[str]:
    """Return one warning per problem; empty if nothing looks wrong.

    Args:
        reference: the trained model's outputs.
        classes: names, in the order of its logits.
    """
    logits, labels = reference.logits, reference.labels
    decided = logits.argmax(1)
    found = []
    various = labels is None or len(np.unique(labels)) > 1
    if len(logits) >= _ENOUGH and various and len(np.unique(decided)) == 1:
        of = "" if labels is None else "test "
        found.append(
            f"{MARK}the trained model itself gives one class, {classes[int(decided[0])]}, for all {len(logits)} {of}images: check --mean, "
            "--std, --channels and the weights; that a variant agrees with it means nothing"
        )
    # A column that never moves is the 0 beside the one logit of a network of two classes.
    if logits.min() >= 0 and logits.max() <= 1 and float(np.ptp(logits, axis=0).min()) > 0:
        found.append(
            f"{MARK}everything that the trained model gives lies between 0 and 1: if these are probabilities of classes that do not "
            "exclude each other (a multi-label network), this bundle is not one of it"
        )
    return found
