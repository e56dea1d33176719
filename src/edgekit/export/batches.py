"""Does a variant compute the same in every batch size? A runtime may run another graph for each.

A session of OpenVINO compiles a graph of its own for each of the first few batch sizes and one with a free batch axis for all others; the
file that is shipped has a free axis until somebody reshapes it. Each of these forms is another compilation, and a fault of the compiler
may lie in one alone. So a few sizes are run, some with graphs of their own and some with the shared one, and held against one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.parity import decibels, noise, power
from edgekit.runtimes import Session
from edgekit.runtimes.session import OUTPUT, run_in_batches, share_graph

# One image at a time first: what the others are held against. None is beyond what an engine of TensorRT takes by default.
BATCHES = (1, 3, 5, 8)
# Two forms may round differently, and INT8 makes whole steps of it. Where their errors are independent and of the same size, the
# difference has twice the power of either; more than that is no rounding.
_NOISE = 2.0
_FLOOR = 1e-6  # of the logits' power, 60 dB: what float32 sums in another order, and FP16 kernels, may differ by


@dataclass(frozen=True)
class BatchCheck:
    """What batches of several sizes answer, beside one image at a time.

    Attributes:
        sizes: that were run; one alone where the graph has a fixed batch.
        worst: the size whose logits are the furthest from those of one image at a time.
        sqnr_db: of that size's logits to their difference from one image at a time, in dB; infinite where they are equal, minus
            infinite where they are not finite numbers.
        noise_db: the same of one image at a time, to its difference from the trained model.
        top1: the smallest share of the images that a size classifies as the trained model does.
        agree: whether no size differs by more than rounding does.
    """

    sizes: tuple[int, ...]
    worst: int
    sqnr_db: float
    noise_db: float
    top1: float
    agree: bool

    def fault(self) -> str:
        """Why they do not agree, in a clause."""
        if self.sqnr_db == -np.inf:
            return f"in batches of {self.worst} its logits are not finite numbers"
        return (
            f"in batches of {self.worst} it computes something else than for one image: {self.sqnr_db:.1f} dB apart, where it is "
            f"{self.noise_db:.1f} dB from the trained model"
        )


def compare_batches(
    session: Session,
    images: NDArray[np.uint8],
    trained: NDArray[np.float32],
    also: Mapping[int, NDArray[np.float32]] | None = None,
) -> BatchCheck:
    """Run some images in batches of several sizes: the first sizes each with a graph of its own where the runtime makes such, then the others
    with the graph that they share.

    Args:
        session: of the variant, and after this all further sizes share its graph; where that has a fixed batch, it is the only size.
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
