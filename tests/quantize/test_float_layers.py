"""The search for layers that stay in float: blocks first, stopped when its time is up, and the result of a stopped search."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle import Bundle
from edgekit.quantization import Quantization, SearchRecord
from edgekit.quantize.blocks import FEW, blocks, name_of
from edgekit.quantize.budget import Budget, cut_short
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.mixed_precision import Search
from edgekit.quantize.sensitivity import Exclude, fewest, max_trials
from tests.helpers import exported


class Clock:
    """A clock that each step advances, so that no test depends on the machine's speed."""

    def __init__(self, each: float = 0.0) -> None:
        self.now, self.each = 0.0, each

    def __call__(self) -> float:
        self.now += self.each
        return self.now


VIT = [
    "patch_embed.proj",
    *(f"blocks.{i}.{part}" for i in range(12) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
]


def test_a_transformers_blocks_are_its_blocks() -> None:
    found = blocks(VIT)
    assert [name_of(block) for block in found] == ["patch_embed.proj", *(f"blocks.{i}" for i in range(12))]
    assert blocks([f"/{name.replace('.', '/')}/MatMul" for name in VIT])[1] == tuple(
        f"/blocks/0/{part}/MatMul" for part in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
    )
    assert blocks(VIT[:FEW]) == [(name,) for name in VIT[:FEW]]


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "1", "2", "conv"]), min_size=1, max_size=4).map(".".join),
        unique=True,
        max_size=120,
    )
)
def test_every_layer_is_in_one_block_whatever_the_names(names: list[str]) -> None:
    found = blocks(names)
    assert [name for block in found for name in block] == names
    assert max((len(block) for block in found), default=1) <= (
        2 * math.ceil(math.sqrt(len(names))) if len(names) > FEW else 1
    )
    numbered = blocks([f"Conv_{i}" for i in range(len(names))])
    assert len(numbered) <= max(FEW, 2 * math.ceil(math.sqrt(len(names))))


def planted(needed: set[str], clock: Clock | None = None) -> tuple[Search, list[tuple[str, ...]], list[Exclude]]:
    """A search among ViT-tiny's layers, some of which must stay in float; each step takes one second of the clock."""
    tried: list[tuple[str, ...]] = []
    measured: list[Exclude] = []
    clock = clock or Clock()

    def measure(exclude: Exclude) -> Fidelity:
        clock.now += 1
        measured.append(exclude)
        return Fidelity(0.5, 10.0 + len(needed & set(exclude)) + 0.01 * len(exclude), 256)

    def passes(names: tuple[str, ...]) -> bool:
        clock.now += 1
        tried.append(names)
        return needed <= set(names)

    layers = {name: ("MatMul", (name,)) for name in VIT}
    return Search("openvino INT8", layers, measure, passes, Budget(20, 10, clock)), tried, measured


@pytest.mark.parametrize(
    "needed", [{"blocks.3.mlp.fc2"}, {"patch_embed.proj"}, {"blocks.0.attn.qkv", "blocks.11.mlp.fc1"}, {"blocks.5.mlp.fc1", "blocks.5.mlp.fc2"}]
)  # fmt: skip
def test_blocks_first_then_the_layers_in_them(needed: set[str]) -> None:
    search, tried, measured = planted(needed)
    search.budget = Budget()
    found = search.run()
    assert found.chosen is not None
    assert set(found.chosen) == needed
    assert [block.layer for block in found.blocks] != []
    assert len(measured) <= 1 + 13 + 8  # not one for each of 49 layers
    assert len(tried) <= max_trials(13) + max_trials(8)
    assert len(set(tried)) == len(tried)  # nothing is made twice


@pytest.mark.parametrize("seconds", [0, 1, 3, 8, 14, 16, 18, 20, 25])
def test_a_search_whose_time_is_up_delivers_what_passed(seconds: float) -> None:
    needed = {"blocks.3.mlp.fc2", "blocks.3.attn.qkv"}
    clock = Clock()
    search, tried, measured = planted(needed, clock)
    search.budget = Budget(seconds, 10, clock)
    found = search.run()
    assert clock.now <= seconds + 2  # the first measurement, and the step that it was at
    assert search.budget.cut == (len(measured) + len(tried) < 1 + 13 + 1 + 4 + 7 or search.budget.cut)
    if found.chosen is None:
        assert not any(needed <= set(names) for names in tried)
    else:
        assert needed <= set(found.chosen)
        assert len(found.chosen) == min(len(names) for names in tried if needed <= set(names))


@pytest.mark.parametrize("cut_after", range(12))
def test_the_fewest_so_far_passed(cut_after: int) -> None:
    order, needed = [f"layer {i}" for i in range(7)], {"layer 1", "layer 4"}
    trials: list[tuple[str, ...]] = []

    def passes(names: tuple[str, ...]) -> bool:
        trials.append(names)
        return needed <= set(names)

    found = fewest(order, passes, lambda: len(trials) >= cut_after)
    assert len(trials) <= cut_after
    passed = [names for names in trials if needed <= set(names)]
    assert found == (min(passed, key=len) if passed else None)


def test_a_budget_is_its_clocks() -> None:
    clock = Clock()
    budget = Budget(60, 1, clock)
    half = budget.share(0.5)
    assert not budget.over()
    clock.now = 30
    assert half()
    assert not budget.over()
    assert str(budget) == "0:30 of 1:00 left"
    clock.now = 61
    assert budget.over()
    assert budget.describe() == SearchRecord(minutes=1, limit_seconds=60, seconds=61, cut=True)
    assert not Budget().over()
    assert not str(Budget())
    for search, minutes, again in (
        ({"minutes": 10, "cut": True}, 10, False),
        ({"minutes": 10, "cut": True}, 11, True),
        ({"minutes": 10, "cut": False}, 11, False),
        (None, 11, False),
    ):
        assert cut_short(Quantization.model_validate({"search": search}), minutes) is again
    assert not cut_short(None, 1)


def test_a_cut_search_goes_on_with_more_time_and_not_without(tmp_path: Path) -> None:
    def export(minutes: float) -> Bundle:
        return exported.export(tmp_path / "export", targets=["onnx"], precisions=["int8"], search_minutes=minutes)

    def search(bundle: Bundle) -> SearchRecord:
        found = exported.quantization(bundle).search
        assert found is not None
        return found

    first = export(0)
    assert search(first).cut  # there are three kinds of ranges, and no time for the second
    assert len(exported.quantization(first).tried) == 1
    assert "ran out of time (0 minutes for all INT8 variants, --search-minutes)" in first.variant("onnx-int8").note
    assert export(0).manifest == first.manifest  # nothing to do
    second = export(1e6)
    assert not search(second).cut
    assert len(exported.quantization(second).tried) >= 3
    assert "ran out of time" not in second.variant("onnx-int8").note
    assert export(2e6).manifest == second.manifest  # it was not cut: more time would change nothing
    assert export(0).manifest == second.manifest
