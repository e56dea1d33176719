"""One share is one text, wherever it is printed and however it was kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from edgekit.bundle import Accuracy, Bundle, write_manifest
from edgekit.report import format as show
from edgekit.report import tables
from edgekit.report.facts import collect
from edgekit.result import Result, Score
from edgekit.shares import difference, hundredths, percent, share_of
from edgekit.train.evaluate.scores import classifier_scores, share, with_earlier_few_shot
from tests.helpers.report_sample import make_run

HALF = (1269, 2000)  # 63.45 %: a half, whose float32 lies above it and whose float64 below


def by_hand(count: int, total: int, decimals: int) -> str:
    """Long division, then a half goes up."""
    value = Fraction(count * 100, total)
    digits = Decimal(value.numerator * 10 ** (decimals + 20) // value.denominator).scaleb(-decimals - 20)
    return str(digits.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


@given(total=st.integers(1, 200_000), part=st.floats(0, 1), decimals=st.integers(0, 2))
@example(total=2000, part=1269 / 2000, decimals=1)
@example(total=8, part=1 / 8, decimals=0)
@example(total=16, part=1 / 16, decimals=1)
@example(total=3, part=1 / 3, decimals=2)
def test_a_count_is_rounded_as_by_hand_whatever_it_was_kept_in(total: int, part: float, decimals: int) -> None:
    count = round(part * total)
    expected = by_hand(count, total, decimals)
    value = share_of(count, total)
    assert hundredths(value, decimals) == expected
    assert hundredths(json.loads(json.dumps(value)), decimals) == expected
    assert percent(value, decimals, gap=" ") == f"{expected} %"
    as_single = float(np.float32(count) / np.float32(total))  # what older results hold
    # A share that is no half itself is 1 / (2 n 10**(decimals + 2)) away from one at least; a float32 is less than 6e-8 off.
    if total * 10 ** (decimals + 2) <= 8_000_000:
        assert hundredths(as_single, decimals) == expected


@given(total=st.integers(1, 20_000), a=st.floats(0, 1), b=st.floats(0, 1))
def test_a_difference_is_that_of_the_counts(total: int, a: float, b: float) -> None:
    first, second = round(a * total), round(b * total)
    sign, expected = "-" if first < second else "+", by_hand(abs(first - second), total, 2)
    text = hundredths(difference(share_of(first, total), share_of(second, total)), 2, signed=True)
    assert text == (f"{sign}{expected}" if float(expected) else f"+{expected}")
    assert text == hundredths(share_of(first, total) - share_of(second, total), 2, signed=True)


def test_what_is_no_number_is_said_to_be_none() -> None:
    assert math.isnan(share_of(0, 0))
    assert percent(math.nan) == "nan%"
    assert percent(math.inf, signed=True) == "+inf%"
    assert (hundredths(-0.0001), hundredths(-0.0001, signed=True), hundredths(0.0)) == ("0.0", "+0.0", "0.0")
    assert (percent(2.5, signed=True), percent(-0.1), percent(1.0, 0)) == ("+250.0%", "-10.0%", "100%")
    assert (show.points(-0.006), show.points(0.123), show.points(0.0), show.points(None)) == (
        "−0.6",
        "+12.3",
        "0.0",
        "n/a",
    )
    assert math.isnan(difference(math.nan, 1.0))


def test_accuracies_are_counted() -> None:
    count, total = HALF
    truth = torch.zeros(total, dtype=torch.int64)
    predicted = (torch.arange(total) >= count).long()
    assert share(predicted, truth) == count / total  # to the last bit
    logits = torch.nn.functional.one_hot(predicted, 7).float()
    for score in classifier_scores("student", logits, truth, "abcdefg", "as it is"):
        assert score.value == (count / total if score.metric == "top1" else 1.0)
        assert score.per_class is None or score.per_class["a"] == count / total


@pytest.mark.parametrize("kept", [float, np.float32], ids=["counted", "float32"])
def test_the_page_the_tables_and_the_command_line_say_the_same(
    kept: type, tmp_path: Path, edgekit: Callable[..., tuple[int, str, str]]
) -> None:
    """The fault that was seen: 63.5 % and 63.4 % of one number on one page, one from a float32 and one from a float64."""
    value = float(kept(HALF[0] / HALF[1]))
    run = make_run(tmp_path / "digits")
    path = run / "evaluate" / "evaluation.json"
    result = Result.read(path)
    scores = [
        s.model_copy(update={"value": value, "samples": HALF[1], "interval": None}) for s in result.measurement.scores
    ]
    result.model_copy(update={"measurement": result.measurement.model_copy(update={"scores": scores})}).write(path)
    bundle = Bundle.open(run / "export")
    for variant in bundle.manifest.variants:
        if variant.accuracy is not None:
            variant.accuracy = Accuracy(top1=float(np.float64(HALF[0]) / HALF[1]), samples=HALF[1])
    write_manifest(bundle.path, bundle.manifest)

    facts = collect(run)
    cells = [cell.text for row in tables.stages(facts).rows for cell in row]
    assert cells.count("63.5\u00a0%") == len(scores)
    shown = {cell.text for row in tables.variants(facts).rows for cell in row if cell.text.startswith("63.")}
    assert shown == {"63.5\u00a0%"}
    code, _, err = edgekit("report", run)
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert "63.5" in page
    assert "63.4\u00a0%" not in page
    code, out, _ = edgekit("compare", path, path)
    assert code == 0
    assert "63.45%" in out


@pytest.mark.parametrize(("count", "total"), [HALF, (7, 9), (2, 3)])
def test_an_older_evaluation_of_the_same_encoder_keeps_its_few_shot_scores(
    tmp_path: Path, count: int, total: int
) -> None:
    run = make_run(tmp_path / "digits")
    path = run / "evaluate" / "evaluation.json"
    result = Result.read(path)
    knn = Score(
        model="encoder", metric="knn", value=count / total, samples=total, protocol="normalized, k = 5, T = 0.1"
    )
    older = knn.model_copy(
        update={"value": float(np.float32(knn.value)), "protocol": "normalized, k = 5, T = 0.1"}  # codespell:ignore
    )
    shots = Score(
        model="encoder", metric="centroid", value=0.5, samples=total, protocol="q", shots=1, interval=(0.4, 0.6)
    )
    measured = result.measurement.model_copy(update={"scores": [knn]})
    result.model_copy(update={"measurement": measured.model_copy(update={"scores": [older, shots]})}).write(path)
    assert with_earlier_few_shot(measured, path).scores == [knn, shots]
    for changed in ({"value": (count - 1) / total}, {"samples": total + 1}, {"protocol": "normalized, k = 6, T = 0.1"}):
        other = measured.model_copy(update={"scores": [knn.model_copy(update=changed)]})
        assert with_earlier_few_shot(other, path) == other
