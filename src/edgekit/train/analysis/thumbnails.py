"""Thumbnails of images."""

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
    """Return a thumbnail of at most 64 pixels of each image on the map, in order.

    If the model sees smaller images, the files are read again, because those images are too small for people.
    """
    images = []
    again = max(embedding.images.shape[1:3]) < SIDE
    with progress("thumbnails", len(embedding.drawn), unit="images") as advance:
        for i in embedding.drawn.tolist():
            picture = Image.fromarray(embedding.images[i])
            if again:
                with suppress(DataError):  # deleted since it was embedded: show what the model saw
                    picture = embedding.source.read(embedding.rows[i])
            picture.thumbnail((SIDE, SIDE))
            images.append(picture)
            advance(1)
    return images


def pictures(source: ImageSource, rows: Sequence[int]) -> list[Image.Image]:
    """Return the images at `rows` as 8-bit RGB, in their own size.

    Raises:
        DataError: one cannot be read any more.
    """
    images = []
    with progress("pictures", len(rows), unit="images") as advance:
        for i in rows:
            images.append(source.rgb(i))
            advance(1)
    return images
