"""Budgets: read as they are written, in any unit, and refused in one line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import EdgekitError
from edgekit.search.budget import UNITS, Limit, broken, excess, parse_budget, parse_budgets

LIMITS = st.builds(
    Limit, st.sampled_from(sorted(UNITS)), st.floats(1e-9, 1e15, allow_nan=False), inclusive=st.booleans()
)


@given(LIMITS)
def test_a_limit_is_read_back_as_it_is_written(limit: Limit) -> None:
    assert parse_budget(str(limit)) == limit


@pytest.mark.parametrize(
    ("text", "metric", "most"),
    [
        ("p50 < 5 ms", "p50", 5.0),
        ("p50<5ms", "p50", 5.0),
        (" p90  <  500 us ", "p90", 0.5),
        ("p99 < 1e2 µs", "p99", 0.1),
        ("p95 < 0.25 s", "p95", 250.0),
        ("size < 2 MB", "size", 2e6),
        ("size < 200 KB", "size", 2e5),
        ("size < 200 kB", "size", 2e5),
        ("size < 1 MiB", "size", 2**20),
        ("energy < 10 mJ", "energy", 10.0),
        ("energy < 0.5 J", "energy", 500.0),
    ],
)
def test_units(text: str, metric: str, most: float) -> None:
    limit = parse_budget(text)
    assert limit.metric == metric
    assert math.isclose(limit.most, most)
    assert not limit.inclusive


def test_the_limit_itself_is_outside_unless_it_is_meant() -> None:
    assert not parse_budget("p50 < 5 ms").allows(5.0)
    assert parse_budget("p50 <= 5 ms").allows(5.0)
    assert parse_budget("p50 ≤ 5 ms").allows(5.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("p50", "not of the form METRIC < NUMBER UNIT"),
        ("p50 < 5", "not of the form"),
        ("p50 > 5 ms", "not of the form"),
        ("p50 < five ms", "not of the form"),
        ("p50 < -5 ms", "not of the form"),
        ("p5 < 5 ms", "unknown metric p5 (did you mean p95 or p50?)"),
        ("accuracy < 5 ms", "accepted: p50"),
        ("p50 < 5 MB", "MB is not a unit of p50 (accepted: ms, us, ns, s)"),
        ("size < 2 mb", "did you mean MB?"),
        ("energy < 2 mj", "did you mean mJ?"),
        ("p50 < 0 ms", "greater than 0"),
        ("p50 < 1e999 ms", "finite"),
        ("p50 < 1.2.3 ms", "1.2.3 is not a number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, told: str) -> None:
    with pytest.raises(EdgekitError) as error:
        parse_budget(text)
    assert f"--budget {text}" in str(error.value)
    assert told in str(error.value)


def test_none_and_two_of_one_kind_are_refused() -> None:
    with pytest.raises(EdgekitError, match="no budget"):
        parse_budgets([])
    with pytest.raises(EdgekitError, match="p50 is limited twice"):
        parse_budgets(["p50 < 5 ms", "size < 1 MB", "p50 < 4 ms"])


def test_the_broken_limits_are_named_with_their_numbers() -> None:
    limits = parse_budgets(["p50 < 5 ms", "size < 2 MB", "energy < 10 mJ"])
    assert broken(limits, {"p50": 4.0, "size": 1e6, "energy": 9.0}) == []
    assert broken(limits, {"p50": 6.1234, "size": 3e6, "energy": None}) == [
        "p50 6.12 ms, limit 5 ms",
        "size 3 MB, limit 2 MB",
        "energy was not measured",
    ]
    assert broken(parse_budgets(["p50 < 1000 s"]), {"p50": 1.5e6}) == ["p50 1500 s, limit 1000 s"]
    assert excess(limits[:2], {"p50": 6.0, "size": 3e6}) == 1.5
    assert excess(limits, {"p50": 1.0, "size": 1.0}) == math.inf
