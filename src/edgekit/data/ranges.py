"""The range of images of more than 8 bits: from the recipe, from a run, or measured on the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from edgekit.data.cache import load_json, save_json
from edgekit.data.source import ImageSource, RangeNeeded
from edgekit.data.workers import in_order
from edgekit.errors import DataError
from edgekit.files import digest_of
from edgekit.foreign import Unreadable, read_json
from edgekit.image_files import bounded_decoding
from edgekit.pixel_range import Extent, PixelRange, is_deep
from edgekit.recipe import DataConfig
from edgekit.run import Run

Stated = PixelRange | Literal["auto"] | None
T = TypeVar("T")

_SCHEMA = 1


def of_run(run: Run) -> PixelRange | None:
    """Return the range that the images of a run were read with, so that further images are read with it.

    None: no image had more than 8 bits, or the run is older than ranges, and its images were mapped by their number type.
    """
    stated = _recorded(run, run.recipe.data)
    return None if stated == "auto" else stated


def stated(data: DataConfig, run: Run | None) -> Stated:
    """Return the range that the recipe states; a run that is older than ranges keeps the rule that it was trained with."""
    if run is not None and data.pixel_range == "auto" and _recorded(run, data) is None and _is_older(run):
        return None
    return data.pixel_range


def with_range(
    pixel_range: Stated, groups: Sequence[Sequence[ImageSource]], work: Callable[[Stated], T]
) -> tuple[T, PixelRange | None]:
    """Run a function that reads images; if it needs a range that is unknown, measure the range and run it again.

    Args:
        pixel_range: the known range, or auto.
        groups: sources to measure the range on: the first group that holds deep images decides.
        work: takes a range, and reads images by `ImageSource.rgb`.

    Returns:
        The result of `work`, and the range that it used; None if no image needed one.
    """
    key = _key(groups) if pixel_range == "auto" else None
    if pixel_range == "auto":
        pixel_range = _known(key) or "auto"
    try:
        return work(pixel_range), None if pixel_range == "auto" else pixel_range
    except RangeNeeded:
        measured: PixelRange = "dtype"
        for group in groups:
            if (of_group := find_range(group)) is not None:
                measured = of_group
                break
        if key is not None:
            save_json("ranges", key, {"schema": _SCHEMA, "range": measured})
        return work(measured), measured


def find_range(sources: Sequence[ImageSource]) -> PixelRange | None:
    """Measure the range of all deep images of the sources (see `Extent.pixel_range`); None without such images."""
    extent = Extent()
    for source in sources:
        for part in in_order(len(source.names), partial(_extent, source), "range"):
            extent.merge(part)
    return extent.pixel_range()


def _extent(source: ImageSource, start: int, stop: int) -> Extent:
    extent = Extent()
    for i in range(start, stop):
        try:
            with bounded_decoding():
                image = source.read(i)
                if is_deep(image):
                    extent.add(image)
        except DataError:  # counted as unreadable when it is decoded
            continue
    return extent


def _key(groups: Sequence[Sequence[ImageSource]]) -> str | None:
    stamps = [source.stamp for group in groups for source in group]
    return None if None in stamps else digest_of([_SCHEMA, stamps])[:32]


def _known(key: str | None) -> PixelRange | None:
    """Return a range that was measured earlier, from the cache."""
    content = load_json("ranges", key) if key is not None else None
    try:
        return _parsed(content["range"]) if content is not None and content["schema"] == _SCHEMA else None
    except (KeyError, TypeError, ValueError):
        return None


def _recorded(run: Run, data: DataConfig) -> Stated:
    """Return the range of the recipe; if it is auto, the one that the data stage of the run recorded, or None."""
    if data.pixel_range != "auto":
        return data.pixel_range
    try:
        return _parsed(_summary(run).get("pixel_range"))
    except (Unreadable, ValueError, TypeError, AttributeError):
        return "auto"


def _is_older(run: Run) -> bool:
    try:
        return "pixel_range" not in _summary(run)
    except (Unreadable, TypeError):
        return False


def _summary(run: Run) -> Any:
    """Read what the data stage recorded about the images."""
    return read_json(run.stage_path("data") / "splits.json")


def _parsed(content: Any) -> PixelRange | None:
    if content is None or content == "dtype":
        return None if content is None else "dtype"
    low, high = content
    return float(low), float(high)
