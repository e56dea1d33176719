"""Images to label, as one HTML page that needs nothing but a browser: it shows them one by one and saves labels.csv."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgekit import __version__
from edgekit.errors import RuntimeMissing
from edgekit.files import digest_of, write_text
from edgekit.report import format as show
from edgekit.report.page import resource
from edgekit.result import now

PICTURE = 320  # pixels of a picture's longer side
_SMALL = 96  # up to this side, a picture is shown with the edges of its pixels
_QUALITY = 85


@dataclass(frozen=True)
class ToLabel:
    """What the page asks about.

    Args:
        pool: where the images are, as the recipe names it.
        files: n names, relative to it.
        images: n pictures of any size.
        train: how many of them training may see.
        test: how many of them measure the models.
        labeled: file and class of images that have a label already; they are saved with the new ones.
    """

    pool: str
    files: Sequence[str]
    images: Sequence[Image.Image]
    train: int
    test: int
    labeled: Mapping[str, str]


def require_jinja2() -> None:
    """Say now what would fail after the features were computed.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise RuntimeMissing("jinja2 is not installed", "install edgekit's wheel with the extra [report]")


def write_label_page(content: ToLabel, path: Path) -> None:
    """Write the page, atomically.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    script = f"{resource('script.js').strip()}\n{resource('label.js').strip()}"
    page = environment.get_template("label.html").render(
        content=content,
        count=show.count(len(content.files)),
        data=_data(content),
        style=resource("style.css") + resource("label.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made=now()[:10],
        version=__version__,
    )
    write_text(path, f"{page.strip()}\n".encode("utf-8", "replace").decode("utf-8"))


def _data(content: ToLabel) -> str:
    """What the script shows, as JSON that may stand inside HTML."""
    data = {
        "key": digest_of([content.pool, list(content.files)])[:16],
        "images": [
            {"file": name, "picture": _picture(image), "small": max(image.size) <= _SMALL}
            for name, image in zip(content.files, content.images, strict=True)
        ],
        "classes": sorted(set(content.labeled.values())),
        "labeled": dict(content.labeled),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _picture(image: Image.Image) -> str:
    """A data URL: PNG of small pictures, JPEG of larger ones."""
    small = max(image.size) <= _SMALL
    shown = image.convert("RGB")
    shown.thumbnail((PICTURE, PICTURE))
    stream = io.BytesIO()
    shown.save(stream, *(("PNG",) if small else ("JPEG",)), quality=_QUALITY)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"
