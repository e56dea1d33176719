"""Making one variant: by its target's maker, then the one batch size that was asked for."""

from __future__ import annotations

from edgekit.bundle import BundleFile, Variant
from edgekit.export.catalogue import split
from edgekit.export.inputs import Sources
from edgekit.export.verify import verify
from edgekit.targets import Target, resolve


def make(id_: str, sources: Sources) -> Variant:
    """Make a variant in `sources.folder`, verified.

    Raises:
        ExportError: it cannot be made, or its graph does not take the batch size.
        RuntimeMissing: its target's converter is not installed.
    """
    target, precision = split(id_)
    variant: Variant = resolve(target.maker)(precision, sources)
    return _with_batch(target, variant, sources)


def _with_batch(target: Target, variant: Variant, sources: Sources) -> Variant:
    """A variant whose files have their batch size, verified again as they are then; the same where it stays free or the maker sets it."""
    if sources.batch is None or not target.set_batch:
        return variant
    resolve(target.set_batch)(sources.folder / variant.files[0].path, sources.batch)
    variant = variant.model_copy(update={"files": [BundleFile.of(sources.folder, file.path) for file in variant.files]})
    if variant.status == "rejected":
        return variant
    return verify(variant, sources.folder, sources.reference, sources.options.bounds)
