"""Draws of images with several labels: iterative stratification, N of each class, and the splits that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgekit.data.splits import Splits, load_splits, write_splits
from edgekit.data.stratify import each_class, halves, stratified
from edgekit.errors import DataError, RecipeError
from edgekit.recipe import DataConfig, LabelCount, parse
from tests.helpers.shapes import CLASSES, write_set

Labels = NDArray[np.int64]


@st.composite
def labels(draw: st.DrawFn) -> Labels:
    return draw(arrays(np.int64, (draw(st.integers(1, 60)), draw(st.integers(1, 6))), elements=st.integers(0, 1)))


def order_of(found: Labels, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(len(found)).tolist()


@given(labels(), st.integers(0, 100))
def test_halves_are_a_division_with_about_half_of_each_class(found: Labels, seed: int) -> None:
    order = order_of(found, seed)
    first, second = halves(order, found)
    assert sorted(first + second) == sorted(order)
    assert len(order) < 2 or (first and second)
    assert [i for i in order if i in set(first)] == first, "in the order"
    rarest = int(np.where(found.sum(0) > 0, found.sum(0), len(found) + 1).argmin())
    if found.any():  # which is divided first, freely
        assert abs(int(found[first, rarest].sum()) - int(found[second, rarest].sum())) <= 1


def test_halves_are_better_than_chance_for_every_class() -> None:
    generator = np.random.default_rng(0)
    found = (generator.random((400, 12)) < np.geomspace(0.01, 0.5, 12)).astype(np.int64)
    gaps, by_chance = [], []
    for seed in range(5):
        order = order_of(found, seed)
        first, second = halves(order, found)
        gaps.append(np.abs(found[first].sum(0) - found[second].sum(0)))
        by_chance.append(np.abs(found[order[:200]].sum(0) - found[order[200:]].sum(0)))
        assert abs(len(first) - len(second)) <= 4
    assert np.max(gaps) <= 4
    assert np.mean(gaps) < 0.3 * np.mean(by_chance)


@given(labels(), st.integers(0, 100), st.integers(0, 60), st.integers(0, 60))
def test_a_stratified_draw_has_every_class_and_contains_smaller_ones(
    found: Labels, seed: int, one: int, other: int
) -> None:
    order = order_of(found, seed)
    small, large = (min(size, len(order)) for size in sorted((one, other)))
    few, many = stratified(order, found, small), stratified(order, found, large)
    assert set(few) <= set(many)
    assert small <= len(few) <= small + found.shape[1]
    assert stratified(order, found, len(order)) == sorted(order)
    if small:
        assert (found[few].any(axis=0) == found.any(axis=0)).all()
        assert stratified(order, found, small) == few
    else:
        assert few == []


@given(labels(), st.integers(0, 100), st.integers(0, 8), st.integers(0, 8))
def test_a_budget_has_n_of_each_class_and_contains_smaller_ones(found: Labels, seed: int, one: int, other: int) -> None:
    order = order_of(found, seed)
    available, without = found.sum(axis=0), int((~found.any(axis=1)).sum())
    draws = []
    for n in sorted((one, other)):
        counts = np.minimum(available, n).tolist()
        drawn = each_class(order, found, counts, n)
        draws.append(set(drawn))
        assert (found[drawn].sum(axis=0) >= counts).all()
        assert int((~found[drawn].any(axis=1)).sum()) == min(n, without)
        assert len(drawn) <= sum(counts) + min(n, without), "an image counts for all its classes"
    assert draws[0] <= draws[1]


def test_a_frequent_class_draws_none_for_itself() -> None:
    found = np.zeros((40, 2), np.int64)
    found[:, 0] = 1
    found[:5, 1] = 1
    assert each_class(range(40), found, [3, 3], 3) == [0, 1, 2], (
        "the images of the rare class have the frequent one, too"
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("shapes"), 100)


def splits_of(file: Path, **data: Any) -> Splits:
    return load_splits(DataConfig(labeled=str(file), classes_per_image="any", image_size=16, **data))


def test_the_sets_are_disjoint_and_have_every_class(file: Path, tmp_path: Path) -> None:
    splits = splits_of(file, labels=0.25)
    assert splits.classes == CLASSES
    sets = [splits.labeled, splits.probe, splits.test]
    digests = [set(images.digests) for images in sets]
    assert not digests[0] & (digests[1] | digests[2])
    assert not digests[1] & digests[2]
    assert not set(splits.pool.digests) & (digests[1] | digests[2])
    for images in sets:
        assert images.labels is not None
        assert images.labels.shape == (len(images), 3)
        assert images.labels.any(axis=0).all()
    assert (len(splits.test), len(splits.probe), len(splits.labeled)) == (20, 10, 20)
    whole = np.concatenate([images.labels for images in sets])  # type: ignore[misc]
    for images in sets:
        assert images.labels is not None
        assert np.abs(images.labels.mean(0) - whole.mean(0)).max() < 0.15
    write_splits(splits, tmp_path)
    first = (tmp_path / "labels.csv").read_text().splitlines()
    assert first[0] == "file,class,digest"
    assert any("bar;" in line for line in first)
    again = splits_of(file, labels=0.25)
    assert again.labeled.digest == splits.labeled.digest
    assert splits_of(file, labels=0.25, label_seed=1).labeled.digest != splits.labeled.digest


def test_a_budget_of_n_for_each_class_and_larger_ones_contain_it(file: Path) -> None:
    few, more = splits_of(file, labels=4).labeled, splits_of(file, labels=8).labeled
    assert few.labels is not None
    assert (few.labels.sum(0) >= 4).all()
    assert int((~few.labels.any(axis=1)).sum()) == 4, "and as many without a class"
    assert set(few.digests) <= set(more.digests)
    whole = splits_of(file, labels=1.0)
    assert set(whole.labeled.digests) == set(whole.pool.digests)
    with pytest.raises(
        DataError, match=r"the class bar has \d+ training images outside the probe set, but the budget \(60\)"
    ):
        splits_of(file, labels=60)
    most = splits_of(file, labels=LabelCount(per_class=60, at_most=True)).labeled
    assert set(most.digests) <= set(whole.labeled.digests)


def test_listed_images_are_the_budget(file: Path, tmp_path: Path) -> None:
    names = splits_of(file, labels=4).labeled.names
    chosen = tmp_path / "chosen.csv"
    chosen.write_text("file\n" + "\n".join(names) + "\n")
    assert sorted(splits_of(file, labels=str(chosen)).labeled.names) == sorted(names)
    chosen.write_text(f"file\n{names[0]}\n")
    with pytest.raises(DataError, match="lists no image of"):
        splits_of(file, labels=str(chosen))


def test_a_test_set_of_its_own(file: Path) -> None:
    test = write_set(file.parent, 20, "columns", seed=5, file="test.csv")
    splits = splits_of(file, test=str(test), labels=0.5)
    assert len(splits.test) == 20
    assert splits.test.labels is not None
    assert splits.test.labels.shape == (20, 3)


def test_the_task_and_the_labels_belong_together() -> None:
    several = parse({"task": "multilabel", "data": {"labeled": "labels.csv"}})
    assert several.data.classes_per_image == "any"
    assert parse({"task": "classification", "data": {"labeled": "labels.csv"}}).data.classes_per_image == "one"
    for content, message in (
        ({"task": "multilabel"}, r"data\.labeled is digits, but task multilabel takes a CSV file"),
        ({"task": "multilabel", "data": {"labeled": None, "pool": "p", "labels": "l.csv"}}, r"write labeled: l\.csv"),
        ({"task": "multilabel", "data": {"labeled": "l.csv"}, "distill": {"loss": "dkd"}}, "distill.loss is dkd"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse(content)
