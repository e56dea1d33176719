"""What a detector says about the test images: the ROC, the scores, where the threshold stands, each kind of defect, and the most anomalous images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from edgekit.intervals import wilson
from edgekit.report import format as show
from edgekit.report.charts import WIDTH, Size, both
from edgekit.report.facts import ReportFacts
from edgekit.report.figures import LegendEntry, ReportFigure
from edgekit.report.mistakes import SEEN, picture_url
from edgekit.report.svg import PlotFrame, Scale, drawing, element, padded, path
from edgekit.report.tables import Column, Table, TableCell, capital
from edgekit.tasks.anomaly_answers import AnomalyAnswers
from edgekit.tasks.anomaly_metrics import image_auroc, roc
from edgekit.tasks.heat_maps import overlay
from edgekit.text import counted

_BINS = 24
_KINDS = (("normal", "right"), ("anomalous", "wrong"))  # names, and their classes in style.css


@dataclass(frozen=True)
class ShownImage:
    """A test image with its heat map."""

    url: str
    width: int
    height: int
    file: str
    defect: str
    score: str
    above: bool


@dataclass(frozen=True)
class AnomalySection:
    """The section of the report.

    Attributes:
        words: where the threshold stands, and what it does to the test images.
        roc, scores: figures; the first one is None if the test images are all of one kind.
        defects: a table of the kinds of defects.
        shown: the most anomalous test images, the highest score first.
    """

    words: str
    roc: ReportFigure | None
    scores: ReportFigure
    defects: Table
    shown: list[ShownImage]


def anomalies(facts: ReportFacts) -> AnomalySection | None:
    """Return the section; None for other tasks, and without answers."""
    answers = facts.anomalies
    if answers is None or not len(answers):
        return None
    return AnomalySection(_words(answers), _roc(answers), _scores(answers), _defects(answers), _shown(answers))


def _words(answers: AnomalyAnswers) -> str:
    limit, labels = answers.threshold, answers.labels.astype(bool)
    if limit is None:
        return "There is no threshold: no normal images were held out (data.probe), so the scores are not decided."
    above = answers.scores > limit
    good, bad = int((~labels).sum()), int(labels.sum())
    held_out = _images(len(answers.held_out))
    text = f"An image with a score above {show.significant(limit)} is anomalous. The threshold was set on {held_out} held out of the normal ones."
    parts = []
    if good:
        parts.append(f"{_of(int(above[~labels].sum()), good)} normal ones are above it (false alarms)")
    if bad:
        parts.append(f"{_of(int(above[labels].sum()), bad)} anomalous ones are found")
    return f"{text} Of the test images, {', and '.join(parts)}."


def _of(count: int, total: int) -> str:
    """Return `2 of 40 (5.0 %, 95 % interval 1.4 to 16.5)`."""
    low, high = wilson(count / total, total)
    interval = f"95\u00a0% interval {show.hundredths(low)} to {show.hundredths(high)}"
    return f"{show.count(count)} of {show.count(total)} ({show.percent(count / total)}, {interval})"


def _images(count: int) -> str:
    return counted(count, "image")


def _share(value: float) -> str:
    return show.percent(value, 0)


def _roc(answers: AnomalyAnswers) -> ReportFigure | None:
    labels = answers.labels.astype(bool)
    if labels.all() or not labels.any():
        return None
    area = image_auroc(answers.scores, labels)
    alt_text = f"ROC curve of {len(answers)} test images, area {show.percent(area)}"
    svg = both(lambda size: _draw_roc(answers, labels, size, alt_text))
    keys = [LegendEntry("detector", "s1", f"AUROC {show.percent(area)}")]
    if answers.threshold is not None:
        keys.append(LegendEntry("threshold", "wrong"))
    return ReportFigure(svg, keys, "on the dashed line, scores tell nothing")


def _draw_roc(answers: AnomalyAnswers, labels: NDArray[np.bool_], size: Size, alt_text: str) -> Markup:
    side = 400 if size == "wide" else 300
    width, height = WIDTH[size], side + 80
    left = 56.0
    frame = PlotFrame(Scale(0.0, 1.0, left, left + side), Scale(0.0, 1.0, side + 34.0, 34.0))
    false, true, _ = roc(answers.scores, labels)
    corners = [(frame.x(float(x)), frame.y(float(y))) for x, y in zip(false, true, strict=True)]
    parts = [
        frame.axes("normal images above (false alarms)", "anomalous images above (found)", _share, _share),
        element("line", class_="reference", x1=frame.x(0), y1=frame.y(0), x2=frame.x(1), y2=frame.y(1)),
        element("g", path(corners, "line"), class_="series s1"),
    ]
    if answers.threshold is not None:
        above = answers.scores > answers.threshold
        x, y = float(above[~labels].mean()), float(above[labels].mean())
        tip = element("title", f"threshold: {show.percent(x)} false alarms, {show.percent(y)} found")
        parts.append(
            element("g", tip, element("circle", class_="dot", cx=frame.x(x), cy=frame.y(y), r=7.0), class_="wrong")
        )
    return drawing(width, height, alt_text, *parts, class_=size)


def _scores(answers: AnomalyAnswers) -> ReportFigure:
    labels = answers.labels.astype(bool)
    groups = [(name, kind, answers.scores[labels == (name == "anomalous")]) for name, kind in _KINDS]
    groups = [group for group in groups if len(group[2])]
    keys = [LegendEntry(name, kind, _images(len(values))) for name, kind, values in groups]
    spans = "; ".join(
        f"{name} {show.significant(float(v.min()))} to {show.significant(float(v.max()))}" for name, _, v in groups
    )
    alt_text = f"Scores of the test images: {spans}"
    note = (
        "test images"
        if answers.threshold is None
        else f"the dashed line is the threshold, {show.significant(answers.threshold)}"
    )
    return ReportFigure(both(lambda size: _draw_scores(answers, groups, size, alt_text)), keys, note)


def _draw_scores(
    answers: AnomalyAnswers, groups: list[tuple[str, str, NDArray[np.float32]]], size: Size, alt_text: str
) -> Markup:
    width, height = WIDTH[size], 330 if size == "wide" else 280
    limit = [answers.threshold] if answers.threshold is not None else []
    low, high = padded([*(float(v) for v in answers.scores), *limit], 0.03)
    edges = np.linspace(low, high, _BINS + 1)
    shares = [np.histogram(values, edges)[0] / len(values) for _, _, values in groups]
    top = max(float(share.max()) for share in shares)
    frame = PlotFrame(Scale(low, high, 56.0, width - 16.0), Scale(0.0, top * 1.08, height - 46.0, 34.0))
    parts = [frame.axes("score", "share of the images of a kind", show.plain, _share)]
    for (name, kind, _), share in zip(groups, shares, strict=True):
        outline = [(frame.x(low), frame.y(0.0))]
        for start, stop, value in zip(edges, edges[1:], share, strict=False):
            outline += [(frame.x(float(start)), frame.y(float(value))), (frame.x(float(stop)), frame.y(float(value)))]
        outline.append((frame.x(high), frame.y(0.0)))
        parts.append(
            element("g", element("title", name), path(outline, "band"), path(outline, "line"), class_=f"series {kind}")
        )
    if limit:
        x = frame.x(limit[0])
        tip = element("title", f"threshold {show.significant(limit[0])}")
        parts.append(element("g", tip, element("line", class_="reference", x1=x, x2=x, y1=34.0, y2=height - 46.0)))
    return drawing(width, height, alt_text, *parts, class_=size)


def _defects(answers: AnomalyAnswers) -> Table:
    """Return a table of the kinds of images: how many are above the threshold, and how their scores stand to those of normal images."""
    kinds = sorted(dict.fromkeys(answers.defects), key=lambda kind: (kind != "good", kind))
    defects, normal = np.array(answers.defects), answers.labels == 0
    columns = [
        Column("Kind", number=False),
        Column("Test images"),
        Column("Above the threshold", title="of good images: false alarms; of the others: found"),
        Column("Median score"),
        Column("AUROC", title="of this kind against the good images"),
    ]
    rows = []
    for i, kind in enumerate(kinds):
        scores = answers.scores[defects == kind]
        above = float((scores > answers.threshold).mean()) if answers.threshold is not None else None
        area = None
        if kind != "good" and normal.any():
            area = image_auroc(
                np.r_[answers.scores[normal], scores], np.r_[np.zeros(normal.sum()), np.ones(len(scores))].astype(int)
            )
        median = float(np.median(scores))
        rows.append(
            [
                TableCell(kind, i),
                TableCell(show.count(len(scores)), len(scores)),
                TableCell(show.percent(above), above, bar=above),
                TableCell(show.significant(median), median),
                TableCell(show.percent(area), area),
            ]
        )
    return Table("By kind of defect", columns, rows, tall=len(rows) > 24)


def _shown(answers: AnomalyAnswers) -> list[ShownImage]:
    found = []
    for row, picture, heat in zip(answers.shown, answers.pictures, answers.maps, strict=True):
        score = float(answers.scores[row])
        drawn = overlay(picture, heat, SEEN, answers.map_threshold)
        found.append(
            ShownImage(
                picture_url(drawn), drawn.shape[1], drawn.shape[0], answers.names[row], capital(answers.defects[row]), show.significant(score),
                answers.threshold is not None and score > answers.threshold,
            )
        )  # fmt: skip
    return found
