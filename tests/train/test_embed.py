"""Neighbors and anomaly scores against naive versions, the map and the clusters, and what the Parquet table holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgekit.train.analysis.embed import _drawn
from edgekit.train.analysis.feature_table import printable
from edgekit.train.analysis.neighbors import distances, nearest
from edgekit.train.analysis.projection import cluster, project


def naive_nearest(bank: np.ndarray, queries: np.ndarray, k: int, but: dict[int, list[int]]) -> list[list[int]]:
    found = []
    for q, query in enumerate(queries):
        cosines = {
            i: float(row @ query / np.linalg.norm(row) / np.linalg.norm(query))
            for i, row in enumerate(bank)
            if i not in but.get(q, [])
        }
        found.append(sorted(cosines, key=lambda i: -cosines[i])[:k])
    return found


@pytest.mark.parametrize("count", [7, 501])  # below and beyond one block
def test_neighbors_equal_the_naive_version(count: int) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(40, 6)), rng.normal(size=(count, 6))
    but = {0: [3], count - 1: [1, 2, 5]}
    cosines, rows = nearest(torch.from_numpy(bank), torch.from_numpy(queries), 5, but)
    assert rows.tolist() == naive_nearest(bank, queries, 5, but)
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_the_anomaly_score_is_the_distance_to_the_kth_neighbor_itself_left_out() -> None:
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    cosines, _ = nearest(features, features, 4, {i: [i] for i in range(30)})
    unit = F.normalize(features, dim=1).numpy()
    for i in range(30):
        others = sorted(np.linalg.norm(unit[i] - unit[j]) for j in range(30) if j != i)
        assert distances(cosines[i, -1:])[0] == pytest.approx(others[3], abs=1e-3)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_distances_are_between_0_and_2_and_fall_with_the_cosine(cosines: list[float]) -> None:
    found = distances(np.array(sorted(cosines), dtype=np.float32))
    assert ((found >= 0) & (found <= 2)).all()
    assert (np.diff(found) <= 0).all()


def blobs(count: int, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """l2-normalized features of three groups that no eye would confuse."""
    rng = np.random.default_rng(0)
    groups = np.arange(count) % 3
    features = rng.normal(size=(3, width))[groups] + 0.05 * rng.normal(size=(count, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), groups


def test_the_map_keeps_groups_together() -> None:
    features, groups = blobs(60)
    found = project(features, seed=0)
    assert found.positions.shape == (60, 2)
    assert found.positions.dtype == np.float32
    assert "t-SNE of the first 20 principal components" in found.method
    assert "seed 0" in found.method
    apart = np.linalg.norm(found.positions[:, None] - found.positions[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (groups[apart.argmin(1)] == groups).all()


@pytest.mark.parametrize("count", [2, 3, 9])
def test_few_images_are_laid_out_by_principal_components(count: int) -> None:
    found = project(blobs(count)[0], seed=0)
    assert found.positions.shape == (count, 2)
    assert np.isfinite(found.positions).all()
    assert "principal components" in found.method
    assert "t-SNE" not in found.method


def test_images_that_are_all_the_same_are_one_spot() -> None:
    found = project(np.full((12, 8), 8**-0.5, dtype=np.float32), seed=0)
    assert np.isfinite(found.positions).all()
    assert cluster(np.full((12, 8), 8**-0.5, dtype=np.float32), 4, seed=0).tolist() == [0] * 12


def test_clusters_are_the_groups_the_largest_first() -> None:
    features, groups = blobs(60)
    keep = np.flatnonzero((groups != 1) | (np.arange(60) % 2 == 0))  # group 1 is smaller now
    found = cluster(features[keep], 3, seed=0)
    assert {(g, c) for g, c in zip(groups[keep], found, strict=True)}.__len__() == 3
    assert (np.diff(np.bincount(found)) <= 0).all()
    assert set(groups[keep][found == 2]) == {1}


@settings(max_examples=50)
@given(count=st.integers(2, 60), points=st.integers(2, 40), outliers=st.integers(0, 50), seed=st.integers(0, 3))
def test_the_map_shows_every_outlier_and_no_image_twice(count: int, points: int, outliers: int, seed: int) -> None:
    anomaly = np.random.default_rng(seed).permutation(count).astype(np.float32)
    drawn = _drawn(anomaly, points, outliers, seed)
    assert len(drawn) == min(count, points) == len(set(drawn.tolist()))
    assert (np.diff(drawn) > 0).all()
    worst = np.argsort(-anomaly)[: min(outliers, points)]
    assert set(worst.tolist()) <= set(drawn.tolist())


def test_names_that_are_no_unicode_can_be_printed() -> None:
    name = b"caf\xe9/\xf0\x9f\x90\x88.png".decode("utf-8", "surrogateescape")  # codespell:ignore
    assert printable(name) == "caf\\xe9/🐈.png"  # codespell:ignore
    assert printable("plain.png") == "plain.png"
