"""How long stages train: `epochs: auto`, batches that leave no label out, and warm-up for any number of epochs."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import recipe as recipes
from edgekit.data.images import ImageSet
from edgekit.files import digest_of
from edgekit.recipe import Optimizer, settled, settled_stage, warmup_steps
from edgekit.recipe.bounds import BOUNDS
from edgekit.recipe.budget import auto_epochs, epoch_steps, even_batches
from edgekit.train.loop import loader
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.optim import warmup_cosine
from edgekit.train.records.inputs import settled_content

_stages = st.sampled_from(sorted(BOUNDS))


def numbered(count: int) -> ImageSet:
    names = [str(i) for i in range(count)]
    return ImageSet(np.zeros((count, 4, 4, 3), np.uint8), names, names, np.arange(count, dtype=np.int64) % 2)


@given(images=st.integers(2, 5000), batch=st.integers(2, 512), processes=st.integers(1, 4))
def test_even_batches_hold_every_image_and_never_one_alone(images: int, batch: int, processes: int) -> None:
    batch = max(2, batch // processes) * processes
    sizes = even_batches(images, batch, processes)
    own = math.ceil(images / processes)
    assert sum(sizes) == own
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch // processes + 1
    assert min(sizes) >= 2 or own == 1
    assert (
        max(sizes) <= batch // processes or batch // processes == 2
    )  # only two and a rest of one make a batch of three


@given(count=st.integers(2, 300), batch=st.integers(2, 64), seed=st.integers(0, 99))
def test_an_epoch_shows_each_label_once(count: int, batch: int, seed: int) -> None:
    batches = ShuffledImages(numbered(count), min(batch, count), seed, every=True)
    first, second = (
        [b["index"].tolist() for b in islice(batches.stream(start), batches.steps)] for start in (0, batches.steps)
    )
    for epoch in (first, second):
        assert sorted(i for rows in epoch for i in rows) == list(range(count))
    middle = batches.steps // 2  # a resumed training sees what an uninterrupted one does
    assert [b["index"].tolist() for b in islice(batches.stream(middle), batches.steps - middle)] == first[middle:]


@pytest.mark.parametrize(("count", "batch"), [(20, 4), (21, 4), (23, 8), (9, 64), (101, 30)])
def test_processes_share_an_epoch_and_differ_by_one_view_of_a_few(
    count: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = 2
    monkeypatch.setattr(loader, "world_size", lambda: world)
    seen: Counter[int] = Counter()
    sizes = []
    for rank in range(world):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        whole = min(batch, count) // world * world
        batches = ShuffledImages(numbered(count), whole, 0, every=True)
        shares = list(islice(batches.rows(0), batches.steps))
        sizes.append([len(rows) for rows in shares])
        seen.update(int(i) for rows in shares for i in rows)
    assert sizes[0] == sizes[1]  # a process with fewer batches would leave the others waiting
    assert set(seen) == set(range(count))
    assert max(seen.values()) <= 2
    assert sum(seen.values()) - count < world


def test_batches_of_pretraining_stay_whole() -> None:
    batches = ShuffledImages(numbered(21), 4, 0)
    assert batches.steps == 5
    assert {len(rows) for rows in islice(batches.rows(0), 12)} == {4}


@given(stage=_stages, images=st.integers(2, 200_000), batch=st.integers(2, 512))
def test_auto_keeps_to_its_bounds(stage: str, images: int, batch: int) -> None:
    bounds, epochs = BOUNDS[stage], auto_epochs(stage, images, batch)
    steps = epochs * epoch_steps(stage, images, batch)
    assert epochs >= bounds.low
    assert bounds.high is None or epochs <= bounds.high
    assert steps >= bounds.steps or epochs == bounds.high
    fewer = (epochs - 1) * epoch_steps(stage, images, batch)
    assert fewer < bounds.steps or epochs == bounds.low  # and not one epoch more than that


def test_the_guide_and_the_fields_say_the_bounds_that_count() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    rows = {cells[1].strip(" `"): cells[2:4] for line in guide.splitlines() if len(cells := line.split("|")) == 5}
    for stage, bounds in BOUNDS.items():
        assert rows[stage][0].split() == [f"{bounds.steps:,}", "steps"]
        epochs = f"{bounds.low} to {bounds.high}" if bounds.high else f"{bounds.low} or more"
        assert rows[stage][1].strip() == epochs
        fields = type(getattr(recipes.parse({}), stage)).model_fields
        assert f"{bounds.steps:,}" in str(fields["steps"].description)
        assert f"at least {bounds.low}" in str(fields["epochs"].description)


@given(stage=_stages, images=st.integers(2, 200_000), batch=st.integers(2, 512), steps=st.integers(1, 10**6))
def test_steps_of_the_recipe_are_the_only_bound(stage: str, images: int, batch: int, steps: int) -> None:
    each = epoch_steps(stage, images, batch)
    assert steps <= auto_epochs(stage, images, batch, steps) * each < steps + each


def test_a_budget_of_few_labels_has_as_many_steps_in_a_recipe_for_many() -> None:
    written_for_all = recipes.parse({"finetune": {"batch_size": 256}, "supervised": {"batch_size": 256}})
    for labels in (10, 100, 1000, 10_000):
        found = settled(written_for_all, 50_000, labels)
        for stage in ("finetune", "supervised"):
            config = getattr(found, stage)
            assert config.epochs * epoch_steps(stage, labels, config.batch_size) >= BOUNDS[stage].steps


@given(
    epochs=st.integers(1, 1000) | st.just("auto"),
    warmup=st.floats(0, 0.9),
    images=st.integers(2, 10_000),
    stage=_stages,
)
def test_any_number_of_epochs_goes_with_any_share_of_warm_up(
    epochs: int | str, warmup: float, images: int, stage: str
) -> None:
    recipe = recipes.parse({stage: {"epochs": epochs, "optimizer": {"warmup": warmup}}})
    config = getattr(settled(recipe, images, images), stage)
    each = epoch_steps(stage, images, config.batch_size)
    total = config.epochs * each
    steps = warmup_steps(config.optimizer, each, total)
    assert 0 <= steps < total or total == 1
    assert abs(steps - warmup * total) <= 1
    rates = [warmup_cosine(step, total, steps) for step in {0, steps, total - 1}]
    assert all(0 < rate <= 1 for rate in rates)


def test_warm_up_in_epochs_means_what_it_did() -> None:
    optimizer = Optimizer(warmup=0.5, warmup_epochs=2.5)  # a default's share does not count beside it
    assert warmup_steps(optimizer, each=7, total=70) == round(2.5 * 7)
    recipe = recipes.parse({"pretrain": {"epochs": 20, "optimizer": {"warmup_epochs": 5}}})
    config = settled(recipe, 1000, 100).pretrain
    assert (config.epochs, config.optimizer.warmup_epochs) == (20, 5.0)


def test_a_warm_up_longer_than_what_auto_chooses_leaves_half_of_the_steps() -> None:
    recipe = recipes.parse({"finetune": {"steps": 3, "optimizer": {"warmup_epochs": 50}}})
    config = settled_stage("finetune", recipe.finetune, 100)
    assert config.epochs == 3
    assert warmup_steps(config.optimizer, 1, 3) == 1


def test_a_settled_recipe_stays_as_it_is() -> None:
    once = settled(recipes.parse({}), 3000, 100)
    assert settled(once, 7, 7) == once


def test_a_stage_s_record_is_what_it_was_before_there_were_shares_and_auto() -> None:
    """Complete stages of older runs stay complete: the digest holds the numbers that a stage trains by, and no new key."""
    older = {
        "name": "lars", "lr": 0.3, "scale_lr": True, "weight_decay": 1e-6, "momentum": 0.9, "warmup_epochs": 10.0,
    }  # fmt: skip
    stated = recipes.parse({"pretrain": {"epochs": 100, "optimizer": {"warmup_epochs": 10}}})
    by_default = recipes.parse({"pretrain": {"epochs": 100}})
    contents = [settled_content(settled(recipe, 5000, 100).pretrain) for recipe in (stated, by_default)]
    assert contents[0]["optimizer"] == older
    assert digest_of(contents[0]) == digest_of(contents[1])
    assert "steps" not in contents[0]
    assert contents[0]["epochs"] == 100
