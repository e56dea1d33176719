"""Write a self-contained HTML page for labeling: it shows the images one by one and saves labels.csv."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgekit.files import digest_of, write_text
from edgekit.report import format as show
from edgekit.report.page import filled, json_in_html, require_jinja2
from edgekit.result import now

PICTURE = 320  # longer side of a picture, in pixels
_SMALL = 96  # pictures up to this side are shown with sharp pixels
_QUALITY = 85


@dataclass(frozen=True)
class LabelPage:
    """The content of the page.

    Args:
        pool: the folder of the images, as in the recipe.
        files: n names, relative to the folder.
        images: n pictures of any size.
        train: number of images for training.
        test: number of images for measuring the models.
        labeled: file and class of images that already have a label; they are saved with the new labels.
    """

    pool: str
    files: Sequence[str]
    images: Sequence[Image.Image]
    train: int
    test: int
    labeled: Mapping[str, str]


def write_label_page(content: LabelPage, path: Path) -> None:
    """Write the page, atomically.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    page = filled(
        "label.html",
        "label",
        content=content,
        count=show.count(len(content.files)),
        data=_data(content),
        made=now()[:10],
    )
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def _data(content: LabelPage) -> str:
    """Return the script's data as JSON that is safe inside HTML."""
    data = {
        "key": digest_of([content.pool, list(content.files)])[:16],
        "images": [
            {"file": name, "picture": _picture(image), "small": max(image.size) <= _SMALL}
            for name, image in zip(content.files, content.images, strict=True)
        ],
        "classes": sorted(set(content.labeled.values())),
        "labeled": dict(content.labeled),
    }
    return json_in_html(data)


def _picture(image: Image.Image) -> str:
    """Return a data URL: PNG for small pictures, JPEG for larger ones."""
    small = max(image.size) <= _SMALL
    shown = image.convert("RGB")
    shown.thumbnail((PICTURE, PICTURE))
    stream = io.BytesIO()
    shown.save(stream, *(("PNG",) if small else ("JPEG",)), quality=_QUALITY)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"
