"""A gallery against a dictionary of lists: nearest neighbors, adding and removing, in any order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import DataError
from edgekit.gallery import Gallery
from edgekit.gallery.content import arranged
from edgekit.gallery.record import GalleryRecord, Threshold
from edgekit.gallery.search import leave_one_out, nearest_of_each_class, unit

FEATURES = 4
_EMPTY = GalleryRecord(
    bundle="tiny", bundle_sha256="0" * 64, model="1" * 64, variant="onnx-fp32", variant_sha256="2" * 64, created="2026-01-01",
    edgekit="0", features=FEATURES, classes=[""], counts=[1], threshold=Threshold(),
)  # fmt: skip
# An image is a number: its embedding and its file's key follow from it, so that equal images are equal in every respect.
IMAGES = st.integers(0, 30)
NAMES = st.sampled_from(["ant", "bee", "cow", "Zoë", "a b"])
ADDITIONS = st.lists(st.tuples(NAMES, IMAGES), max_size=8)


def embedding(image: int) -> np.ndarray:
    return np.random.default_rng(image).standard_normal(FEATURES).astype(np.float32) * (1 + image)


def embeddings(images: list[int]) -> np.ndarray:
    return np.array([embedding(image) for image in images], np.float32).reshape(-1, FEATURES)


def gallery_of(pairs: list[tuple[str, int]]) -> Gallery:
    record, order = arranged(_EMPTY, np.array([name for name, _ in pairs], object))
    images = [pairs[i][1] for i in order]
    return Gallery(record, unit(embeddings(images)), np.array(images, np.uint64)).recalibrated()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """By its definition, number by number."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / (sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b)) ** 0.5


class Naive:
    """A dictionary: class -> images."""

    def __init__(self, pairs: list[tuple[str, int]]) -> None:
        self.held: dict[str, list[int]] = {}
        for name, image in pairs:
            self.held.setdefault(name, []).append(image)

    def conflict(self, pairs: list[tuple[str, int]]) -> bool:
        owner = {image: name for name, images in self.held.items() for image in images}
        return any(owner.setdefault(image, name) != name for name, image in pairs)

    def add(self, pairs: list[tuple[str, int]]) -> int:
        skipped = 0
        for name, image in pairs:
            images = self.held.setdefault(name, [])
            if image in images:
                skipped += 1
            else:
                images.append(image)
        return skipped

    def nearest(self, query: np.ndarray, neighbors: int) -> list[tuple[str, float]]:
        best = {
            name: float(np.mean(sorted(cosine(query, embedding(image)) for image in images)[-neighbors:]))
            for name, images in self.held.items()
        }
        return sorted(best.items(), key=lambda item: (-item[1], item[0]))


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), ADDITIONS), st.tuples(st.just("remove"), st.lists(NAMES, min_size=1, max_size=3))
        ),
        max_size=6,
    ),
    st.integers(100, 110),
)
def test_adding_and_removing_in_any_order_leaves_what_a_dictionary_holds(changes: list[Any], query: int) -> None:
    naive = Naive([("first", 99)])
    gallery = gallery_of([("first", 99)])
    for kind, what in changes:
        before = gallery
        if kind == "add":
            images = embeddings([image for _, image in what])
            keys = np.array([image for _, image in what], np.uint64)
            if naive.conflict(what):
                with pytest.raises(DataError, match="the same image is in two classes"):
                    gallery.added([name for name, _ in what], images, keys)
                continue
            gallery, skipped = gallery.added([name for name, _ in what], images, keys)
            assert skipped == naive.add(what)
        elif not set(what) <= naive.held.keys():
            with pytest.raises(DataError, match="the gallery has no class"):
                gallery.removed(what)
        else:
            for name in set(what):
                del naive.held[name]
            gallery = gallery.removed(what)
        assert len(before) == sum(before.record.counts), "the old gallery has changed"
    assert gallery.counts == {name: len(images) for name, images in sorted(naive.held.items())}
    assert [int(key) for key in gallery.keys] == [image for name in sorted(naive.held) for image in naive.held[name]]
    expected = naive.nearest(embedding(query), gallery.record.neighbors)
    (found,) = gallery.nearest(embedding(query)[None], top=len(expected) + 3)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-6)


@settings(max_examples=40)
@given(st.lists(st.tuples(NAMES, IMAGES), min_size=1, max_size=20, unique_by=lambda pair: pair[1]), st.integers(1, 6))
def test_the_nearest_of_many_queries_are_those_of_each(pairs: list[tuple[str, int]], top: int) -> None:
    gallery, naive = gallery_of(pairs), Naive(pairs)
    queries = embeddings([200, 201, 202])
    for found, query in zip(gallery.nearest(queries, top), queries, strict=True):
        expected = naive.nearest(query, gallery.record.neighbors)[:top]
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-6)


def test_of_equally_near_classes_the_first_by_name_comes_first() -> None:
    gallery = gallery_of([("b", 1), ("a", 2), ("c", 3)])
    same = Gallery(gallery.record, np.tile(unit(embedding(1)[None]), (3, 1)), gallery.keys)
    for top in (1, 2, 3):
        assert [name for name, _ in same.nearest(embedding(1)[None], top)[0]] == ["a", "b", "c"][:top]


def test_an_embedding_of_zeros_is_like_nothing() -> None:
    gallery = gallery_of([("a", 1), ("b", 2)])
    assert gallery.nearest(np.zeros((1, FEATURES), np.float32), 2) == [[("a", 0.0), ("b", 0.0)]]


@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, IMAGES), min_size=2, max_size=15, unique_by=lambda pair: pair[1]))
def test_leaving_one_out_is_a_gallery_without_it(pairs: list[tuple[str, int]]) -> None:
    gallery = gallery_of(pairs)
    rows = np.arange(len(gallery))
    left_out = leave_one_out(gallery.vectors, rows, gallery.vectors, gallery.starts, [1, 3])
    found = np.concatenate([block for _, block in left_out], axis=1)
    for row, image in enumerate(gallery.keys.tolist()):
        naive = Naive([pair for pair in pairs if pair[1] != image])
        for neighbors, block in zip((1, 3), found, strict=True):
            expected = dict(naive.nearest(embedding(image), neighbors))
            got = {name: float(value) for name, value in zip(gallery.classes, block[row], strict=True) if value > -2}
            assert got == pytest.approx(expected, abs=1e-6)


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_images_that_are_equally_near_count_each(classes: list[list[int]], neighbors: int, query: int) -> None:
    """Four directions 30 degrees apart: many images of a class have the same similarity."""
    directions = np.array([[math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)] for i in range(4)], np.float32)
    rows = directions[[image for images in classes for image in images]]
    starts = np.cumsum([0, *map(len, classes)])[:-1]
    ((_, found),) = nearest_of_each_class(directions[[query]], rows, starts, neighbors)
    expected = [np.mean(sorted(directions[images] @ directions[query])[-neighbors:]) for images in classes]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_removing_says_what_is_meant_and_never_leaves_nothing() -> None:
    gallery = gallery_of([("mug", 1), ("bowl", 2)])
    with pytest.raises(DataError, match=r"the gallery has no class mugg \(did you mean mug\?\)"):
        gallery.removed(["mugg"])
    with pytest.raises(DataError, match="no class would be left"):
        gallery.removed(["mug", "bowl"])
