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

from edgekit.parity import decibels, finite_fault, noise, power
from edgekit.runtimes import Session
from edgekit.runtimes.session import run_in_batches, share_graph
from edgekit.tasks import Outputs, Task
from edgekit.tasks.task import is_finite

# One image at a time first: what the others are held against. None is beyond what an engine of TensorRT takes by default.
BATCHES = (1, 3, 5, 8)
# Two forms may round differently, and INT8 makes whole steps of it. Where their errors are independent and of the same size, the
# difference has twice the power of either; more than that is no rounding.
_NOISE = 2.0
_FLOOR = 1e-6  # of the output's power, 60 dB: what float32 sums in another order, and FP16 kernels, may differ by


@dataclass(frozen=True)
class BatchCheck:
    """What batches of several sizes answer, beside one image at a time.

    Attributes:
        sizes: that were run; one alone where the graph has a fixed batch.
        output: that is the furthest from that of one image at a time.
        worst: the size that it is of.
        sqnr_db: of that size's output to its difference from one image at a time, in dB; infinite where they are equal, minus
            infinite where they are not finite numbers.
        noise_db: the same of one image at a time, to its difference from the trained model.
        agreement: the smallest share of the images on which a size decides as the trained model does.
        agree: whether no size differs by more than rounding does.
    """

    sizes: tuple[int, ...]
    output: str
    worst: int
    sqnr_db: float
    noise_db: float
    agreement: float
    agree: bool

    def fault(self) -> str:
        """Why they do not agree, in a clause."""
        if self.sqnr_db == -np.inf:
            return f"in batches of {self.worst} {finite_fault(self.output)}"
        return (
            f"in batches of {self.worst} it computes something else than for one image: {self.sqnr_db:.1f} dB apart, where it is "
            f"{self.noise_db:.1f} dB from the trained model"
        )


def compare_batches(
    session: Session,
    images: NDArray[np.uint8],
    trained: Outputs,
    task: Task,
    also: Mapping[int, Outputs] | None = None,
) -> BatchCheck:
    """Run some images in batches of several sizes: the first sizes each with a graph of its own where the runtime makes such, then the others
    with the graph that they share.

    Args:
        session: of the variant, and after this all further sizes share its graph; where that has a fixed batch, it is the only size.
        images: uint8 (n, s, s, 3).
        trained: the trained model's outputs for them.
        task: theirs; the outputs that it requires are compared.
        also: the outputs for them that the session gave in other batch sizes, with a graph for that size.
    """
    sizes = (session.batch,) if session.batch else BATCHES
    answers: dict[int, Outputs] = {}
    for i, size in enumerate(sizes):
        if i == (1 if also else 2):
            share_graph(session)
        answers[size] = _in_batches(session, images, size)
    answers = {**(also or {}), **answers}
    found = [_apart(name, trained[name], sizes[0], answers) for name in task.required]
    name, worst, sqnr_db, noise_db, agree = min(found, key=lambda apart: (apart[4], apart[2]))
    return BatchCheck(
        sizes=tuple(sorted(answers)),
        output=name,
        worst=worst,
        sqnr_db=sqnr_db,
        noise_db=noise_db,
        agreement=min(_agreement(task, answer, trained) for answer in answers.values()),
        agree=agree,
    )


def _apart(
    name: str, trained: NDArray[np.float32], first: int, answers: Mapping[int, Outputs]
) -> tuple[str, int, float, float, bool]:
    """Of one output: its name, the size that is the furthest from `first`, by how many dB, how far that is from the trained model, and whether
    all sizes agree."""
    signal, reference = power(trained), answers[first][name].astype(np.float64)
    own_noise = noise(reference, trained)
    apart = {size: noise(answer[name], reference) for size, answer in answers.items()}
    worst = max(apart, key=lambda size: apart[size])
    agree = apart[worst] <= max(_NOISE * own_noise, _FLOOR * signal) and bool(np.isfinite(own_noise))
    return name, worst, decibels(signal, apart[worst]), decibels(signal, own_noise), agree


def _agreement(task: Task, got: Outputs, trained: Outputs) -> float:
    """0 where outputs are not finite numbers."""
    got = {name: got[name] for name in task.required}
    return float(task.agreement(got, trained).mean()) if is_finite(got) else 0.0


def _in_batches(session: Session, images: NDArray[np.uint8], size: int) -> Outputs:
    """The outputs for images, every run being of `size` images: the last one is filled up with images of the same set."""
    whole = -(-len(images) // size) * size
    repeated = np.resize(images, (whole, *images.shape[1:]))
    return {name: values[: len(images)] for name, values in run_in_batches(session, repeated, size).items()}
