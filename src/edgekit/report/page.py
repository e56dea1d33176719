"""A run's facts as one HTML page that needs nothing but a browser: no network, no file beside it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.errors import RuntimeMissing
from edgekit.files import write_text
from edgekit.foreign import Unreadable, read_bytes, understood
from edgekit.report import format as show
from edgekit.report.facts import ReportFacts, collect
from edgekit.report.headline import Headline, headline
from edgekit.result import now
from edgekit.text import visible

if TYPE_CHECKING:
    import jinja2

_MOST_BYTES = 64 << 20
_VIEWS_BYTES = 500_000  # the page stays small: a larger grid is encoded again


@dataclass(frozen=True)
class Written:
    """A report on disk."""

    path: Path
    facts: ReportFacts
    top: Headline


def write_report(run: Path | str, output: Path | None = None) -> Written:
    """Read a run and write its report.

    Args:
        run: the run folder.
        output: the HTML file; default `report.html` in the run folder.

    Raises:
        RunError, RecipeError: it is no run folder, or its recipe cannot be understood.
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    facts = collect(run)
    path = output or facts.path / "report.html"
    # A file name or a class may hold control characters or be no valid Unicode; the page, which may be looked at in a terminal, is not so.
    write_text(path, visible(render(facts), keep="\n\t"))
    return Written(path, facts, headline(facts))


def render(facts: ReportFacts) -> str:
    """The page as text."""
    from edgekit.report import differences, figures, latency, tables
    from edgekit.report.mistakes import confusion, pairs, worst
    from edgekit.report.over_time import over_time
    from edgekit.report.profiles import profiles
    from edgekit.report.provenance import provenance
    from edgekit.report.quantization import accuracy_searches
    from edgekit.report.story import lead, steps, tiles

    template, top = environment().get_template("template.html"), headline(facts)
    script = resource("script.js").strip()
    page = template.render(
        facts=facts,
        quality=tables.capital(facts.task.quality),
        top=top,
        show=show,
        lead=lead(facts, top),
        tiles=tiles(facts, top),
        steps=steps(facts),
        figures={
            "stages": figures.stages(facts, top),
            "tradeoff": figures.tradeoff(facts, top),
            "distribution": figures.distribution(facts),
            "devices": figures.by_device(facts),
            "confusion": confusion(facts),
        },
        worst=worst(facts),
        over_time=over_time(facts),
        profiles=profiles(facts),
        curves=figures.curves(facts),
        tables={
            "stages": tables.stages(facts),
            "classes": tables.classes(facts),
            "differences": differences.table(facts),
            "draws": differences.draws(facts),
            "pairs": pairs(facts),
            "variants": tables.variants(facts),
            "latency": latency.latencies(facts),
            "scenarios": latency.scenarios(facts),
            "steps": latency.steps(facts),
            "circumstances": latency.circumstances(facts),
        },
        accuracy_searches=accuracy_searches(facts),
        views=_embedded(facts.views) if facts.views else None,
        provenance=provenance(facts),
        style=resource("style.css"),
        script=script,
        script_hash=script_hash(script),
        made=now(),
        version=__version__,
    )
    return f"{page.strip()}\n"


def require_jinja2() -> None:
    """Say now what would fail after everything was computed.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise RuntimeMissing("jinja2 is not installed", "install edgekit's wheel with the extra [report]")


def script_hash(script: str) -> str:
    """By which a page's Content-Security-Policy knows its script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def json_in_html(content: Any) -> str:
    """Content as JSON that may stand inside HTML."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def environment() -> jinja2.Environment:
    """Where pages' templates are found; everything that they print is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def resource(name: str) -> str:
    """A file of this package, as text."""
    return resources.files("edgekit.report").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Picture:
    """An image in the page itself; `pixelated` where it is so small that smoothing would blur it away."""

    url: str
    width: int
    height: int
    pixelated: bool


def _embedded(path: Path) -> Picture | None:
    from PIL import Image

    try:
        content, kind = read_bytes(path, _MOST_BYTES), "png"
        with understood(path, "an image"), Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if len(content) > _VIEWS_BYTES:
                smaller = image.convert("RGB")
                smaller.thumbnail((1600, 1600))
                stream = io.BytesIO()
                smaller.save(stream, "JPEG", quality=82)
                content, kind = stream.getvalue(), "jpeg"
    except Unreadable:
        return None
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height, width < 900)
