"""The objectives of `pretrain.method: distill` against naive NumPy versions of their papers' equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.errors import RecipeError
from edgekit.models.encoders import build_encoder
from edgekit.recipe import Architecture
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.train.pretrain import OBJECTIVES, build_method
from edgekit.train.pretrain.compress import CompRess
from edgekit.train.pretrain.distilled import Queue
from edgekit.train.pretrain.maps import LastMap, Maps, maps_distance
from edgekit.train.pretrain.method import Views
from edgekit.train.pretrain.regression import cosine_distance, squared_distance
from edgekit.train.pretrain.seed import SEED

ENCODER = {"name": "resnet10", "width": 0.125}
Array = NDArray[np.float64]


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(vectors: Array) -> Array:
    return vectors / np.sqrt((vectors**2).sum(1, keepdims=True))


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def seed_naive(student: Array, teacher: Array, queue: list[Array], tau: float, tau_teacher: float) -> float:
    """SEED, equations 3 to 5, one image at a time: the queue and the teacher's own feature."""
    total = 0.0
    for z_s, z_t in zip(unit(student), unit(teacher), strict=True):
        places = [*queue, z_t]
        p_t = softmax(np.array([z_t @ d / tau_teacher for d in places]))
        p_s = softmax(np.array([z_s @ d / tau for d in places]))
        total -= float(sum(t * np.log(s) for t, s in zip(p_t, p_s, strict=True)))
    return total / len(student)


def compress_naive(
    student: Array, teacher: Array, students: list[Array], teachers: list[Array], tau: float, tau_teacher: float
) -> float:
    """CompRess-2q: the KL divergence over the anchors, one image at a time."""
    total = 0.0
    for z_s, z_t in zip(unit(student), unit(teacher), strict=True):
        p_t = softmax(np.array([z_t @ d / tau_teacher for d in teachers]))
        p_s = softmax(np.array([z_s @ d / tau for d in students]))
        total += float(sum(t * np.log(t / s) for t, s in zip(p_t, p_s, strict=True) if t > 0))
    return total / len(student)


def method(objective: str, **keys: object) -> torch.nn.Module:
    config = DistillConfig.model_validate(
        {"objective": objective, "encoder": ENCODER, "batch_size": 4, "queue": 10, **keys}
    )
    return build_method(config, 16, 100, teacher_width=6)


def test_cosine_and_mse_are_those_of_a_loop() -> None:
    student, teacher = rows(5, 7, 0), rows(5, 7, 1)
    s, t = student.numpy(), teacher.numpy()
    cosines = [1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(s, t, strict=True)]
    assert float(cosine_distance(student, teacher)) == pytest.approx(np.mean(cosines), rel=1e-12)
    assert float(squared_distance(student, teacher)) == pytest.approx(np.mean((s - t) ** 2), rel=1e-12)
    half_square = np.mean(((unit(s) - unit(t)) ** 2).sum(1)) / 2
    assert float(cosine_distance(student, teacher)) == pytest.approx(half_square, rel=1e-12)


def test_seed_is_the_papers_over_several_steps_of_a_queue_that_fills_and_turns_over() -> None:
    seed = method("seed", temperature=0.2, teacher_temperature=0.05)
    assert isinstance(seed, SEED)
    seed.double()
    queue: list[Array] = []
    for step in range(5):
        student, teacher = rows(4, 6, 10 + step), rows(4, 6, 20 + step)
        expected = seed_naive(student.numpy(), teacher.numpy(), queue, 0.2, 0.05)
        assert float(seed.objective(student, teacher)) == pytest.approx(expected, rel=1e-9), step
        queue = [*queue, *unit(teacher.numpy())][-10:]


def test_compress_is_the_papers_over_several_steps_of_its_two_queues() -> None:
    compress = method("compress", temperature=0.1, teacher_temperature=0.04)
    assert isinstance(compress, CompRess)
    compress.double()
    students: list[Array] = []
    teachers: list[Array] = []
    for step in range(5):
        student, teacher = rows(4, 6, 30 + step), rows(4, 6, 40 + step)
        loss = float(compress.objective(student, teacher))
        expected = compress_naive(student.numpy(), teacher.numpy(), students, teachers, 0.1, 0.04) if step else 0.0
        assert loss == pytest.approx(expected, rel=1e-9, abs=1e-12), step
        students = [*students, *unit(student.numpy())][-10:]
        teachers = [*teachers, *unit(teacher.numpy())][-10:]


def test_the_temperatures_are_those_of_the_objectives_paper_unless_given() -> None:
    assert DistillConfig(objective="seed").temperatures == (0.2, 0.01)
    assert DistillConfig(objective="compress").temperatures == (0.04, 0.04)
    assert DistillConfig(objective="compress", temperature=0.3).temperatures == (0.3, 0.04)


def maps_naive(student: Array, teacher: Array) -> float:
    """1 - cosine at each of the student's places, where the teacher's features are averaged over the place's area."""
    count, _, height, width = student.shape
    their_height, their_width = teacher.shape[2:]
    total = 0.0
    for n in range(count):
        for i in range(height):
            for j in range(width):
                rows = range(i * their_height // height, -(-(i + 1) * their_height // height))
                columns = range(j * their_width // width, -(-(j + 1) * their_width // width))
                area = [teacher[n, :, a, b] for a in rows for b in columns]
                s, t = student[n, :, i, j], sum(area) / len(area)
                total += 1 - s @ t / np.sqrt((s @ s) * (t @ t))
    return total / (count * height * width)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 6), (5, 7), (2, 3)])
def test_maps_are_compared_place_by_place_whatever_the_grids(height: int, width: int) -> None:
    student, teacher = rows(3 * 5, 16, 0).view(3, 5, 4, 4), rows(3 * 5, height * width, 1).view(3, 5, height, width)
    expected = maps_naive(student.numpy(), teacher.numpy())
    assert float(maps_distance(student, teacher)) == pytest.approx(expected, rel=1e-9)


def test_the_head_is_a_convolution_on_the_students_last_map() -> None:
    torch.manual_seed(0)
    maps = method("maps")
    assert isinstance(maps, Maps)
    maps.eval()
    images, targets = torch.randn(4, 3, 16, 16), torch.randn(4, 6, 3, 3, requires_grad=True)
    loss = maps(Views([images], torch.arange(4), torch.Generator(), targets))
    network = maps.model.encoder.network
    with torch.no_grad():
        layers = [
            network.conv1,
            network.bn1,
            network.relu,
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        ]
        last = nn.Sequential(*layers)(images)
        [head] = maps.model.head.layers
        projected = nn.functional.conv2d(last, head.weight[:, :, None, None])
    assert last.shape[2:] == (2, 2)
    expected = maps_naive(projected.double().numpy(), targets.detach().double().numpy())
    assert float(loss.value) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(loss.projections, maps.model.head(loss.features))  # a linear head commutes with the mean
    loss.value.backward()
    assert targets.grad is None
    assert float(network.conv1.weight.grad.abs().sum()) > 0


def test_the_patches_of_a_vit_are_its_map_and_a_network_without_one_is_refused() -> None:
    vit = build_encoder(Architecture(name="timm:vit_tiny_patch16_224", patch_size=8), 32).eval()
    last = LastMap(vit, vit.feature_dim, 32, "x")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        vit(images)
        found = last.take()
        tokens = vit.network.forward_features(images)
    assert found.shape == (2, vit.feature_dim, 4, 4)
    torch.testing.assert_close(found[:, :, 1, 2], tokens[:, 1 + 4 + 2])
    small = build_encoder(Architecture(name="resnet10", width=0.125, stem="strided"), 16)
    with pytest.raises(RecipeError, match=r"^x has no map of its 64 features on images of 16 px"):
        LastMap(small, small.feature_dim, 16, "x")


@pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - {"maps"}))
def test_the_gradient_reaches_the_student_and_neither_the_teacher_nor_the_queue(objective: str) -> None:
    torch.manual_seed(0)
    built = method(objective)
    for _ in range(2):  # a queue is empty before the first step
        images, targets = torch.randn(4, 3, 16, 16), torch.randn(4, 6, requires_grad=True)
        loss = built(Views([images], torch.arange(4), torch.Generator(), targets))
        loss.value.backward()
        assert targets.grad is None
    first = built.model.encoder.network.conv1.weight.grad
    assert first is not None
    assert float(first.abs().sum()) > 0
    assert all(not buffer.requires_grad for buffer in built.buffers())


def test_a_queue_keeps_the_latest_features_and_counts_empty_places_as_infinitely_far() -> None:
    queue = Queue(3, 2)
    queue.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    near = queue.similarities(torch.tensor([[1.0, 1.0]]))
    assert near[0, :2].tolist() == [1.0, 1.0]
    assert near[0, 2] < -1e8
    queue.add(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    assert sorted(queue.features[:, 0].tolist()) == [0.0, 3.0, 4.0], "the oldest is replaced first"
    assert int(queue.count) == 4
