"""The page, opened in a real browser: nothing loaded, nothing broken, readable everywhere."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.report import charts, grids
from edgekit.report.page import write_report
from edgekit.terms import TERMS, used
from tests.helpers.report_sample import make_answers, make_remote, make_run

HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "ünï & 猫",
    "a" * 80,
]
SECTIONS = ("advice", "accuracy", "mistakes", "variants", "latency", "training", "views", "data", "terms", "provenance")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def report(whole: Path) -> Path:
    return write_report(whole).path


class Opened:
    """A page in the browser, with whatever it complained about or asked the network for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(0)  # a busy machine is slow, not wrong
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        address = path.resolve().as_uri()

        def route(route: Any) -> None:
            if route.request.url.partition("#")[0] == address or route.request.url.startswith("data:"):
                route.continue_()
            else:
                self.requests.append(route.request.url)
                route.abort()

        self.page.route("**/*", route)
        self.page.goto(address)

    def style(self, selector: str, name: str) -> str:
        script = "([selector, name]) => getComputedStyle(document.querySelector(selector)).getPropertyValue(name)"
        return self.page.evaluate(script, [selector, name])

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    pages = []

    def open_page(path: Path, **context: Any) -> Opened:
        pages.append(Opened(browser, path, **context))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()


def test_the_page_is_whole_and_asks_for_nothing(report: Path, opened: Callable[..., Opened]) -> None:
    seen = opened(report, viewport={"width": 1280, "height": 900})
    text = seen.page.inner_text("body").replace("\u00a0", " ")
    for number in (
        "96.4",
        "96.1",
        "+11.7",
        "1,291 unlabeled images",
        "130 labels",
        "84.7 %",
        "9.2",
        "129",
        "900",
        "712 kB",
    ):
        assert number in text, number
    for word in (
        "verified",
        "rejected",
        "unexecuted",
        "k = 200, cosine, T = 0.1",
        "n/a",
        "first look",
        "SHA-256",
        "calibrated on 300 images",
        "random weights: 81.1 %",
    ):
        assert word in text, word
    assert seen.page.title() == "digits · edgekit report"
    for section in SECTIONS:
        assert seen.page.locator(f"section#{section} h2").count() >= 1
    assert seen.page.locator(".gap").count() == 0
    assert seen.complaints == []
    assert seen.requests == []
    assert report.stat().st_size < 1_500_000
    assert seen.page.locator("#variants td code, #variants th code").all_inner_texts() == ["edgekit export <RUN>"]


def test_every_chart_is_drawn_from_the_data(report: Path, opened: Callable[..., Opened]) -> None:
    page = opened(report, viewport={"width": 1280, "height": 900}).page
    visible = page.locator("svg.chart:visible")
    assert (
        visible.count() == 5 + 5 + 4 + 3 + 3 + 3
    )  # stages, confusion, trade-off, reliability, distribution; five measurements over time; four charts of pretrain, three of the others
    assert page.locator("#accuracy svg.wide circle.dot").count() == 5
    assert page.locator("#variants svg.wide .dot:not(.series .dot)").count() == 5
    assert page.locator("#variants svg.wide .rejected .dot").count() == 1
    assert page.locator("#latency svg.wide path.line").count() == 5
    assert page.locator("#training path.line").count() == 13
    for i in range(visible.count()):
        assert visible.nth(i).get_attribute("aria-label")
        assert "NaN" not in visible.nth(i).inner_html()
    # The faster variant stands left of the slower one, the rejected one below the verified ones.
    spots = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#variants svg.wide g')].map(g => {"
        " const b = g.querySelector('.dot').getBoundingClientRect();"
        " return [g.querySelector('title').textContent.split(':')[0], [b.x, b.y]]}))"
    )
    assert spots["openvino-int8"][0] < spots["onnx-int8"][0] < spots["onnx-fp32"][0]
    assert spots["onnx-int8-tensor"][1] > spots["onnx-int8"][1] > spots["onnx-fp32"][1]


def test_mistakes_and_advice_are_shown(report: Path, opened: Callable[..., Opened]) -> None:
    page = opened(report, viewport={"width": 1280, "height": 900}).page
    text = page.inner_text("#advice").replace("\u00a0", " ")
    assert "Finetune had 40 steps (accuracy on the labels 80.0%)." in text
    assert "Set finetune.epochs: 300." in text
    matrix = page.locator("#mistakes svg.wide")
    assert matrix.locator("rect.heat").count() == 100
    assert matrix.locator("rect.heat.error").count() == 1  # every 30th image is of class 0 and taken for 1
    assert "0 predicted as 1: 12" in matrix.locator("title").all_text_contents()
    assert "0: 24 of 36 right" in matrix.locator("title").all_text_contents()
    assert page.locator(".worst img").count() == 12 + 3  # beside three of them, what spoke for the wrong class
    assert "Zeiler and Fergus" in page.inner_text("#mistakes")
    assert "95 % interval" in page.inner_text(".tile.gain").replace("\u00a0", " ")
    assert "better" in page.inner_text("#accuracy")


def evaluation_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "evaluate" / "evaluation.json").read_text())
    return content


def test_terms_of_the_page_are_explained(report: Path, opened: Callable[..., Opened]) -> None:
    page = opened(report, viewport={"width": 1280, "height": 900}).page
    shown = page.locator("#terms dt").all_inner_texts()
    assert {"pool", "kNN", "SQNR", "McNemar's p", "p50", "verified", "Pareto front"} <= set(shown)
    assert not {"detector", "PRO", "mAP"} & set(shown), "of other tasks"
    assert shown == [term.name for terms in TERMS.values() for term in terms if term.name in shown]


def test_abbreviations_are_found_as_they_are_spelled() -> None:
    assert [term.name for term in used("a heat map at t = 1 to eat; knn, kNN")] == ["kNN"]
    assert [term.name for term in used("mAP, T = 1, Top-1 and ECE")] == ["top-1", "mAP", "temperature (T)", "ECE"]


@pytest.mark.parametrize("guessing", [0.1, 0.95])
def test_a_student_that_guesses_is_called_so(
    whole: Path, tmp_path: Path, opened: Callable[..., Opened], guessing: float
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "weak"))
    content = evaluation_of(run)
    content["measurement"]["guessing"] = guessing
    (run / "evaluate" / "evaluation.json").write_text(json.dumps(content))
    seen = opened(write_report(run).path, viewport={"width": 390, "height": 844})
    said = "no better than guessing"
    assert [said in seen.page.inner_text(place) for place in ("h1", ".tile")] == [guessing > 0.9] * 2
    assert f"guessing: {100 * guessing:.1f}" in seen.page.inner_text(".tile")
    assert seen.overflow() <= 0


@pytest.mark.parametrize("classes", [2, 30, 31, 100])
def test_confusion_is_readable_for_few_and_for_many_classes(
    tmp_path: Path, opened: Callable[..., Opened], classes: int
) -> None:
    names = [f"{'a rather long name of a class' if i == 1 else 'kind'} {i}" for i in range(classes)]
    path = write_report(make_run(tmp_path / "many", classes=names, samples=100)).path
    for width in (1280, 390):
        seen = opened(path, viewport={"width": width, "height": 900})
        assert seen.overflow() <= 0
        matrix = seen.page.locator("#mistakes svg.chart:visible")
        assert matrix.count() == (1 if classes <= 30 else 0)
        rows = seen.page.locator("#mistakes table.pairs tbody tr")
        assert rows.count() >= 1
        assert rows.first.is_visible() == (classes > 30)  # below the matrix it is folded away


def test_a_difference_inside_its_interval_is_called_so(
    whole: Path, tmp_path: Path, opened: Callable[..., Opened]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "unclear"))
    content = evaluation_of(run)
    content["measurement"]["differences"][0] |= {"value": 0.1167, "interval": [-0.01, 0.24], "p_value": 0.06}
    (run / "evaluate" / "evaluation.json").write_text(json.dumps(content))
    page = opened(write_report(run).path).page
    assert "not significant" in page.inner_text(".tile.gain")
    assert page.locator(".tile.gain.loss").count() == 1
    assert page.locator("#accuracy svg.wide .gaintext").count() == 0


@pytest.mark.parametrize("damage", ["missing", "other", "older"])
def test_answers_that_do_not_belong_to_the_evaluation_are_a_gap(
    whole: Path, tmp_path: Path, opened: Callable[..., Opened], damage: str
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / damage))
    path = run / "evaluate" / "answers.npz"
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        make_answers(10, 100).write(path)
    else:  # an evaluation of before there were answers
        content = evaluation_of(run)
        for key in ("classes", "differences", "draws", "advice", "answers", "worst"):
            del content["measurement"][key]
        (run / "evaluate" / "evaluation.json").write_text(json.dumps(content))
    page = opened(write_report(run).path).page
    assert f"edgekit evaluate {run}" in page.inner_text("#mistakes .gap")
    assert page.locator("#mistakes svg").count() == 0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that was also measured on a remote device, with sensors, and under load."""
    run = make_run(tmp_path_factory.mktemp("runs") / "digits")
    make_remote(run, "jetson")
    return write_report(run).path


def test_devices_are_drawn_against_each_other_with_what_their_sensors_said(
    fleet: Path, opened: Callable[..., Opened]
) -> None:
    seen = opened(fleet, viewport={"width": 1280, "height": 900})
    page = seen.page
    chart = page.locator("#latency figure", has_text="Comparison of devices")
    assert chart.locator("svg.wide circle.dot").count() == 5 + 2  # five variants here, two there
    assert "jetson" in chart.locator(".keys").inner_text()
    # The same variant on the slower device stands further right.
    spots = chart.evaluate(
        "f => Object.fromEntries([...f.querySelectorAll('svg.wide g')].map(g => [g.querySelector('title').textContent.split(':')[0],"
        " g.querySelector('circle').getBoundingClientRect().x]))"
    )
    assert spots["onnx-int8 ×2, jetson"] > spots["onnx-int8 ×2, this machine"]
    card = page.locator("#latency .card", has_text="jetson").filter(has=page.locator(".curves")).first
    assert card.locator("svg").count() == 4  # latency, clock, temperature, power
    assert card.locator("circle.throttled").count() > 0
    assert "throttled" in card.locator(".doubt").inner_text()
    text = page.inner_text("#latency")
    assert "Under load" in text
    assert "layer0.conv 20.0 %" in text.replace("\u00a0", " ")
    assert "80.0 %" in text.replace("\u00a0", " ")  # four convolutions of 20 % each
    assert "server" in text
    assert page.locator("#variants path.front").count() == 2  # of the wide and the narrow drawing
    assert seen.complaints == []
    narrow = opened(fleet, viewport={"width": 390, "height": 844})
    assert narrow.overflow() <= 0


@pytest.mark.parametrize("width", [390, 820])
def test_a_phone_and_a_tablet_read_it_without_scrolling_sideways(
    report: Path, opened: Callable[..., Opened], width: int
) -> None:
    seen = opened(report, viewport={"width": width, "height": 844})
    assert seen.overflow() <= 0
    sizes = seen.page.evaluate(
        "[...document.querySelectorAll('svg.chart')].filter(s => s.clientWidth > 0)"
        ".map(s => 12 * s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
    )
    assert min(sizes) > 9  # the smallest text of every chart that is shown, in pixels


@pytest.mark.parametrize("size", ["narrow", "wide"])
def test_no_text_of_the_accuracy_chart_lies_on_another(
    tmp_path: Path, opened: Callable[..., Opened], size: str
) -> None:
    """The gain is written beside its band: with these numbers, where the phone has the student's accuracy."""
    rows = [
        charts.AccuracyRow("Supervised from scratch", "the same labels", "supervised", 0.838, 0.797, 0.873),
        charts.AccuracyRow("Encoder, kNN", "random weights: 46.0 %", "encoder", 0.922, 0.889, 0.946, untrained=0.46),
        charts.AccuracyRow("Student", "distilled from the teacher", "student", 0.964, 0.939, 0.979),
    ]
    drawn = charts.stages(rows, gain_from=0.838, gain_to="Student")
    seen = open_chart(drawn, tmp_path, opened, size)
    boxes = text_boxes(seen, size)
    assert "+12.6 points" in [text for text, *_ in boxes]
    assert_apart(boxes)


def open_chart(drawn: str, folder: Path, opened: Callable[..., Opened], size: str) -> Opened:
    style = Path(charts.__file__).with_name("style.css").read_text()
    path = folder / "chart.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{style}</style><div style="max-width: 880px">{drawn}</div>'
    )
    return opened(path, viewport={"width": charts.WIDTH[size] + 20 if size == "narrow" else 1280, "height": 900})


def text_boxes(seen: Opened, size: str) -> list[tuple[str, float, float, float, float]]:
    """The texts of a chart with left, top, right and bottom in pixels."""
    boxes = seen.page.evaluate(
        f"[...document.querySelectorAll('svg.{size} text')]"
        ".map(t => { const b = t.getBoundingClientRect(); return [t.textContent, b.left, b.top, b.right, b.bottom]; })"
    )
    assert all(right > left for _, left, _, right, _ in boxes), "the other drawing is shown"
    return [tuple(box) for box in boxes]


def assert_apart(boxes: list[tuple[str, float, float, float, float]]) -> None:
    for i, (text, left, top, right, bottom) in enumerate(boxes):
        for other, *box in boxes[i + 1 :]:
            across = min(right, box[2]) - max(left, box[0])
            down = min(bottom, box[3]) - max(top, box[1])  # a box is higher than its letters
            assert across <= 1 or down <= 5, f"{text} and {other}"


TRADEOFFS = {
    # Three of four points are on one level, and two of these are close.
    "close": [
        charts.TradeoffPoint("onnx-fp32", 0.1045, 0.9694, "onnxruntime", "fp32", False),
        charts.TradeoffPoint("onnx-int8", 0.082, 0.9666, "onnxruntime", "int8", False),
        charts.TradeoffPoint("openvino-int8", 0.1095, 0.9694, "openvino", "int8", False),
        charts.TradeoffPoint("openvino-fp16", 0.124, 0.9694, "openvino", "fp16", False),
    ],
    # The front goes up steeply through where the names would be.
    "front": [
        charts.TradeoffPoint("onnx-fp32", 0.140, 0.9694, "onnxruntime", "fp32", False),
        charts.TradeoffPoint("openvino-fp16", 0.132, 0.9680, "openvino", "fp16", False),
        charts.TradeoffPoint("onnx-int8", 0.125, 0.9611, "onnxruntime", "int8", False),
        charts.TradeoffPoint("openvino-int8", 0.118, 0.9583, "openvino", "int8", False),
        charts.TradeoffPoint("onnx-int8-tensor", 0.119, 0.9581, "onnxruntime", "int8", True),
        charts.TradeoffPoint("tensorrt-fp16", 0.126, 0.9614, "tensorrt", "fp16", False),
    ],
    "one place": [
        charts.TradeoffPoint(name, 0.1, 0.9694, "onnxruntime", "int8", False)
        for name in ("onnx-int8", "openvino-int8 ×2", "onnx-int8-tensor")
    ],
}


@pytest.mark.parametrize("size", ["narrow", "wide"])
@pytest.mark.parametrize("case", list(TRADEOFFS))
def test_each_name_of_the_tradeoff_is_free_and_belongs_to_one_point(
    tmp_path: Path, opened: Callable[..., Opened], case: str, size: str
) -> None:
    marks = TRADEOFFS[case]
    seen = open_chart(charts.tradeoff(marks, 0.9694), tmp_path, opened, size)
    assert_apart(text_boxes(seen, size))
    found = seen.page.evaluate(
        f"[...document.querySelectorAll('svg.{size} g')].filter(g => g.querySelector('title')).map(g => {{"
        " const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };"
        " const line = g.querySelector('line.leader'), at = g.ownerSVGElement.getScreenCTM();"
        " const end = (x, y) => [at.a * x.baseVal.value + at.e, at.d * y.baseVal.value + at.f];"
        " return {name: g.querySelector('text').textContent, text: box(g.querySelector('text')), dot: box(g.querySelector('.dot')),"
        " leader: line && [end(line.x1, line.y1), end(line.x2, line.y2)]}; })"
    )
    assert [mark["name"] for mark in found] == [mark.label for mark in marks]
    chart = seen.page.locator(f"svg.{size}").bounding_box()
    assert chart is not None
    middles = [((d[0] + d[2]) / 2, (d[1] + d[3]) / 2) for d in (mark["dot"] for mark in found)]
    for mark, own in zip(found, middles, strict=True):
        name, text = mark["name"], mark["text"]
        assert text[0] >= chart["x"], name
        assert text[2] <= chart["x"] + chart["width"], name
        for other in found:
            across = min(text[2], other["dot"][2]) - max(text[0], other["dot"][0])
            down = min(text[3], other["dot"][3]) - max(text[1], other["dot"][1])
            assert across <= 1 or down <= 4, f"{name} on the point of {other['name']}"
        if mark["leader"] is None:
            for other, middle in zip(found, middles, strict=True):
                if math.dist(own, middle) > 1:  # of several points in one place, none is the nearest
                    assert distance(middle, text) > 1.2 * distance(own, text), f"{name} could belong to {other['name']}"
        else:
            start, end = mark["leader"]
            assert math.dist(start, own) < 12, name
            assert distance(end, text) < 5, name
    front = seen.page.evaluate(
        f"[...document.querySelectorAll('svg.{size} path.front')].flatMap(p => {{ const at = p.getScreenCTM();"
        " return [...Array(400).keys()].map(i => p.getPointAtLength(p.getTotalLength() * i / 399))"
        "   .map(q => [at.a * q.x + at.e, at.d * q.y + at.f]); })"
    )
    assert front
    for x, y in front:
        for mark in found:
            left, top, right, bottom = mark["text"]
            assert not (left < x < right and top + 3 < y < bottom - 3), f"the front crosses {mark['name']}"


def distance(spot: tuple[float, float], box: list[float]) -> float:
    """How far a point is from a box."""
    return math.dist(spot, (min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3])))


@pytest.mark.parametrize("size", ["narrow", "wide"])
def test_turned_names_of_a_grid_end_below_its_title(tmp_path: Path, opened: Callable[..., Opened], size: str) -> None:
    names = [f"augmentation {i}" for i in range(10)]
    drawn = grids.heat(grids.HeatMap(["a", "b"], names, "rows", "columns", [[0.5] * 10, [0.7] * 10]))
    boxes = text_boxes(open_chart(drawn, tmp_path, opened, size), size)
    (title,) = [box for box in boxes if box[0] == "columns →"]
    tops = [box[2] for box in boxes if box[0] in names]
    assert len(tops) == 10
    assert min(tops) > title[4] - 1


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose classes have names that are too long for the cells of the confusion matrix."""
    return write_report(
        make_run(tmp_path_factory.mktemp("runs") / "run", classes=[f"product-{i}" for i in range(10)])
    ).path


@pytest.mark.parametrize(("size", "width"), [("narrow", 390), ("wide", 1280)])
def test_vertical_class_names_end_below_what_is_above_the_matrix(
    products: Path, opened: Callable[..., Opened], size: str, width: int
) -> None:
    boxes = text_boxes(opened(products, viewport={"width": width, "height": 900}), f"{size}[aria-label^=Confusion]")
    (title,) = [box for box in boxes if box[0].startswith("class ↓")]
    vertical = [box for box in boxes if box[0].startswith("product-") and box[4] - box[2] > box[3] - box[1]]
    assert len(vertical) == 10
    assert min(box[2] for box in vertical) > title[4] + 2


def test_a_phone_shows_the_whole_text_of_each_mistake(products: Path, opened: Callable[..., Opened]) -> None:
    page = opened(products, viewport={"width": 390, "height": 844}).page
    texts = page.evaluate(
        "[...document.querySelectorAll('.worst p')].map(p => [p.innerText, p.scrollHeight - p.clientHeight, p.scrollWidth - p.clientWidth])"
    )
    assert sum(text.endswith("90\u00a0%") for text, *_ in texts) == 12
    for text, below, beside in texts:
        assert (below, beside) == (0, 0), text


def test_dark_follows_the_system_and_the_button(report: Path, opened: Callable[..., Opened]) -> None:
    light, dark = opened(report, color_scheme="light"), opened(report, color_scheme="dark")
    papers = [light.style("body", "background-color"), dark.style("body", "background-color")]
    dots = [seen.style("#accuracy svg.wide .m-student .dot", "fill") for seen in (light, dark)]
    assert papers[0] != papers[1]
    assert dots[0] != dots[1]
    light.page.click("#theme")
    assert light.style("body", "background-color") == papers[1]
    light.page.click("#theme")
    assert light.style("body", "background-color") == papers[0]
    dark.page.click("#theme")
    assert dark.style("body", "background-color") == papers[0]


def channel(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(color: str) -> float:
    red, green, blue = (channel(int(part) / 255) for part in re.findall(r"\d+", color)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(report: Path, opened: Callable[..., Opened], scheme: str) -> None:
    seen = opened(report, color_scheme=scheme)
    pairs = [
        ("h1", "body"), (".intro", "body"), (".eyebrow", "body"), (".tile .about", ".tile"), (".tile.gain .about", ".tile.gain"),
        (".badge.verified", ".badge.verified"), (".badge.rejected", ".badge.rejected"), (".badge.unexecuted", ".badge.unexecuted"),
        ("td small", ".card"), ("small.warning", ".card"),
    ]  # fmt: skip
    for text, behind in pairs:
        a, b = luminance(seen.style(text, "color")), luminance(seen.style(behind, "background-color"))
        assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5, (text, scheme)  # WCAG 2.2, 1.4.3
    for mark in (".m-student", ".m-teacher", ".m-encoder", ".m-supervised"):
        a, b = (
            luminance(seen.style(f"svg.wide {mark} .dot", "fill")),
            luminance(seen.style(".card", "background-color")),
        )
        assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 3, (mark, scheme)  # WCAG 2.2, 1.4.11


def test_paper_is_white_and_shows_everything(report: Path, opened: Callable[..., Opened]) -> None:
    seen = opened(report, color_scheme="dark", viewport={"width": 688, "height": 1000})
    seen.page.emulate_media(media="print")
    assert seen.style("body", "background-color") == "rgb(255, 255, 255)"
    assert seen.style("#theme", "display") == "none"
    assert seen.style(".scroll", "overflow-x") == "visible"
    assert seen.overflow() <= 0
    pdf = seen.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert seen.page.locator("details:not([open])").count() == 0  # opened before printing


def against_fp32(seen: Opened) -> tuple[str, list[tuple[str, str]]]:
    """The head's tooltip and the cells, with their tooltips, of the column with the speed against FP32."""
    table = seen.page.locator("#latency table.latency")
    head = table.locator("thead th", has_text="Against FP32").locator("button").get_attribute("title")
    cells = table.locator("tbody tr td:last-child").all()
    return head or "", [(cell.inner_text(), cell.get_attribute("title") or "") for cell in cells]


def test_a_speed_up_of_one_process_each_has_no_range(
    whole: Path, report: Path, tmp_path: Path, opened: Callable[..., Opened]
) -> None:
    head, cells = against_fp32(opened(report, viewport={"width": 1280, "height": 900}))
    assert "one round" in head
    assert "process" in head
    assert sum(" to " in text for text, _ in cells) == 2  # both INT8 variants of ONNX Runtime, of three rounds
    run = Path(shutil.copytree(whole, tmp_path / "quick"))
    for path in (run / "bench").glob("*.json"):
        content = json.loads(path.read_text())
        content["measurement"]["rounds"] = [sum(content["measurement"]["rounds"])]
        path.write_text(json.dumps(content))
    _, cells = against_fp32(opened(write_report(run).path, viewport={"width": 1280, "height": 900}))
    ratios = [(text, title) for text, title in cells if "×" in text]
    assert len(ratios) == 2
    for text, title in ratios:
        assert re.fullmatch(r"\d\.\d\d×", text.strip()), text
        assert "one process" in title


def test_the_steps_name_the_settings_that_were_chosen_from_scratch(
    whole: Path, tmp_path: Path, opened: Callable[..., Opened]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "searched"))
    path = run / "supervised" / "stage.json"
    record = json.loads(path.read_text())
    record["inputs"]["config"] = {"epochs": 50}
    tried = [{"name": name, "epochs": 100, "probe_top1": 0.6} for name in ("recipe", "mild", "none")]
    for chosen, tries, words in (
        ("recipe-longer", [*tried, {"name": "recipe-longer", "epochs": 300, "probe_top1": 0.8}], "best of 4 settings, 300 epochs"),
        ("recipe", tried[:1], "for comparison, 50 epochs"),  # one setting is no choice: the epochs of the stage
        ("lost", tried, "for comparison, 50 epochs"),
    ):  # fmt: skip
        path.write_text(json.dumps(record | {"metrics": {"search": tries, "chosen": chosen}}))
        steps = opened(write_report(run).path).page.locator(".steps li", has_text="From scratch")
        assert words in steps.inner_text()


def test_tables_sort(report: Path, opened: Callable[..., Opened]) -> None:
    page = opened(report, viewport={"width": 1280, "height": 900}).page
    table = page.locator("#latency table.latency")
    names = [column.strip() for column in table.locator("thead th").all_inner_texts()]

    def column(i: int) -> list[str]:
        return [
            row.locator("th, td").nth(i).locator("span").first.inner_text() for row in table.locator("tbody tr").all()
        ]

    before = column(0)
    head = table.locator("thead th").nth(names.index("p50"))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(value.split("\u00a0")[0]) for value in column(names.index("p50"))]
    assert values == sorted(values)
    assert column(0) != before
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(0)[0] == "onnx-fp32"


def test_hostile_names_are_text(tmp_path: Path, opened: Callable[..., Opened]) -> None:
    path = write_report(make_run(tmp_path / "hostile", classes=HOSTILE)).path
    seen = opened(path, viewport={"width": 390, "height": 844})
    assert seen.page.title() == "digits · edgekit report"
    shown = seen.page.locator("table.classes tbody th span").all_inner_texts()
    assert [name.strip() for name in shown] == HOSTILE
    assert (
        seen.page.locator("section img").count() == 1 + 12 + 3
    )  # the views, the worst images and the maps of three, and nothing that a name brought
    assert HOSTILE[0] in seen.page.locator("#advice").inner_text()
    assert HOSTILE[1] in seen.page.locator("#mistakes .worst").inner_text()
    assert HOSTILE[0] in seen.page.locator("#mistakes svg.narrow title").all_text_contents()[0]
    assert seen.overflow() <= 0
    assert seen.complaints == []
    assert seen.requests == []


def test_names_with_control_characters_reach_no_terminal_that_shows_the_page(tmp_path: Path) -> None:
    classes = ["\x1b]0;title\x07", "a\x00b", "up\u202edown", *(f"c{i}" for i in range(7))]
    page = write_report(make_run(tmp_path / "run", classes=classes)).path.read_text(encoding="utf-8")
    assert not set(page) & set("\x1b\x07\x00\u202e")
    assert "\\u001b]0;title" in page


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-1", "1e999"])
def test_a_stage_of_no_real_duration_is_a_gap(seconds: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", samples=30)
    path = run / "pretrain" / "stage.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "seconds": "@"}).replace('"@"', seconds))
    gaps = [gap.part for gap in write_report(run).facts.gaps]
    assert "pretrain" in gaps


def test_a_run_that_has_only_begun_says_what_is_missing(
    whole: Path, tmp_path: Path, opened: Callable[..., Opened]
) -> None:
    run = tmp_path / "begun"
    run.mkdir()
    shutil.copy(whole / "recipe.yaml", run)
    seen = opened(write_report(run).path, viewport={"width": 390, "height": 844})
    text = seen.page.inner_text("body")
    for command in (f"train {run}/recipe.yaml --run {run}", f"evaluate {run}", f"export {run}", f"bench {run}/export"):
        assert f"edgekit {command}" in text
    assert seen.page.locator(".steps li.missing").count() == 8
    assert seen.page.locator("svg.chart").count() == 0
    assert seen.complaints == []
    assert seen.overflow() <= 0


def test_large_views_are_embedded_small(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "large"))
    noise = np.random.default_rng(0).integers(0, 256, (1800, 2400, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((2400, 1800)).save(run / "pretrain" / "views.png")
    assert (run / "pretrain" / "views.png").stat().st_size > 5_000_000
    path = write_report(run).path
    assert "data:image/jpeg;base64," in path.read_text()
    assert path.stat().st_size < 2_500_000  # noise is the worst case there is


def test_the_same_run_gives_the_same_page(whole: Path, tmp_path: Path) -> None:
    pages = [write_report(whole, tmp_path / name).path.read_text() for name in ("a.html", "b.html")]
    same = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page) for page in pages]
    assert same[0] == same[1]


def edgekit(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_the_command_prints_where_the_report_is(whole: Path, tmp_path: Path) -> None:
    done = edgekit("report", whole, "--output", tmp_path / "sub" / "page.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(tmp_path / "sub" / "page.html")
    assert (tmp_path / "sub" / "page.html").read_text().startswith("<!doctype html>")


def test_the_command_as_json_says_what_is_missing(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "unmeasured"))
    shutil.rmtree(run / "bench")
    done = edgekit("report", run, "--json")
    content = json.loads(done.stdout)
    assert content["gain"] == pytest.approx(0.1167)
    assert content["fastest_variant"] is None
    assert [(gap["part"], gap["command"]) for gap in content["missing"]] == [
        ("bench", f"edgekit bench {run / 'export'}")
    ]
    plain = edgekit("report", run)
    assert plain.returncode == 0
    assert f"To add it, run `edgekit bench {run / 'export'}`" in plain.stderr


def test_the_command_opens_the_browser(whole: Path, tmp_path: Path) -> None:
    script, seen = tmp_path / "browser", tmp_path / "seen"
    script.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    script.chmod(0o755)
    done = edgekit("report", whole, "--output", tmp_path / "page.html", "--open", BROWSER=f"{script} %s")
    assert done.returncode == 0, done.stderr
    assert seen.read_text().strip() == (tmp_path / "page.html").as_uri()


def test_what_is_no_run_ends_in_one_line(tmp_path: Path) -> None:
    done = edgekit("report", tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "holds no recipe.yaml" in done.stderr


def test_drawing_imports_neither_torch_nor_matplotlib(whole: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom edgekit.report.page import write_report\n"
        f"write_report({str(whole)!r}, __import__('pathlib').Path({str(tmp_path / 'p.html')!r}))\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
