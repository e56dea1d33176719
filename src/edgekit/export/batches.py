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

from edgekit.parity import decibels, finite_fault, noise, power
from edgekit.runtimes import Session
from edgekit.runtimes.session import run_in_batches, share_graph
from edgekit.tasks import Outputs, Task
from edgekit.tasks.task import is_finite

# One image at a time comes first: the others are compared with it. All sizes fit a TensorRT engine's default profile.
BATCHES = (1, 3, 5, 8)
# Two graphs may round differently, and INT8 turns rounding into whole steps. If their errors are independent and of the same size, their
# difference has twice the power of either error; more than that is not rounding.
_NOISE = 2.0
_FLOOR = 1e-6  # of the output's power, 60 dB: what float32 sums in another order, and FP16 kernels, may differ by


@dataclass(frozen=True)
class BatchCheck:
    """Batches of several sizes compared with one image at a time.

    Attributes:
        sizes: the batch sizes that were run; only one if the graph has a fixed batch size.
        output: the output that differs most from that of one image at a time.
        worst: the size whose output is the furthest from those of one image at a time.
        sqnr_db: of that size's output to its difference from one image at a time, in dB; infinite where both are equal, minus
            infinite where they are not finite numbers.
        noise_db: the same for one image at a time, compared with the trained model.
        agreement: the smallest share of the images on which a size decides as the trained model does.
        agree: whether all sizes agree up to rounding.
    """

    sizes: tuple[int, ...]
    output: str
    worst: int
    sqnr_db: float
    noise_db: float
    agreement: float
    agree: bool

    def fault(self) -> str:
        """The reason, as a clause, why they do not agree."""
        if self.sqnr_db == -np.inf:
            return f"in batches of {self.worst} {finite_fault(self.output)}"
        return (
            f"in batches of {self.worst} its outputs differ from those for one image (SQNR {self.sqnr_db:.1f} dB; with the trained "
            f"model {self.noise_db:.1f} dB)"
        )


def compare_batches(
    session: Session,
    images: NDArray[np.uint8],
    trained: Outputs,
    task: Task,
    also: Mapping[int, Outputs] | None = None,
) -> BatchCheck:
    """Run images in batches of several sizes: the first sizes with a graph for each if the runtime makes them, then the others
    with the shared graph.

    Args:
        session: the variant's session. Afterwards all further sizes share one graph. A fixed batch size is the only size that is run.
        images: uint8 (n, h, w, 3).
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
