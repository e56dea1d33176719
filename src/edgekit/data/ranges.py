"""The range of images of more than 8 bits: as a recipe states it, as a run found it, or found from the images."""

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
    """The range that a run's images were read with, for more images to be read with it.

    None: no image had more than 8 bits, or the run is older than ranges are, and its images were mapped by their number type.
    """
    stated = _recorded(run, run.recipe.data)
    return None if stated == "auto" else stated


def stated(data: DataConfig, run: Run | None) -> Stated:
    """The range to begin with: the recipe's. A run that is older than ranges are keeps the rule that it was trained with."""
    if run is not None and data.pixel_range == "auto" and _recorded(run, data) is None and _is_older(run):
        return None
    return data.pixel_range


def with_range(
    pixel_range: Stated, found_from: Sequence[Sequence[ImageSource]], work: Callable[[Stated], T]
) -> tuple[T, PixelRange | None]:
    """Do something that reads images; where the range must be found first, find it and do it again.

    Args:
        pixel_range: what is known of it.
        found_from: sources that the range is found from: the first group of them that holds deep images decides.
        work: given a range, reads images by `ImageSource.rgb`.

    Returns:
        What `work` gave, and the range that it gave it with; None where no image needed one.
    """
    key = _key(found_from) if pixel_range == "auto" else None
    if pixel_range == "auto":
        pixel_range = _known(key) or "auto"
    try:
        return work(pixel_range), None if pixel_range == "auto" else pixel_range
    except RangeNeeded:
        found: PixelRange = "dtype"
        for group in found_from:
            if (of_group := find_range(group)) is not None:
                found = of_group
                break
        if key is not None:
            save_json("ranges", key, {"schema": _SCHEMA, "range": found})
        return work(found), found


def find_range(sources: Sequence[ImageSource]) -> PixelRange | None:
    """The range of all deep images of the sources (see `Extent.pixel_range`); None where there is none."""
    whole = Extent()
    for source in sources:
        for part in in_order(len(source.names), partial(_extent, source), "range"):
            whole.merge(part)
    return whole.pixel_range()


def _extent(source: ImageSource, start: int, stop: int) -> Extent:
    extent = Extent()
    for i in range(start, stop):
        try:
            with bounded_decoding():
                image = source.read(i)
                if is_deep(image):
                    extent.add(image)
        except DataError:  # counted when it is decoded
            continue
    return extent


def _key(groups: Sequence[Sequence[ImageSource]]) -> str | None:
    stamps = [source.stamp for group in groups for source in group]
    return None if None in stamps else digest_of([_SCHEMA, stamps])[:32]


def _known(key: str | None) -> PixelRange | None:
    """A range that was found before."""
    content = load_json("ranges", key) if key is not None else None
    try:
        return _parsed(content["range"]) if content is not None and content["schema"] == _SCHEMA else None
    except (KeyError, TypeError, ValueError):
        return None


def _recorded(run: Run, data: DataConfig) -> Stated:
    """The recipe's range; where that is to be found, the one that the run's data stage found, or None."""
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
    """What the data stage wrote about the images."""
    return read_json(run.stage_path("data") / "splits.json")


def _parsed(content: Any) -> PixelRange | None:
    if content is None or content == "dtype":
        return None if content is None else "dtype"
    low, high = content
    return float(low), float(high)
