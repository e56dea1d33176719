"""Write a run's facts as one self-contained HTML page: no network, no other files."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.errors import RuntimeMissing
from edgekit.files import check_writable_file, write_text
from edgekit.foreign import Unreadable, read_bytes, understood
from edgekit.report import format as show
from edgekit.report.facts import ReportFacts, collect
from edgekit.report.headline import Headline, headline
from edgekit.result import now
from edgekit.terms import used
from edgekit.text import visible

if TYPE_CHECKING:
    import jinja2

_MOST_BYTES = 64 << 20
_VIEWS_BYTES = 500_000  # a larger grid is encoded again to keep the page small


@dataclass(frozen=True)
class WrittenReport:
    """A report on disk."""

    path: Path
    facts: ReportFacts
    top: Headline


def write_report(run: Path | str, output: Path | None = None) -> WrittenReport:
    """Read a run and write its report.

    Args:
        run: the run folder.
        output: the HTML file; default `report.html` in the run folder.

    Raises:
        RunError, RecipeError: it is not a run folder, or its recipe is invalid.
        RuntimeMissing: the extra [report] is not installed.
        EdgekitError: the file cannot be written.
    """
    require_jinja2()
    if output is not None:
        check_writable_file(output)
    facts = collect(run)
    path = output or facts.path / "report.html"
    # A file or class name may have control characters or invalid Unicode; the page, which may be shown in a terminal, must not.
    write_text(path, visible(render(facts), keep="\n\t"))
    return WrittenReport(path, facts, headline(facts))


def render(facts: ReportFacts) -> str:
    """Return the page as text."""
    from edgekit.report import differences, figures, latency, tables
    from edgekit.report.anomaly import anomalies
    from edgekit.report.confidence import confidences, reliability
    from edgekit.report.mistakes import confusion, pairs, worst
    from edgekit.report.over_time import over_time
    from edgekit.report.profiles import profiles
    from edgekit.report.provenance import provenance
    from edgekit.report.quantization import accuracy_searches
    from edgekit.report.story import lead, steps, tiles

    top = headline(facts)
    return filled(
        "template.html",
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
            "reliability": reliability(facts),
        },
        worst=worst(facts),
        anomalies=anomalies(facts),
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
            "confidences": confidences(facts),
            "latency": latency.latencies(facts),
            "scenarios": latency.scenarios(facts),
            "steps": latency.steps(facts),
            "conditions": latency.conditions(facts),
        },
        accuracy_searches=accuracy_searches(facts),
        views=_embedded(facts.views) if facts.views else None,
        provenance=provenance(facts),
        made=now(),
    )


def filled(template: str, own: str = "", **content: Any) -> str:
    """Return a page: a template with the report's style and script.

    Args:
        template: its file.
        own: name of further files of the page, `NAME.css` and `NAME.js`.
        content: what the template asks for besides.
    """
    style, script = resource("style.css"), resource("script.js").strip()
    if own:
        style, script = style + resource(f"{own}.css"), f"{script}\n{resource(f'{own}.js').strip()}"
    page = (
        environment()
        .get_template(template)
        .render(style=style, script=script, script_hash=script_hash(script), version=__version__, **content)
    )
    return f"{page.strip()}\n"


def require_jinja2() -> None:
    """Check for jinja2 before anything is computed.

    Raises:
        RuntimeMissing: the extra [report] is not installed.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise RuntimeMissing("jinja2 is not installed", "install edgekit's wheel with the extra [report]")


def script_hash(script: str) -> str:
    """Return the hash by which a page's Content-Security-Policy identifies its script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def json_in_html(content: Any) -> str:
    """Return content as JSON that is safe inside HTML."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def environment() -> jinja2.Environment:
    """Return the template environment; everything that templates print is escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["commands"] = _commands
    made.filters["terms"] = used
    return made


def _commands(text: str) -> str:
    """Return a sentence with its commands, which messages put between backticks, as code; all else is escaped."""
    from markupsafe import Markup, escape

    # As a plain string: a Markup, which joins what is found, would escape the new tags.
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def resource(name: str) -> str:
    """Return a file of this package as text."""
    return resources.files("edgekit.report").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Picture:
    """An image inside the page; `pixelated` if it is so small that smoothing would blur it."""

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
                smaller.thumbnail((900, 900))
                stream = io.BytesIO()
                smaller.save(stream, "JPEG", quality=75)
                content, kind = stream.getvalue(), "jpeg"
    except Unreadable:
        return None
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height, width < 900)
