"""The list of targets and precisions, and which of them this machine can make and run."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit import targets
from edgekit.bundle import Precision
from edgekit.errors import EdgekitError
from edgekit.runtimes import installed, why_not


@dataclass(frozen=True)
class Possibility:
    """One target in one precision.

    Attributes:
        target, precision: as on the command line.
        default: whether it is made without --precision.
        runtime: the runtime that runs it.
        made: the files that are made.
        not_built: why it cannot be made on this machine; empty if it can.
        not_run: why it cannot be run, and so not verified, on this machine; empty if it can.
    """

    target: str
    precision: Precision
    default: bool
    runtime: str
    made: str
    not_built: str
    not_run: str


def possibilities() -> list[Possibility]:
    """Every target in every precision that it has."""
    found = []
    for target in targets.every().values():
        not_built, missing = why_not_made(target), why_not(target.runtime.name)
        found += [
            Possibility(
                target.name,
                precision,
                precision in target.defaults,
                target.runtime.name,
                target.makes,
                not_built,
                _reason(missing),
            )
            for precision in target.precisions
        ]
    return found


def why_not_made(target: targets.Target) -> str:
    """Why files for a target cannot be made on this machine; empty if they can."""
    if not target.needs_runtime or installed()[target.runtime.name] is not None:
        return ""
    where = f" (only for {', '.join(target.runtime.machines)})" if target.runtime.machines else ""
    return f"{target.runtime.name} is not installed: {target.runtime.install}{where}"


def _reason(missing: EdgekitError | None) -> str:
    return "" if missing is None else f"{missing.message}: {missing.hint}"
