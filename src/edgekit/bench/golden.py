"""Check, before anything is timed, that a session computes the trained model's outputs on the golden tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edgekit.bundle import Variant
from edgekit.errors import BundleError
from edgekit.parity import shape_fault
from edgekit.runtimes import Session
from edgekit.runtimes.session import run_in_batches
from edgekit.tasks import Task

_HINT = "use another variant; please report it with the output of `edgekit bench --json`"


@dataclass(frozen=True)
class Proof:
    """How close a session's outputs are to the golden outputs on this machine.

    Attributes:
        max_abs_diff: largest absolute difference of a value of the task's main output.
        agreement: share of the golden images on which it decides as the trained model does.
        warning: why the recorded accuracy does not hold here; empty if it does.
        figures: of the other outputs, `NAME_max_abs_diff` and `NAME_cosine`, such as `embedding_cosine`.
    """

    max_abs_diff: float
    agreement: float
    warning: str
    figures: dict[str, float] = field(default_factory=dict)


def worst(proofs: Sequence[Proof]) -> Proof:
    """The proof of several sessions of one variant: of each figure the worst, of the warnings the first."""
    names = dict.fromkeys(name for proof in proofs for name in proof.figures)
    found = {name: [proof.figures[name] for proof in proofs if name in proof.figures] for name in names}
    return Proof(
        max(proof.max_abs_diff for proof in proofs),
        min(proof.agreement for proof in proofs),
        proofs[0].warning,
        {name: min(values) if name.endswith("_cosine") else max(values) for name, values in found.items()},
    )


def prove(session: Session, variant: Variant, golden: Mapping[str, NDArray[Any]], batch: int, task: Task) -> Proof:
    """Run the golden images in batches of `batch`, and compare every output with the golden one by the task's rule (`Task.golden_fault`).

    INT8 may differ from machine to machine (CPUs without VNNI saturate): where it agrees on more than 5 points fewer of the images than it
    did at export, or its embedding's cosine is more than 0.05 smaller, the proof carries a warning. A float variant must agree, and the
    embedding of any must be the same vector (`edgekit.parity` says how near that is).

    Args:
        session: the loaded variant.
        variant: it.
        golden: `Bundle.golden_outputs()`: `images`, and the outputs by name.
        batch: images a run.
        task: the bundle's.

    Raises:
        BundleError: a float variant gives other logits on this machine, or any variant gives another embedding or values
            that are not finite.
    """
    outputs = run_in_batches(session, golden["images"], batch)
    trained = {name: values for name, values in golden.items() if name != "images"}
    for name, values in trained.items():
        _check_shape(variant, name, outputs.get(name), values)
    found = task.compare(outputs, trained)
    if faults := task.golden_fault(found, variant.precision):
        raise _mismatch(variant, faults[0])
    recorded = variant.parity
    warning = task.golden_warning(found, recorded.agreement, recorded.figures) if recorded is not None else ""
    return Proof(found.outputs[task.main].max_abs_diff, found.agreement, warning, task.figures(found))


def _check_shape(variant: Variant, name: str, got: NDArray[Any] | None, golden: NDArray[Any]) -> None:
    fault = f"it has no output {name}" if got is None else shape_fault(name, got, golden)
    if fault:
        raise BundleError(fault, "export the bundle again", where=variant.id)


def _mismatch(variant: Variant, how: str) -> BundleError:
    return BundleError(f"its outputs differ from the trained model's on this machine: {how}", _HINT, where=variant.id)
