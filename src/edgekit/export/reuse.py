"""What an export keeps of the bundle that is there already, and of an interrupted export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit import __version__
from edgekit.bundle import Bundle, Variant
from edgekit.export.catalog import split
from edgekit.export.inputs import ExportOptions
from edgekit.export.staging import Staging
from edgekit.files import digest_of
from edgekit.machine import cpu_features, installed_packages
from edgekit.quantize.budget import cut_short
from edgekit.quantize.selection import CalibrationPool
from edgekit.runtimes import installed
from edgekit.targets import added_targets, built_in
from edgekit.terminal import echo


def variant_key(id_: str, same: dict[str, Any], candidates: CalibrationPool, options: ExportOptions) -> str:
    """A digest of everything that a variant depends on: if it has not changed, the variant need not be made again."""
    target, precision = split(id_)
    chosen = options.of(target, precision)
    inputs = {**same, "id": id_, "edgekit": __version__, "packages": installed_packages(), "options": chosen}
    if target.name not in built_in():  # another version of the package may make another file
        inputs["target"] = [added_targets()[target.name].package, installed()[target.runtime.name]]
    if precision == "int8":
        inputs |= {"calibration": candidates.key, "isa": cpu_features()}
    return digest_of(inputs)


def reusable(old: Bundle | None, inputs: str, keys: dict[str, str], minutes: float) -> dict[str, Variant]:
    """The variants of the existing bundle that are kept in the new one.

    A requested variant whose search was cut is made again if the limit is longer now.
    """
    if old is None:
        return {}
    provenance = old.manifest.provenance
    if provenance.get("inputs") != inputs:
        return {}
    return {
        v.id: v
        for v in old.manifest.variants
        if v.id not in keys or (recorded_key(old, v.id) == keys[v.id] and not cut_short(v.quantization, minutes))
    }


def recorded_key(old: Bundle | None, id_: str) -> str | None:
    """The key that a bundle recorded for a variant; None where it has none."""
    recorded = old.manifest.provenance.get("variants") if old is not None else None
    return recorded.get(id_) if isinstance(recorded, dict) else None


def same_thresholds(old: Bundle, set_by: dict[str, str | None]) -> bool:
    """Whether the thresholds of a bundle depend on the same as those that are asked for."""
    return all(old.manifest.provenance.get(key) == value for key, value in set_by.items())


def finished_before(
    wanted: Sequence[str], keys: dict[str, str], staging: Staging, minutes: float
) -> dict[str, Variant]:
    """The variants that an interrupted export had finished."""
    found = {id_: staging.finished(id_, keys[id_]) for id_ in wanted}
    finished = {
        id_: variant
        for id_, variant in found.items()
        if variant is not None and not cut_short(variant.quantization, minutes)
    }
    if finished:
        echo(f"resuming an interrupted export: {', '.join(finished)} already made", err=True)
    return finished
