"""The parts of anomaly detectors against NumPy: levels, resampling matrices, and the heads of the three methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from edgekit.errors import RecipeError
from edgekit.models.anomaly.grids import HeatMap, PatchGrid, gaussian, interpolation, means, neighborhood
from edgekit.models.anomaly.heads import PaDiM, PatchCore, StudentTeacher
from edgekit.models.anomaly.levels import chosen_levels, feature_maps, levels_of
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.recipe import Anomaly, Architecture
from edgekit.train.detect.build import head_spec
from edgekit.train.detect.coreset import nearest_of
from edgekit.train.detect.gaussians import fit_gaussians


def encoder(name: str, size: int, **more: object) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(Architecture.model_validate({"name": name, **more}), size).eval()


def random_maps(generator: torch.Generator, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_the_levels_of_a_resnet_are_its_stages() -> None:
    found = levels_of(encoder("resnet10", 64, width=0.125, stem="imagenet"), 64)
    assert [(level.module, level.size) for level in found][-4:] == [
        ("layer1", (16, 16)), ("layer2", (8, 8)), ("layer3", (4, 4)), ("layer4", (2, 2)),
    ]  # fmt: skip
    bottlenecks = levels_of(
        encoder("resnet14", 32, width=0.125), 32
    )  # whose first 1 x 1 convolution has the finer resolution
    assert [level.module for level in bottlenecks] == ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    "name", ["torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_050", "torchvision:shufflenet_v2_x0_5"]
)
def test_the_levels_of_other_networks_halve_the_resolution(name: str) -> None:
    network = encoder(name, 64)
    found = levels_of(network, 64)
    assert [level.size for level in found][-4:] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    maps = feature_maps(network, [level.module for level in found], torch.zeros(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, level.channels, *level.size) for level in found]


def test_a_missing_level_is_refused_in_one_line() -> None:
    network = encoder("resnet10", 32, width=0.125)
    assert [level.module for level in chosen_levels(network, 32, [2, 3], "anomaly")] == ["layer2", "layer3"]
    with pytest.raises(RecipeError, match=r"anomaly.levels is \[9\], but the encoder has 4 levels"):
        chosen_levels(network, 32, [9], "pretrain.encoder")
    with pytest.raises(RecipeError, match="no feature maps of several resolutions"):
        chosen_levels(encoder("timm:vit_tiny_patch16_224", 32), 32, [2], "anomaly")


def test_small_images_have_fewer_of_the_default_levels() -> None:
    """Of 16 pixels a network with a strided stem has three levels; the default of padim and stfpm names four."""
    network = encoder("resnet10", 16, width=0.125, stem="strided")
    assert [v.size for v in levels_of(network, 16)] == [(8, 8), (4, 4), (2, 2)]
    for method in ("patchcore", "padim", "stfpm"):
        spec = head_spec(Anomaly(method=method), network, 16, "pretrain.encoder")
        assert [level.size for level in spec.levels] == [(8, 8), (4, 4)]
        with pytest.raises(RecipeError, match=r"^anomaly.levels is \[4, 3, 2\], but the encoder has 3 levels"):
            head_spec(Anomaly(method=method, levels=[4, 3, 2]), network, 16, "pretrain.encoder")


@given(st.integers(2, 9), st.integers(1, 4))
def test_interpolation_is_that_of_torch(size: int, factor: int) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, size, size))).double()
    expected = functional.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)
    matrix = torch.from_numpy(interpolation(size, size * factor))
    torch.testing.assert_close(matrix @ values @ matrix.T, expected)


def test_the_other_matrices_are_what_they_say() -> None:
    values = np.random.default_rng(0).normal(size=12)
    np.testing.assert_allclose(means(12, 4) @ values, values.reshape(4, 3).mean(1))
    padded = np.r_[0, values, 0]
    np.testing.assert_allclose(neighborhood(12) @ values, (padded[:-2] + padded[1:-1] + padded[2:]) / 3)
    kernel = np.exp(-(np.arange(-8, 9) ** 2) / (2 * 2.0**2))
    np.testing.assert_allclose(
        (gaussian(40, 2.0) @ np.r_[np.zeros(20), 1, np.zeros(19)])[12:29], kernel / kernel.sum(), atol=1e-12
    )
    for matrix in (interpolation(5, 9), means(9, 4), gaussian(9, 1.5)):
        np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_array_equal(gaussian(5, 0), np.eye(5))


def test_patches_are_averaged_over_neighbors_interpolated_and_joined() -> None:
    generator = torch.Generator().manual_seed(0)
    fine, coarse = random_maps(generator, (2, 3, 6, 6), (2, 5, 3, 3))
    found = PatchGrid([(6, 6), (3, 3)], (6, 6), aggregate=True)([fine, coarse])

    def mean(m: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(m, 3, 1, 1)

    larger = functional.interpolate(mean(coarse), (6, 6), mode="bilinear", align_corners=False)
    expected = torch.cat([mean(fine), larger], 1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def naive_patchcore(patches: np.ndarray, bank: np.ndarray, neighbors: int) -> tuple[float, np.ndarray]:
    """PatchCore's equations 6 and 7, patch by patch, in float64."""
    distances = np.array([[np.linalg.norm(p - m) for m in bank] for p in patches])
    nearest = distances.min(1)
    worst = int(nearest.argmax())
    closest = int(distances[worst].argmin())
    among = np.argsort([np.linalg.norm(bank[closest] - m) for m in bank], kind="stable")[:neighbors]
    powers = np.exp(distances[worst][among])
    weight = 1 - np.exp(distances[worst][closest]) / powers.sum() if neighbors > 1 else 1.0
    return float(weight * nearest[worst]), nearest


@pytest.mark.parametrize(("neighbors", "offset"), [(1, 0.0), (4, 0.0), (4, 1000.0)])
def test_patchcore_is_its_equations_also_far_from_zero(neighbors: int, offset: float) -> None:
    """The offset makes the squares a million times larger than the distances: without centering, float32 has none of their digits."""
    generator = torch.Generator().manual_seed(0)
    maps = random_maps(generator, (3, 4, 4, 4))
    bank = torch.randn(12, 4, generator=generator) + offset
    grid, heat = PatchGrid([(4, 4)], (4, 4), aggregate=False), HeatMap((4, 4), (8, 8), 0.0)
    head = PatchCore(grid, heat, bank, nearest_of(bank, neighbors))
    score, found = head([maps[0] + offset])
    patches = (maps[0] + offset).flatten(2).transpose(1, 2).double().numpy()
    for i in range(3):
        expected, nearest = naive_patchcore(patches[i], bank.double().numpy(), neighbors)
        assert float(score[i]) == pytest.approx(expected, rel=1e-3)
        large = interpolation(4, 8)
        np.testing.assert_allclose(found[i].numpy(), large @ nearest.reshape(4, 4) @ large.T, rtol=2e-3)


def test_a_patch_of_the_bank_is_at_distance_zero_up_to_a_hundredth_of_its_spread() -> None:
    bank = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    head = PatchCore(
        PatchGrid([(2, 2)], (2, 2), aggregate=False), HeatMap((2, 2), (2, 2), 0), bank, nearest_of(bank, 1)
    )
    score, _ = head([bank[:4].T.reshape(1, 8, 2, 2)])
    assert float(score[0]) == pytest.approx(0.01 * float(head.unit), rel=0.02)


def test_padim_is_the_mahalanobis_distance_of_each_place() -> None:
    generator = torch.Generator().manual_seed(0)
    training = torch.randn(30, 4, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 2
    mean, whitening = fit_gaussians(training, 0.01)
    grid, heat = PatchGrid([(2, 2)], (2, 2), aggregate=False), HeatMap((2, 2), (2, 2), 0.0)
    tested = torch.randn(5, 3, 2, 2, generator=generator)
    score, found = PaDiM(grid, heat, mean, whitening)([tested])
    every = training.double().numpy()
    epsilon = 0.01 * every.var(axis=0, ddof=1).mean()
    for place in range(4):
        inverse = np.linalg.inv(np.cov(every[:, place].T) + epsilon * np.eye(3))
        apart = tested.double().flatten(2)[:, :, place].numpy() - every[:, place].mean(0)
        expected = np.sqrt(np.einsum("ni,ij,nj->n", apart, inverse, apart))
        np.testing.assert_allclose(found.flatten(1)[:, place].numpy(), expected, rtol=1e-4)
    torch.testing.assert_close(score, found.amax((1, 2)))


def test_stfpm_is_the_product_of_its_levels_as_their_geometric_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 4, 4), (2, 6, 2, 2))
    taught, learned = random_maps(generator, *shapes), random_maps(generator, *shapes)
    heads = StudentTeacher([HeatMap(shape[2:], (8, 8), 0.0) for shape in shapes])  # type: ignore[arg-type]
    score, found = heads(taught, learned)
    product = torch.ones(2, 8, 8)
    for t, s in zip(taught, learned, strict=True):
        loss = (functional.normalize(t, dim=1) - functional.normalize(s, dim=1)).square().sum(1, keepdim=True) / 2
        product *= functional.interpolate(loss, (8, 8), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found, product.sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(score, found.amax((1, 2)))
    assert float(heads(taught, taught)[0].max()) == pytest.approx(0, abs=1e-3)
