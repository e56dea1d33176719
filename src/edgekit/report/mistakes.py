"""The student's mistakes: its confusion matrix, the most confused pairs of classes, and the most confident wrong images."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from edgekit.preprocess import Preprocessing
from edgekit.report import format as show
from edgekit.report.charts import WIDTH, Size, both
from edgekit.report.facts import ReportFacts
from edgekit.report.figures import LegendEntry, ReportFigure
from edgekit.report.svg import drawing, element, text_width
from edgekit.report.tables import Column, Table, TableCell
from edgekit.tasks.heat_maps import overlay
from edgekit.tasks.occlusion import drawn_span

MATRIX_CLASSES = (
    30  # with more classes, the cells would be too small, and a table shows the most confused pairs instead
)
# Of pictures of what a model sees, whatever was cut off.
SEEN = Preprocessing(image_size=64, resize_to=64, fit="stretch")
_PAIRS = 40
_LARGE_BYTES = 16_000  # of a picture: with twenty of them, the page should stay below half a megabyte
_LONGEST = 16  # letters of a label in the matrix; the cell's tooltip has the whole name
_ON_DARK = 0.6  # from this share on, numbers have the light color


@dataclass(frozen=True)
class Mistake:
    """A misclassified image with its true and its predicted class, and perhaps the places that spoke for the wrong one."""

    url: str
    heat: str | None
    file: str
    truth: str
    predicted: str
    probability: str


def confusion(facts: ReportFacts) -> ReportFigure | None:
    """Draw the student's confusion matrix on the test set; None with too many classes, or without predictions."""
    cells = _cells(facts)
    if cells is None or facts.evaluation is None or len(cells) > MATRIX_CLASSES:
        return None
    names = facts.evaluation.classes
    svg = both(lambda size: _matrix(cells, names, size))
    return ReportFigure(
        svg,
        [LegendEntry("right", "right"), LegendEntry("wrong", "wrong")],
        "numbers are images; stronger color means a larger share of the row",
    )


def pairs(facts: ReportFacts) -> Table | None:
    """Return a table of the pairs of classes that the student confuses most; both directions are separate."""
    cells = _cells(facts)
    if cells is None or facts.evaluation is None:
        return None
    names, images = facts.evaluation.classes, cells.sum(axis=1)
    wrong = cells.copy()
    np.fill_diagonal(wrong, 0)
    order = [divmod(int(flat), len(wrong)) for flat in np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]]
    rows = []
    for truth, predicted in order:
        count = int(wrong[truth, predicted])
        if count:
            share = count / int(images[truth])
            rows.append(
                [
                    TableCell(names[truth], names[truth].lower()),
                    TableCell(names[predicted], names[predicted].lower()),
                    TableCell(show.count(count), count, note=f"of {show.count(int(images[truth]))}"),
                    TableCell(show.percent(share), share, bar=share),
                ]
            )
    columns = [
        Column("Class", number=False),
        Column("Predicted as", number=False),
        Column("Images"),
        Column("Share of the class"),
    ]
    return Table("Most confused classes", columns, rows, tall=len(rows) > 16) if rows else None


def worst(facts: ReportFacts) -> list[Mistake]:
    """Return the wrong images with the highest confidence, the highest first."""
    if facts.answers is None or facts.evaluation is None:
        return []
    pictures, maps = facts.answers.thumbnails, facts.answers.maps
    drawn: list[str | None] = [
        picture_url(overlay(picture, heat, SEEN, span=drawn_span(heat)))
        for picture, heat in zip(pictures, maps, strict=False)
    ]
    drawn += [None] * (len(pictures) - len(drawn))
    return [
        Mistake(picture_url(picture), heat, w.file, w.truth, w.predicted, show.percent(w.probability, 0))
        for picture, heat, w in zip(pictures, drawn, facts.evaluation.worst, strict=False)
    ]


def _cells(facts: ReportFacts) -> NDArray[np.int64] | None:
    if facts.answers is None or facts.evaluation is None or "student" not in facts.answers.predicted:
        return None
    return facts.answers.confusion("student", len(facts.evaluation.classes))


def picture_url(picture: NDArray[np.uint8]) -> str:
    """Return a picture, uint8 (h, w, 3), as a URL inside the page: of a PNG, or where that is large, of a JPEG."""
    image, stream, kind = Image.fromarray(picture), io.BytesIO(), "png"
    image.save(stream, "PNG", optimize=True)
    if stream.tell() > _LARGE_BYTES:
        stream, kind = io.BytesIO(), "jpeg"
        image.save(stream, "JPEG", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _matrix(cells: NDArray[np.int64], names: list[str], size: Size) -> Markup:
    width, count = WIDTH[size], len(names)
    labels = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
    longest = max(text_width(label) for label in labels)
    left = min(longest + 12, width / 4)
    cell = min((width - left) / count, 72.0 if size == "wide" else 48.0)
    height = min(cell, 40.0)
    steep = longest > cell - 4
    top = 32 + (longest if steep else 10)  # the vertical names end 8 above the cells, and below the words at the top
    numbers = cell >= 17
    look = "name small" if min(cell, height) >= 14 else "name tiny"
    parts = [
        element("text", "class ↓, predicted as →", class_="label", x=0, y=12),
    ]
    for i, label in enumerate(labels):
        x, y = left + (i + 0.5) * cell, top - 8
        turn = f"rotate(-90 {x + 4:.1f} {y:.1f})" if steep else None
        column = {
            "x": x + (4 if steep else 0),
            "y": y,
            "text_anchor": "start" if steep else "middle",
            "transform": turn,
        }
        fits = label
        while len(fits) > 1 and text_width(fits) > left - 8:
            fits = fits[:-1]
        parts.append(element("text", label, class_=look, **column))
        parts.append(element("text", fits, class_=look, x=left - 8, y=top + (i + 0.5) * height + 4, text_anchor="end"))
    totals = np.maximum(cells.sum(axis=1), 1)
    for i in range(count):
        for j in range(count):
            n = int(cells[i, j])
            share = n / int(totals[i])
            box = {
                "x": left + j * cell + 0.5,
                "y": top + i * height + 0.5,
                "width": cell - 1,
                "height": height - 1,
                "rx": 3,
            }
            kind = "heat none" if not n else "heat" if i == j else "heat error"
            tooltip = (
                f"{names[i]} predicted as {names[j]}: {n}"
                if i != j
                else f"{names[i]}: {n} of {int(cells[i].sum())} right"
            )
            drawn = [element("title", tooltip), element("rect", class_=kind, style=f"--share:{share:.3f}", **box)]
            if n and numbers:
                text = "heattext dark" if share >= _ON_DARK else "heattext"
                drawn.append(
                    element("text", str(n), class_=text, x=left + (j + 0.5) * cell, y=top + (i + 0.5) * height + 4.5, text_anchor="middle")
                )  # fmt: skip
            parts.append(element("g", *drawn))
    right = int(np.trace(cells))
    alt_text = f"Confusion matrix of {count} classes: {right} of {int(cells.sum())} images right"
    return drawing(width, top + count * height + 4, alt_text, *parts, class_=size)
