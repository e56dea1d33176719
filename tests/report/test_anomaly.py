"""The report of a detector: scores, ROC, threshold, kinds of defects, and the most anomalous images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import recipe as recipes
from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.report.anomaly import anomalies
from edgekit.report.facts import collect
from edgekit.report.headline import headline
from edgekit.report.page import render
from edgekit.result import Evaluation, Score
from edgekit.run import Run
from edgekit.tasks.anomaly_answers import FILE, AnomalyAnswers
from edgekit.tasks.anomaly_metrics import image_auroc
from tests.helpers.report_sample import CREATED, write_result, write_rows

DEFECTS = ["good"] * 40 + ["scratch"] * 12 + ["hole"] * 8


def make_answers(threshold: float | None = 2.0) -> AnomalyAnswers:
    random = np.random.default_rng(3)
    scores = np.r_[random.normal(1, 0.4, 40), random.normal(2.3, 0.6, 20)].astype(np.float32)
    maps = random.uniform(0, 1, (60, 48, 32)).astype(np.float32)
    maps[40:, 10:20, 5:15] = 3.0
    images = random.integers(0, 256, (60, 48, 32, 3), dtype=np.uint8)
    names = [f"test/{defect}/{i:03}.png" for i, defect in enumerate(DEFECTS)]
    return AnomalyAnswers.of(
        names, DEFECTS, scores, maps, images, random.normal(1, 0.4, 20).astype(np.float32), threshold, 2.0
    )


def make_run(folder: Path, threshold: float | None = 2.0, **recipe: Any) -> Path:
    run = Run(folder)
    folder.mkdir(parents=True)
    parsed = recipes.parse({"name": "parts", "task": "anomaly", "data": {"normal": "parts"}, **recipe})
    run.recipe_path.write_text(recipes.dump(parsed), encoding="utf-8")
    packages = this_machine().packages
    run.stage_path("data").mkdir()
    content: dict[str, Any] = {"classes": [], "skipped": 0, "notes": []}
    for name in ("pool", "labels", "probe", "test"):
        content[name] = {"images": 128 if name == "pool" else 0, "side": 32, "digest": "0" * 64}
    write_json(run.stage_path("data") / "splits.json", content)
    write_rows(run.stage_path("data") / "skipped.csv", [("file", "reason")])
    run.write_record("data", {}, ["splits.json", "skipped.csv"], {}, 1.0, CREATED, packages)
    run.stage_path("anomaly").mkdir()
    (run.stage_path("anomaly") / "model.json").write_text("{}", encoding="utf-8")
    run.write_record("anomaly", {}, ["model.json"], {"method": "patchcore"}, 2.0, CREATED, packages)
    answers = make_answers(threshold)
    answers.write(folder / "evaluate" / FILE)
    value = image_auroc(answers.scores, answers.labels)
    write_result(
        folder / "evaluate" / "evaluation.json",
        Evaluation(
            task="anomaly", run=str(folder), data="parts: 60 images",
            scores=[Score(model="detector", metric="auroc", value=value, samples=60, protocol="pairs")],
        ),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = {"encoder": {"name": "resnet18", "weights": "resnet18.pth"}}
    return make_run(tmp_path_factory.mktemp("report") / "parts", anomaly=weights)


def test_only_what_a_detector_lacks_is_a_gap(detector: Path) -> None:
    facts = collect(detector)
    assert [gap.part for gap in facts.gaps] == ["export", "bench"]
    assert "the detector has not been exported" in facts.gaps[0].why
    assert set(facts.stages) == {"data", "anomaly"}
    top = headline(facts)
    assert top.student is not None
    assert top.student.model == "detector"


def test_the_numbers_are_those_of_the_answers(detector: Path) -> None:
    facts, answers = collect(detector), make_answers()
    section = anomalies(facts)
    assert section is not None
    above, bad = answers.scores > 2.0, answers.labels == 1
    words = section.words.replace("\u00a0", " ")
    assert "above 2.00 is anomalous" in words
    assert "20 images held out" in words
    assert f"{int((above & ~bad).sum())} of 40 (" in words
    assert f"{int((above & bad).sum())} of 20 (" in words
    rows = {row[0].text: [cell.sort for cell in row[1:]] for row in section.defects.rows}
    assert list(rows) == ["good", "hole", "scratch"]
    hole = np.array(DEFECTS) == "hole"
    assert rows["hole"] == [
        8,
        pytest.approx(above[hole].mean()),
        pytest.approx(np.median(answers.scores[hole])),
        pytest.approx(image_auroc(answers.scores[~bad | hole], bad[~bad | hole])),
    ]
    assert [image.file for image in section.shown] == [answers.names[i] for i in np.argsort(-answers.scores)[:10]]


def test_the_page_has_the_section_and_nothing_of_classifiers(detector: Path) -> None:
    page = render(collect(detector))
    assert 'id="anomalies"' in page
    assert page.count("data:image/png") == 10
    for other in ('id="mistakes"', "Student", "labels to", "Fine-tune", "Gain from unlabeled"):
        assert other not in page
    text = re.sub(r"<[^>]+>", " ", page).replace("\u00a0", " ")
    assert "From 128 normal images" in text
    assert "Defects found" in text
    assert re.search(r"AUROC \d+\.\d %", text)


def test_without_a_threshold_nothing_is_decided(tmp_path: Path) -> None:
    facts = collect(make_run(tmp_path / "run", None))
    section = anomalies(facts)
    assert section is not None
    assert "There is no threshold" in section.words
    assert not any(image.above for image in section.shown)
    assert "needs a threshold" in render(facts)


def test_damaged_answers_are_a_gap(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "evaluate" / FILE).write_bytes(b"no")
    facts = collect(run)
    assert facts.missing("anomalies")
    assert anomalies(facts) is None
    assert "edgekit evaluate" in render(facts)
