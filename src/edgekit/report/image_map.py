"""Write a map of images as one self-contained HTML page: positions, thumbnails, neighbors and outliers."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgekit.files import write_text
from edgekit.report import format as show
from edgekit.report.page import filled, json_in_html, require_jinja2
from edgekit.result import now

THUMBNAIL = 64  # pixels of a thumbnail's side
_QUALITY = 80
_OUTLIERS = 12


@dataclass(frozen=True)
class Coloring:
    """A choice of colors for the images: a name for each, or None.

    Args:
        key: for the page's address; only letters.
        title: what the names are.
        names: m names or None, one per image.
    """

    key: str
    title: str
    names: Sequence[str | None]


@dataclass(frozen=True)
class ImageMap:
    """The content of the page for m images.

    Args:
        title: the page's title.
        lead: one sentence below the title.
        files: m names.
        positions: (m, 2).
        anomaly: (m) scores, high for outliers.
        definition: definition of the score.
        neighbors: m lists of the nearest images as (index in `files`, or a name if it is not on the map; cosine).
        colorings: the choices besides the anomaly score; the first one is shown.
        probability: (m) probability of the predicted class, if there is one.
        thumbnails: m pictures.
        facts: the sources and settings, as name and value.
    """

    title: str
    lead: str
    files: Sequence[str]
    positions: NDArray[np.float32]
    anomaly: NDArray[np.float32]
    definition: str
    neighbors: Sequence[Sequence[tuple[int | str, float]]]
    colorings: Sequence[Coloring]
    probability: NDArray[np.float32] | None
    thumbnails: Sequence[Image.Image]
    facts: Sequence[tuple[str, str]]


def write_map(content: ImageMap, path: Path) -> None:
    """Write the page, atomically.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    sprite, columns = _sprite(content.thumbnails)
    page = filled(
        "map.html",
        "map",
        content=content,
        count=show.count(len(content.files)),
        outliers=_outliers(content),
        data=_data(content, columns),
        sprite=sprite,
        made=now()[:10],
    )
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def _sprite(thumbnails: Sequence[Image.Image]) -> tuple[str, int]:
    """Return all thumbnails in one JPEG as a data URL, and the number per row."""
    columns = max(1, math.ceil(math.sqrt(len(thumbnails))))
    rows = max(1, math.ceil(len(thumbnails) / columns))
    sheet = Image.new("RGB", (columns * THUMBNAIL, rows * THUMBNAIL), "white")
    for i, picture in enumerate(thumbnails):
        sheet.paste(_thumbnail(picture), (i % columns * THUMBNAIL, i // columns * THUMBNAIL))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}", columns


def _thumbnail(picture: Image.Image) -> Image.Image:
    """Fit the whole picture into a square; small ones keep sharp pixels."""
    small = max(picture.size) * 2 <= THUMBNAIL
    method = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
    return ImageOps.pad(picture.convert("RGB"), (THUMBNAIL, THUMBNAIL), method, color=(128, 128, 128))


def _outliers(content: ImageMap) -> list[tuple[int, str, str]]:
    """Return index, name and score of the images with the highest scores."""
    order = np.argsort(-content.anomaly, kind="stable")[:_OUTLIERS]
    return [(int(i), content.files[i], f"{content.anomaly[i]:.3f}") for i in order]


def _data(content: ImageMap, columns: int) -> str:
    """Return the script's data as JSON that is safe inside HTML. Positions are 0 to 1, with the map's aspect ratio."""
    low, high = content.positions.min(0), content.positions.max(0)
    spread = float((high - low).max()) or 1.0
    positions = (content.positions - (low + high) / 2) / spread + 0.5
    data: dict[str, Any] = {
        "files": list(content.files),
        "x": [round(float(v), 4) for v in positions[:, 0]],
        "y": [round(1 - float(v), 4) for v in positions[:, 1]],
        "anomaly": [round(float(v), 4) for v in content.anomaly],
        "neighbors": [[[image, round(float(c), 3)] for image, c in row] for row in content.neighbors],
        "probability": None if content.probability is None else [round(float(p), 4) for p in content.probability],
        "colorings": [_coded(coloring) for coloring in content.colorings],
        "columns": columns,
        "side": THUMBNAIL,
    }
    return json_in_html(data)


def _coded(coloring: Coloring) -> dict[str, Any]:
    """Return each name once, and an index per image (-1 for none); more than 12 names are sorted by frequency, then by name."""
    counts: dict[str, int] = {}
    for name in coloring.names:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    names = sorted(counts, key=lambda name: (-counts[name], name)) if len(counts) > 12 else sorted(counts, key=_natural)
    index = {name: i for i, name in enumerate(names)}
    return {
        "key": coloring.key,
        "title": coloring.title,
        "names": names,
        "of": [-1 if name is None else index[name] for name in coloring.names],
    }


def _natural(name: str) -> tuple[str, int, str]:
    """Return a sort key for natural order: 2 before 10."""
    words, number = re.fullmatch(r"(.*?)(\d{0,18})", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return words, int(number or -1), name
