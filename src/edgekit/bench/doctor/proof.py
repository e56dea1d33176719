"""Check which variants of a bundle run on this machine: load each one that can run, and compare it on the golden tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekit.bench.golden import Proof, prove
from edgekit.bundle import Bundle, Variant
from edgekit.errors import BundleError, EdgekitError, RuntimeMissing
from edgekit.runtimes import load, why_not
from edgekit.runtimes.isolation import run_in_subprocess

_BATCH = 16


@dataclass(frozen=True)
class Check:
    """The check of one variant.

    Attributes:
        variant: the variant.
        outcome: proved; left out (it cannot run here); failed (its outputs differ from the trained model's, or it does not load).
        proof: of a proved variant.
        reason: why it was not proved; for a proved variant, its warning.
        version: the runtime's version.
    """

    variant: Variant
    outcome: Literal["proved", "left out", "failed"]
    proof: Proof | None = None
    reason: str = ""
    version: str = ""


def check(
    bundle: Bundle, variants: list[Variant], *, advance: Callable[[int, str], None] = lambda steps, note: None
) -> list[Check]:
    """Load each variant in its own process and compare its outputs with the golden tensors.

    Args:
        bundle: an opened bundle.
        variants: which of its variants.
        advance: called before each variant with 0 and its id, and with 1 after it.

    Raises:
        BundleError: the golden tensors are unusable, whatever the machine or the variant.
    """
    bundle.golden_outputs()
    checks = []
    for variant in variants:
        advance(0, variant.id)  # building an engine takes minutes
        checks.append(_check(bundle, variant))
        advance(1, variant.id)
    return checks


def broken(checks: list[Check]) -> list[Check]:
    """Return the checks of variants that passed verification at export but fail here."""
    return [c for c in checks if c.outcome == "failed" and c.variant.status == "verified"]


def _check(bundle: Bundle, variant: Variant) -> Check:
    missing = why_not(variant.runtime)
    if missing is not None:
        return Check(variant, "left out", reason=str(missing))
    try:
        reply = run_in_subprocess(_prove, str(bundle.path.resolve()), bundle.digest, variant.id)
    except RuntimeMissing as error:
        return Check(variant, "left out", reason=str(error))
    except EdgekitError as error:
        return Check(variant, "failed", reason=str(error))
    proof = Proof(**reply["proof"])
    return Check(variant, "proved", proof, proof.warning, reply["version"])


def _prove(path: str, digest: str, name: str) -> dict[str, Any]:
    bundle = Bundle.open(path, digest)
    variant = bundle.variant(name)
    golden = bundle.golden_outputs()
    session = load(bundle, variant)
    try:
        proof = prove(session, variant, golden, min(_BATCH, len(golden["images"])), bundle.task)
    except BundleError as error:
        raise error.at() from error  # the row of the table names the variant
    return {"proof": asdict(proof), "version": session.version}
