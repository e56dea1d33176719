"""Pictures of images, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from edgekit.data.source import ImageSource
from edgekit.errors import DataError
from edgekit.progress import progress
from edgekit.train.analysis.embed import Embedding

SIDE = 64


def thumbnails(embedding: Embedding) -> list[Image.Image]:
    """A picture of at most 64 pixels of each image on the map, in its order.

    Where the model sees fewer pixels than that, the files are read again: what the model sees would be mush to a person.
    """
    found = []
    again = embedding.images.shape[1] < SIDE
    with progress("thumbnails", len(embedding.drawn), unit="images") as advance:
        for i in embedding.drawn.tolist():
            picture = Image.fromarray(embedding.images[i])
            if again:
                with suppress(DataError):  # deleted since it was embedded: as the model saw it, then
                    picture = embedding.source.read(embedding.rows[i])
            picture.thumbnail((SIDE, SIDE))
            found.append(picture)
            advance(1)
    return found


def pictures(source: ImageSource, rows: Sequence[int]) -> list[Image.Image]:
    """The images at `rows` as 8-bit RGB, in their own size.

    Raises:
        DataError: one cannot be read any more.
    """
    found = []
    with progress("pictures", len(rows), unit="images") as advance:
        for i in rows:
            found.append(source.rgb(i))
            advance(1)
    return found
