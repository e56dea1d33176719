"""The page of a search: what it says, whatever the names are, and whatever is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.report.search import SearchPoint, pareto, write_search
from edgekit.result import (
    PrunedStep,
    Pruning,
    Result,
    Search,
    SearchCandidate,
    SearchRound,
    SearchTrained,
    SearchVariant,
    TrainedVariant,
)

NAMES = ["small", "middle", "large", "slow"]
HOSTILE = "<script>alert(1)</script>{{ 7*7 }}\x1b[2J"


def candidate(number: int, name: str) -> SearchCandidate:
    fits = number < 3
    variant = SearchVariant(
        id="onnx-fp32",
        runtime="onnxruntime",
        precision="fp32",
        bytes=100_000 * (number + 1),
        percentiles_ms={"p50": 1.0 + number, "p90": 1.5 + number, "p99": None},
        samples=900,
        turns=3,
        spread=0.01,
        outside=[] if fits else ["p50 4 ms, limit 3.5 ms"],
    )
    rounds = [SearchRound(epochs=2, score=0.5 + 0.1 * number, images=100)] if fits else []
    rounds += [SearchRound(epochs=6, score=0.8, images=100)] if number == 2 else []
    left_out = "" if number == 2 else f"reason {number}"
    return SearchCandidate(
        name=name,
        student={"name": name, "width": 1.0},
        image_size=32,
        variants=[variant],
        rounds=rounds,
        left_out=left_out,
    )


def complete() -> Search:
    variant = TrainedVariant(
        id="onnx-fp32", precision="fp32", status="verified", accuracy=0.875, bytes=300_000, percentiles_ms={"p50": 3.03}, before_p50_ms=3.0,
        ratio=1.01,
    )  # fmt: skip
    trained = SearchTrained(
        candidate="large",
        run="full/large",
        accuracy=0.88,
        samples=200,
        variants=[variant],
        variant="onnx-fp32",
        seconds=9.0,
    )
    return Search(
        recipe="photos",
        device="ssh://nano",
        budgets=["p50 < 3.5 ms"],
        candidates=[candidate(i, name) for i, name in enumerate(NAMES)],
        scored_on="top-1 on the probe set of 100 images",
        full_epochs=18,
        trained=[trained],
        winner="large",
        winner_recipe="winner.yaml",
        seconds={"measure": 60.0, "teacher": 120.0, "rounds": 30.0, "full": 90.0},
    )


def written(search: Search, folder: Path) -> str:
    """The page of a search that was read back from its file."""
    Result.of(search, seed=0).write(folder / "search.json")
    write_search(Result.read(folder / "search.json"), folder / "search.html")
    return (folder / "search.html").read_text()


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]).replace("\u00a0", " ").split())


def test_the_page_has_the_winner_the_front_the_reasons_and_the_cost(tmp_path: Path) -> None:
    page = written(complete(), tmp_path)
    text = text_of(page)
    assert "large fits: 87.5 % at 3.03 ms and 300 kB, as onnx-fp32" in text
    assert "+1.0 %" in text
    for said in (
        "reason 0",
        "reason 1",
        "reason 3",
        "the winner",
        "5 min 00 s",
        "Round 1: 2 epochs",
        "Round 2: 6 epochs",
    ):
        assert said in text, said
    assert page.count('class="front"') >= 2, "wide and narrow"
    assert not re.search(r"src=|https?://", page.replace("http-equiv", ""))


def test_a_search_that_has_just_begun_and_one_that_found_nothing(tmp_path: Path) -> None:
    begun = complete().model_copy(update={"candidates": [], "trained": [], "winner": None})
    assert "The search is not complete" in text_of(written(begun, tmp_path))
    none = complete().model_copy(
        update={"trained": [], "winner": None, "nearest": "slow, onnx-fp32: p50 4 ms, limit 3.5 ms"}
    )
    assert "Nothing is within the budget; the nearest is slow" in text_of(written(none, tmp_path))
    failed = complete()
    failed = failed.model_copy(
        update={"winner": None, "trained": [failed.trained[0].model_copy(update={"variant": None})]}
    )
    assert "No candidate is within the budget after its full training" in text_of(written(failed, tmp_path))


def test_names_are_text(tmp_path: Path) -> None:
    hostile = complete()
    hostile = hostile.model_copy(
        update={
            "recipe": HOSTILE,
            "device": HOSTILE,
            "candidates": [c.model_copy(update={"left_out": HOSTILE}) for c in hostile.candidates],
        }
    )
    page = written(hostile, tmp_path)
    assert "<script>alert" not in page
    assert "49" not in re.findall(r"<b>([^<]*)</b>", page)
    assert "\x1b" not in page


def test_the_front_has_what_nothing_else_beats_in_everything() -> None:
    points = [
        SearchPoint("fast", 1.0, 0.5, 9, True),
        SearchPoint("good", 3.0, 0.9, 9, True),
        SearchPoint("tiny", 3.0, 0.4, 1, True),
        SearchPoint("beaten", 3.0, 0.4, 9, True),
        SearchPoint("the same", 1.0, 0.5, 9, True),
    ]
    assert {p.name for p in pareto(points)} == {"fast", "good", "tiny", "the same"}


@pytest.mark.parametrize("change", ["schema", "kind"])
def test_a_result_of_another_kind_is_refused(tmp_path: Path, change: str) -> None:
    from edgekit.errors import EdgekitError

    Result.of(complete(), seed=0).write(tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text()
    broken = (
        text.replace('"schema": 1', '"schema": 9')
        if change == "schema"
        else text.replace('"kind": "search"', '"kind": "find"')
    )
    assert broken != text
    (tmp_path / "x.json").write_text(broken)
    with pytest.raises(EdgekitError):
        Result.read(tmp_path / "x.json")


@pytest.mark.parametrize("kept", [True, False])
def test_what_came_of_pruning_is_on_the_page_also_where_it_does_not_help(kept: bool, tmp_path: Path) -> None:
    search = complete()
    step = PrunedStep(
        removed=0.3125,
        parameters=54_321,
        epochs=6,
        score=0.8125,
        variants=[search.candidates[0].variants[0]],
        seconds=3.0,
    )
    outcome = f"slow-pruned reaches 81.2%: {'pruning helps' if kept else 'pruning does not help, and large stays'}"
    search.pruning = Pruning(
        candidate="slow", against="large", name="slow-pruned", whole_score=0.9, steps=[step], score=0.8125, against_score=0.8,
        images=100, kept=kept, outcome=outcome,
    )  # fmt: skip
    text = text_of(written(search, tmp_path))
    assert f"Pruned to the budget {outcome}. slow was pruned; whole, it scores 90.0 %." in text
    for shown in ("31.3 %", "54,321", "1.00 ms", "81.3 %"):
        assert shown in text
    search.pruning = Pruning(outcome=f"nothing was pruned: large takes 95% of the budget {HOSTILE}")
    page = written(search, tmp_path)
    assert "nothing was pruned: large takes 95% of the budget" in text_of(page)
    assert "Pruned step by step" not in page
    assert "<script>alert" not in page
