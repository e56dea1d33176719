"""The reliability diagram of the trained model, and the table of every variant's temperature and rule for unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from edgekit.bundle import Manifest
from edgekit.confidence import ClassThresholds, Confidence, ReliabilityBin, ThresholdQuality
from edgekit.report import format as show
from edgekit.report.charts import WIDTH, Size, both
from edgekit.report.facts import ReportFacts
from edgekit.report.figures import LegendEntry, ReportFigure
from edgekit.report.svg import PlotFrame, Scale, drawing, element, path
from edgekit.report.tables import Column, Table, TableCell


def reliability(facts: ReportFacts) -> ReportFigure | None:
    """Draw accuracy over confidence, by bins, before and after the temperature, once where it is 1; None where the bundle has no confidence."""
    trained = facts.bundle.manifest.confidence if facts.bundle else None
    if not isinstance(trained, Confidence) or trained.quality is None or not trained.quality.bins:
        return None
    quality = trained.quality
    series = [("before", "s2", quality.bins_before), (f"after T = {trained.temperature:.2f}", "s1", quality.bins)]
    errors = [f"ECE {show.percent(error)}, NLL {nll:.3f}" for error, nll in zip(quality.ece, quality.nll, strict=True)]
    if trained.temperature == 1:  # both are the same
        series, errors = [("T = 1", "s1", quality.bins)], errors[:1]
    keys = [LegendEntry(name, kind, error) for (name, kind, _), error in zip(series, errors, strict=True)]
    alt_text = "Accuracy over confidence: " + "; ".join(
        f"{key.label} {error}" for key, error in zip(keys, errors, strict=True)
    )
    svg = both(lambda size: _reliability([(kind, bins) for _, kind, bins in series], size, alt_text))
    note = f"{show.count(quality.images)} {quality.are}; on the dashed line confidence is accuracy; a larger dot is more images"
    return ReportFigure(svg, keys, note)


def _reliability(series: Sequence[tuple[str, list[ReliabilityBin]]], size: Size, alt_text: str) -> Markup:
    width, height = WIDTH[size], 360 if size == "wide" else 300
    left, right, top, bottom = 56, width - 16, 34, height - 46
    low = min(0.9, *(found.confidence for _, bins in series for found in bins))
    frame = PlotFrame(Scale(max(0.0, low - 0.02), 1.0, left, right), Scale(0.0, 1.0, bottom, top))

    def share(value: float) -> str:
        return show.percent(value, 0)

    start = frame.x.low
    parts = [
        frame.axes("confidence of the answer", "accuracy", share, share),
        element("line", class_="reference", x1=left, y1=frame.y(start), x2=right, y2=frame.y(1.0)),
    ]
    for kind, bins in series:
        total = sum(found.images for found in bins)
        points = [(frame.x(min(1.0, found.confidence)), frame.y(found.accuracy)) for found in bins]
        dots = [
            element(
                "circle",
                element("title", f"{found.images} images: confidence {share(found.confidence)}, accuracy {share(found.accuracy)}"),
                class_="dot", cx=x, cy=y, r=3 + 9 * (found.images / total) ** 0.5,
            )
            for found, (x, y) in zip(bins, points, strict=True)
        ]  # fmt: skip
        parts.append(element("g", path(points, "line"), *dots, class_=f"series {kind}"))
    return drawing(width, height, alt_text, *parts, class_=size)


def confidences(facts: ReportFacts) -> Table | None:
    """Return a table of what each variant's temperature does, and of what it calls unknown; None where the bundle has no confidence."""
    if facts.bundle is None:
        return None
    manifest = facts.bundle.manifest
    trained = manifest.confidence
    if isinstance(trained, ClassThresholds):
        return _thresholds(manifest, trained)
    if trained is None:
        return None
    columns = [
        Column("Variant", number=False),
        Column("T", title="temperature: probabilities are softmax(logits / T)"),
        Column("ECE", title="expected calibration error after the temperature, 15 bins of equal width"),
        Column("NLL", title="negative log-likelihood in nats after the temperature"),
        Column("Threshold", title=f"an image whose {trained.rule} score is lower is unknown"),
        Column("Unknown", title="share of the test images, all of known classes, that it calls unknown"),
        Column("Top-1", title="of the images that it does not call unknown"),
        Column("Agreement", title="share of images decided as by the trained model, where unknown is a decision"),
    ]
    rows = [_row("Trained model", trained, manifest.accuracy.value if manifest.accuracy else None)]
    for v in manifest.variants:
        if isinstance(v.confidence, Confidence):
            rows.append(_row(v.id, v.confidence, v.accuracy.value if v.accuracy else None))
    return Table("Confidence and unknown", columns, rows)


def _thresholds(manifest: Manifest, trained: ClassThresholds) -> Table:
    """Return a table of the thresholds of a multi-label model's classes, one column for the trained model and for each variant."""
    found = {"Trained model": trained}
    found |= {v.id: v.confidence for v in manifest.variants if isinstance(v.confidence, ClassThresholds)}
    columns = [Column("Class", number=False)]
    for name, one in found.items():
        columns.append(Column(name, title=f"probabilities are sigmoid(logits / T), T = {one.temperature:.2f}"))
    rows = [
        [TableCell(name, i), *(TableCell(f"{one.thresholds[i]:.3f}", one.thresholds[i]) for one in found.values())]
        for i, name in enumerate(manifest.classes)
    ]
    for title, pick in _MEASURED:
        cells = [TableCell(title, title.lower())]
        for one in found.values():
            before, after = pick(one.quality) if one.quality is not None else (None, None)
            cells.append(TableCell(show.percent(after), after, note=f"from {show.percent(before)}"))
        rows.append(cells)
    caption = (
        f"Thresholds of the classes, set on {show.count(trained.images)} {trained.are}; a class is there from them on"
    )
    return Table(caption, columns, rows, tall=len(rows) > 24)


_MEASURED: tuple[tuple[str, Callable[[ThresholdQuality], tuple[float, float]]], ...] = (
    ("micro F1, from that with 0.5", lambda quality: quality.f1_micro),
    ("macro F1, from that with 0.5", lambda quality: quality.f1_macro),
    ("class-wise ECE, from that without T", lambda quality: quality.ece),
)


def _row(name: str, confidence: Confidence, top1: float | None) -> list[TableCell]:
    quality, none = confidence.quality, TableCell(show.NONE)
    low, high = confidence.interval
    asked = (
        f"by {confidence.rule}; asked: {show.percent(confidence.false_abstain)}, with {show.count(confidence.images)} {confidence.are} "
        f"{show.hundredths(low)} – {show.hundredths(high)}"
    )
    cells = [
        TableCell(name, name.lower(), note=asked),
        TableCell(f"{confidence.temperature:.2f}", confidence.temperature),
    ]
    threshold = TableCell(show.significant(confidence.threshold), confidence.threshold)
    if quality is None:
        return [*cells, none, none, threshold, *[none] * 3]
    ends = f"{show.hundredths(quality.unknown_interval[0])} – {show.hundredths(quality.unknown_interval[1])}"
    return [
        *cells,
        TableCell(show.percent(quality.ece[1]), quality.ece[1], note=f"from {show.percent(quality.ece[0])}"),
        TableCell(f"{quality.nll[1]:.3f}", quality.nll[1], note=f"from {quality.nll[0]:.3f}"),
        threshold,
        TableCell(show.percent(quality.unknown), quality.unknown, note=ends),
        TableCell(
            show.percent(quality.answered_accuracy), quality.answered_accuracy, note=f"all: {show.percent(top1)}"
        ),
        TableCell(show.percent(quality.agreement), quality.agreement) if quality.agreement is not None else none,
    ]
