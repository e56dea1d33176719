"""Check that a variant computes the same for every batch size: a runtime may run a different graph for each.

An OpenVINO session compiles one graph for each of the first few batch sizes and one with a free batch axis for all others; the shipped
file has a free axis until it is reshaped. Each of these is a separate compilation, and a fault of the compiler may affect only one of them.
So a few sizes are run, some with their own graphs and some with the shared one, and compared with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.parity import decibels, noise, power
from edgekit.runtimes import Session
from edgekit.runtimes.session import OUTPUT, run_in_batches, share_graph

# One image at a time comes first: the others are compared with it. All sizes fit a TensorRT engine's default profile.
BATCHES = (1, 3, 5, 8)
# Two graphs may round differently, and INT8 turns rounding into whole steps. If their errors are independent and of the same size, their
# difference has twice the power of either error; more than that is not rounding.
_NOISE = 2.0
_FLOOR = 1e-6  # of the logits' power, 60 dB: what float32 sums in another order, and FP16 kernels, may differ by


@dataclass(frozen=True)
class BatchCheck:
    """Batches of several sizes compared with one image at a time.

    Attributes:
        sizes: the batch sizes that were run; only one if the graph has a fixed batch size.
        worst: the size whose logits are the furthest from those of one image at a time.
        sqnr_db: of that size's logits to their difference from one image at a time, in dB; infinite where they are equal, minus
            infinite where they are not finite numbers.
        noise_db: the same for one image at a time, compared with the trained model.
        top1: the smallest share of the images that a size classifies as the trained model does.
        agree: whether all sizes agree up to rounding.
    """

    sizes: tuple[int, ...]
    worst: int
    sqnr_db: float
    noise_db: float
    top1: float
    agree: bool

    def fault(self) -> str:
        """The reason, as a clause, why they do not agree."""
        if self.sqnr_db == -np.inf:
            return f"in batches of {self.worst} its logits are not finite numbers"
        return (
            f"in batches of {self.worst} its outputs differ from those for one image (SQNR {self.sqnr_db:.1f} dB; with the trained "
            f"model {self.noise_db:.1f} dB)"
        )


def compare_batches(
    session: Session,
    images: NDArray[np.uint8],
    trained: NDArray[np.float32],
    also: Mapping[int, NDArray[np.float32]] | None = None,
) -> BatchCheck:
    """Run images in batches of several sizes: the first sizes with a graph for each if the runtime makes them, then the others
    with the shared graph.

    Args:
        session: the variant's session. Afterwards all further sizes share one graph. A fixed batch size is the only size that is run.
        images: uint8 (n, s, s, 3).
        trained: the trained model's logits for them, float32 (n, classes).
        also: the logits for them that the session gave in other batch sizes, with a graph for that size.
    """
    sizes = (session.batch,) if session.batch else BATCHES
    answers: dict[int, NDArray[np.float64]] = {}
    for i, size in enumerate(sizes):
        if i == (1 if also else 2):
            share_graph(session)
        answers[size] = _in_batches(session, images, size).astype(np.float64)
    answers = {**{size: logits.astype(np.float64) for size, logits in (also or {}).items()}, **answers}
    first = answers[sizes[0]]
    signal = power(trained)
    own_noise = noise(first, trained)
    apart = {size: noise(answer, first) for size, answer in answers.items()}
    worst = max(apart, key=lambda size: apart[size])
    classes = trained.argmax(1)
    return BatchCheck(
        sizes=tuple(sorted(answers)),
        worst=worst,
        sqnr_db=decibels(signal, apart[worst]),
        noise_db=decibels(signal, own_noise),
        top1=min(float((answer.argmax(1) == classes).mean()) for answer in answers.values()),
        agree=apart[worst] <= max(_NOISE * own_noise, _FLOOR * signal) and np.isfinite(own_noise).item(),
    )


def _in_batches(session: Session, images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """The logits (n, classes) of images, every run being of `size` images: the last one is filled up with images of the same set."""
    whole = -(-len(images) // size) * size
    repeated = np.resize(images, (whole, *images.shape[1:]))
    return run_in_batches(session, repeated, size)[OUTPUT][: len(images)]
