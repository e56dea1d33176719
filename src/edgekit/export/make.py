"""Make one variant: with its target's maker, then with the requested batch size."""

from __future__ import annotations

from edgekit.bundle import BundleFile, Variant
from edgekit.errors import ExportError
from edgekit.export.catalog import split
from edgekit.export.inputs import Sources
from edgekit.export.verify import verify
from edgekit.targets import Target, built_in, resolve


def make(id_: str, sources: Sources) -> Variant:
    """Make a variant in `sources.folder` and verify it.

    Raises:
        ExportError: the variant cannot be made, or its graph does not work with the batch size.
        RuntimeMissing: its target's converter is not installed.
    """
    target, precision = split(id_)
    try:
        maker = resolve(target.maker)
    except ImportError as error:
        if target.name in built_in():  # a package of an extra, which the command names
            raise
        hint = "update the package that adds this target"
        raise ExportError(f"{target.name}: its maker {target.maker} cannot be loaded: {error}", hint) from error
    variant: Variant = maker(precision, sources)
    return _with_batch(target, variant, sources)


def _with_batch(target: Target, variant: Variant, sources: Sources) -> Variant:
    """Fix the batch size of a variant's files and verify them again; unchanged if the batch size stays free or the maker sets it."""
    if sources.batch is None or not target.set_batch:
        return variant
    resolve(target.set_batch)(sources.folder / variant.files[0].path, sources.batch)
    variant = variant.model_copy(update={"files": [BundleFile.of(sources.folder, file.path) for file in variant.files]})
    if variant.status == "rejected":
        return variant
    return verify(variant, sources.folder, sources.reference, sources.options.bounds)
