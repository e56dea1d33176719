"""The ids of the variants of an export. Imports no converter, so the command line can use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit import targets
from edgekit.bundle import Precision, Variant
from edgekit.errors import ExportError


def split(id_: str) -> tuple[targets.Target, Precision]:
    """Split a variant's id into target and precision: `trt-rtx-fp16` is fp16 for trt-rtx.

    Raises:
        ExportError: the target or the precision is unknown.
    """
    name, _, precision = id_.rpartition("-")
    target = targets.find(name)
    for known in target.precisions:
        if known == precision:
            return target, known
    raise ExportError(f"{name} has no precision {precision}", f"it has {', '.join(target.precisions)}")


def plan(names: Iterable[str], precisions: Sequence[str] = ()) -> list[str]:
    """The ids of the requested variants, in a fixed order.

    Raises:
        ExportError: a target or precision is unknown, or a target has none of the precisions.
    """
    ids, available = [], set()
    for target in [targets.find(name) for name in dict.fromkeys(names)]:
        chosen = [p for p in target.precisions if p in precisions] if precisions else target.defaults
        ids += [f"{target.name}-{precision}" for precision in chosen]
        available |= set(target.precisions)
    if lacking := [p for p in precisions if p not in available]:
        raise ExportError(
            f"no requested target has the precision {', '.join(lacking)}",
            "; ".join(f"{target.name} has {', '.join(target.precisions)}" for target in targets.every().values()),
        )
    return ids


def check_batch(names: Iterable[str], batch: int | None) -> None:
    """Check a batch size for targets; None is any.

    Raises:
        ExportError: a target's files cannot have it.
    """
    for target in [targets.find(name) for name in names]:
        if batch is not None and target.only_batch not in {0, batch}:
            raise ExportError(
                f"--batch {batch}: {target.runtime.title} runs batches of {target.only_batch} alone",
                f"leave --batch out, or export {target.name} by itself",
            )


def in_order(variants: Iterable[Variant]) -> list[Variant]:
    """Sort variants as in the table of targets; unknown ids come last."""
    ids = [f"{target.name}-{precision}" for target in targets.every().values() for precision in target.precisions]
    order = {id_: place for place, id_ in enumerate(ids)}
    return sorted(variants, key=lambda v: (order.get(v.id, len(order)), v.id))
