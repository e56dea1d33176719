"""The gate of an export: an error where a variant was rejected, and what may let it pass."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.bundle import Bundle, Variant
from edgekit.errors import GateFailed
from edgekit.export.verify import AccuracyBounds


def gate(bundle: Bundle, ids: Iterable[str], bounds: AccuracyBounds) -> None:
    """Raise an error if a requested variant was rejected.

    Args:
        bundle: the export's.
        ids: of the variants that were asked for.
        bounds: that they were judged by.

    Raises:
        GateFailed: names the rejected variants, the reasons, and the options that may let them pass.
    """
    rejected = [v for v in bundle.manifest.variants if v.id in set(ids) and v.status == "rejected"]
    if rejected:
        reasons = "; ".join(f"{v.id}: {v.note}" for v in rejected)
        raise GateFailed(
            f"{len(rejected)} of the variants failed verification: {reasons}",
            f"the bundle is complete and marks them as rejected; {_remedies(rejected, bounds)}",
        )


def _remedies(rejected: list[Variant], bounds: AccuracyBounds) -> str:
    """What may let rejected variants pass, by the gates that they failed."""
    loses = [v for v in rejected if bounds.loses(v.drop)]
    differs = [v for v in rejected if bounds.differs(v.agreement)]
    large = [v for v in rejected if v.board is not None and v.board.exceeds]
    broken = [v.id for v in rejected if v not in loses and v not in differs and v not in large]
    options = ["more --calibration-images"] if any(v.precision == "int8" for v in (*loses, *differs)) else []
    options += ["a larger --max-drop"] if loses else []
    options += ["a smaller --min-agreement"] if differs else []
    options += ["a smaller student or --image-size, or a board with more memory"] if large else []
    said = [f"{' or '.join(options)} may let {'it' if len(rejected) == 1 else 'them'} pass"] if options else []
    if broken:
        said.append(
            f"no option makes up for what is wrong with {', '.join(broken)}: leave it out with --precision or --target"
        )
    return "; ".join(said)
