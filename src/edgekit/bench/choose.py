"""Choose which of a bundle's variants are measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.bundle import Bundle, Variant
from edgekit.errors import BundleError, RuntimeMissing
from edgekit.runtimes import why_not
from edgekit.targets import find_runtime


def choose(
    bundle: Bundle, names: Sequence[str] = (), provider: str | None = None
) -> tuple[list[Variant], list[tuple[Variant, str]]]:
    """Return the variants to measure on this machine, and the others, each with the reason.

    Args:
        bundle: an opened bundle.
        names: ids of variants; empty means all that were not rejected, or all of a bundle with random weights.
        provider: the device or library that the runtime computes with; None is the CPU.

    Raises:
        BundleError: a name is unknown, or there is no variant to measure.
        RuntimeMissing: a variant that was named cannot run on this machine, or not with that provider, or its time would say nothing.
    """
    # A bundle with random weights is there to be timed: its rejected variants decide otherwise on what is a matter of chance.
    any_status = bool(names) or bool(bundle.manifest.provenance.get("random_weights"))
    chosen: list[Variant] = []
    left_out: list[tuple[Variant, str]] = []
    for variant in [bundle.variant(name) for name in dict.fromkeys(names)] or bundle.manifest.variants:
        missing = _not_timed(variant) or why_not(variant.runtime) or _no_provider(variant, provider)
        if missing is not None and names:
            raise missing
        if missing is not None:
            left_out.append((variant, str(missing.at())))  # the list names the variant
        elif variant.status == "rejected" and not any_status:
            left_out.append((variant, f"rejected at export{': ' + variant.note if variant.note else ''}"))
        else:
            chosen.append(variant)
    if not chosen:
        by_reason: dict[str, list[str]] = {}
        for variant, reason in left_out:
            by_reason.setdefault(reason, []).append(variant.id)
        reasons = "; ".join(f"{', '.join(ids)}: {reason}" for reason, ids in by_reason.items())
        raise BundleError(
            f"{bundle.path}: no variant can be measured on this machine ({reasons or 'it has no variants'})"
        )
    return chosen, left_out


def _not_timed(variant: Variant) -> RuntimeMissing | None:
    runtime = find_runtime(variant.runtime)
    if runtime is None or runtime.timed:
        return None
    return RuntimeMissing(
        f"{runtime.title} is for microcontrollers; its time on a computer says nothing of a board's",
        "time it on the board; `edgekit doctor` and `edgekit predict` run it here",
        where=variant.id,
    )


def _no_provider(variant: Variant, provider: str | None) -> RuntimeMissing | None:
    runtime = find_runtime(variant.runtime)
    known = runtime.providers if runtime else ()
    if provider is None or provider in known:
        return None
    return RuntimeMissing(
        f"{variant.runtime} has no provider {provider}",
        f"choose {', '.join(known)}" if known else "leave out --provider",
        where=variant.id,
    )
