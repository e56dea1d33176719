"""Distillation: losses against naive NumPy versions that can be checked by eye, teachers of every kind, and the averaged student."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.errors import EdgekitError, RecipeError
from edgekit.models.classifier import Classifier
from edgekit.recipe import Architecture, Augmentation, Data, Distill, Hardware, Optimizer, TeacherSource
from edgekit.run import Run
from edgekit.train.distillation import DistillTask, decoupled, ensemble, regression, with_labels
from edgekit.train.engine import Interrupted, fit
from edgekit.train.loader import ShuffledImages
from edgekit.train.losses import distillation
from edgekit.train.tasks import Batch, Draws
from edgekit.train.teachers import Teacher, load_teachers

Array = np.ndarray
CLASSES = ["ant", "bee", "cat"]
SIZE = 16
TINY = Architecture(name="resnet10", width=0.125, stem="strided")


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


def naive_decoupled(student: Array, teacher: Array, target: Array, t: float, alpha: float, beta: float) -> float:
    """Zhao et al. 2022, equations 5 to 7, term by term."""
    total = 0.0
    for s, h, y in zip(student, teacher, target, strict=True):
        q, p = softmax(s / t), softmax(h / t)
        tckd = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        nckd = 0.0
        for i in range(len(p)):
            if i != y:
                p_hat, q_hat = p[i] / (1 - p[y]), q[i] / (1 - q[y])
                nckd += p_hat * np.log(p_hat / q_hat)
        total += alpha * tckd + beta * nckd
    return t**2 * total / len(student)


def naive_regression(student: Array, teacher: Array) -> float:
    n, d = student.shape
    return sum((student[i, j] - teacher[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)


def naive_kd_of_ensemble(student: Array, teachers: list[Array], t: float) -> float:
    total = 0.0
    for i, s in enumerate(student):
        p = np.mean([softmax(teacher[i] / t) for teacher in teachers], axis=0)
        total -= float((p * np.log(softmax(s / t))).sum())
    return t**2 * total / len(student)


def slopes(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """The gradient by central differences."""
    gradient = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


def agree(ours: Callable[[torch.Tensor], torch.Tensor], naive: Callable[[Array], float], at: Array) -> None:
    """Value and gradient of a loss and of its naive version."""
    student = torch.from_numpy(at.astype(np.float32)).requires_grad_()
    loss = ours(student)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(at), rel=1e-4, abs=1e-5)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), slopes(naive, at), rtol=2e-3, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 4), k=st.integers(2, 6), t=st.sampled_from([1.0, 2.0, 4.0]), alpha=st.floats(0, 2), beta=st.floats(0, 9),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_decoupled_distillation_equals_the_naive_version_with_its_gradient(
    n: int, k: int, t: float, alpha: float, beta: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = (2 * rng.normal(size=(2, n, k))).astype(np.float32).astype(np.float64)
    target = rng.integers(0, k, n)
    h, y = torch.from_numpy(teacher).float(), torch.from_numpy(target)
    agree(
        lambda s: decoupled(s, h, y, t, alpha, beta),
        lambda s: naive_decoupled(s, teacher, target, t, alpha, beta),
        student,
    )


def test_decoupled_distillation_is_the_plain_one_where_its_weights_are_the_plain_one_s() -> None:
    """KL = TCKD + (1 - p_target) NCKD, the paper's equation 6; cross-entropy is KL and the teacher's entropy."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 5)
    target = torch.tensor([2])
    p = teacher.softmax(1)
    entropy = -(p * p.log()).sum()
    plain = distillation(student, teacher, 1.0) - entropy
    torch.testing.assert_close(decoupled(student, teacher, target, 1.0, 1.0, float(1 - p[0, 2])), plain)


def test_decoupled_distillation_survives_a_teacher_that_is_sure() -> None:
    teacher = torch.tensor([[300.0, 0.0, -300.0]])
    student = torch.zeros(1, 3, requires_grad=True)
    loss = decoupled(student, teacher, torch.tensor([0]), 1.0, 1.0, 8.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()  # type: ignore[union-attr]


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 5), d=st.integers(1, 7), seed=st.integers(0, 1000))
def test_the_regression_of_embeddings_equals_the_naive_version_with_its_gradient(n: int, d: int, seed: int) -> None:
    student, teacher = np.random.default_rng(seed).normal(size=(2, n, d)).astype(np.float32).astype(np.float64)
    h = torch.from_numpy(teacher).float()
    agree(lambda s: regression(s, h), lambda s: naive_regression(s, teacher), student)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 4), k=st.integers(2, 5), count=st.integers(1, 3), t=st.floats(0.5, 5.0), seed=st.integers(0, 1000)
)
def test_an_ensemble_is_the_mean_of_the_softened_probabilities(n: int, k: int, count: int, t: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(n, k)).astype(np.float32).astype(np.float64)
    teachers = [(3 * rng.normal(size=(n, k))).astype(np.float32) for _ in range(count)]
    logits = ensemble([torch.from_numpy(one) for one in teachers], t)
    doubles = [one.astype(np.float64) for one in teachers]
    agree(lambda s: distillation(s, logits, t), lambda s: naive_kd_of_ensemble(s, doubles, t), student)


@pytest.mark.parametrize("loss", [
    lambda s, h: decoupled(s, h, torch.tensor([0, 1]), 4.0, 1.0, 8.0),
    regression,
    lambda s, h: distillation(s, ensemble([h, 2 * h], 2.0), 2.0),
])  # fmt: skip
def test_the_losses_are_float32_under_autocast_and_give_the_teacher_no_gradient(loss: Callable) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student, teacher))
    mine, its = torch.autograd.grad(value, [student, teacher], allow_unused=True)
    assert mine.dtype == torch.float32
    assert its is None


def classifier(seed: int, architecture: Architecture = TINY) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier.build(architecture, SIZE, CLASSES, [])
    nn.init.normal_(model.head.weight)
    return model


def images(count: int, first: int = 0, labelled: bool = False) -> ImageSet:
    rng = np.random.default_rng(first)
    return ImageSet(
        rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8), [f"{first + i}.png" for i in range(count)],
        [f"{first + i:032x}" for i in range(count)], np.arange(count, dtype=np.int64) % 3 if labelled else None,
    )  # fmt: skip


NO_AUGMENTATION = Augment(
    Augmentation(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, jitter=0, grey=0, blur=0), SIZE, 0.5, 0.25
)


def task(labelled: ImageSet | None = None, teachers: int = 1, **config: object) -> DistillTask:
    frozen = [Teacher(classifier(10 + i), SIZE) for i in range(teachers)]
    labelled = labelled if labelled is not None else images(9, 500, labelled=True)
    return DistillTask(classifier(0), frozen, NO_AUGMENTATION, Distill(**config), labelled)  # type: ignore[arg-type]


def step(distil: DistillTask, of: ImageSet) -> torch.Tensor:
    batch = Batch(images=torch.from_numpy(of.images), index=torch.arange(len(of)))
    if of.labels is not None:
        batch["labels"] = torch.from_numpy(of.labels)
    draws = Draws(torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
    return distil(batch, draws, monitor=False)["loss"]


def outputs(distil: DistillTask, of: ImageSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and embedding of student and teacher for a batch."""
    view = NO_AUGMENTATION(torch.from_numpy(of.images), torch.Generator().manual_seed(0))
    embedding = distil.student.embed(view)
    teacher = distil.teachers[0].model
    assert isinstance(teacher, Classifier)
    return distil.student.head(embedding), embedding, teacher(view), teacher.embed(view)


def test_dkd_takes_the_label_where_there_is_one_and_the_teacher_s_first_choice_elsewhere() -> None:
    some = images(6)
    some = ImageSet(some.images, some.names, some.digests, np.array([0, -1, 1, -1, 2, -1]))
    distil = task(loss="dkd", temperature=4.0, images="both")
    student, _, teacher, _ = outputs(distil, some)
    choice = teacher.argmax(1)
    target = torch.tensor([0, int(choice[1]), 1, int(choice[3]), 2, int(choice[5])])
    torch.testing.assert_close(step(distil, some), decoupled(student, teacher, target, 4.0, 1.0, 8.0))
    without = ImageSet(some.images, some.names, some.digests)
    torch.testing.assert_close(step(distil, without), decoupled(student, teacher, choice, 4.0, 1.0, 8.0))


def test_the_feature_loss_is_kd_and_a_projected_regression_and_trains_a_projector_that_is_not_stored() -> None:
    some, distil = images(6), task(loss="feature", feature_weight=0.7)
    student, mine, teacher, its = outputs(distil, some)
    assert distil.projector is not None
    expected = distillation(student, teacher, 1.0) + 0.7 * regression(distil.projector(mine), its)
    loss = step(distil, some)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert distil.projector.weight.grad is not None
    assert not any("projector" in name for name in distil.result.state_dict())


def test_the_labelled_share_of_a_labelled_batch_is_that_batch_s_own() -> None:
    some, distil = images(6, labelled=True), task(images="labelled", labelled_weight=0.25)
    student, _, teacher, _ = outputs(distil, some)
    hard = nn.functional.cross_entropy(student, torch.from_numpy(some.labels))
    torch.testing.assert_close(step(distil, some), 0.75 * distillation(student, teacher, 1.0) + 0.25 * hard)


def test_the_labelled_share_of_an_unlabelled_batch_is_drawn_from_the_budget() -> None:
    known = images(9, 500, labelled=True)
    distil = task(known, labelled_weight=0.25)
    seen: list[int] = []
    distil.student.encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    distil.teachers[0].model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert torch.isfinite(step(distil, images(6)))
    assert seen == [12, 6], "the student sees both in one batch, the teacher the unlabelled images alone"


def test_several_teachers_count_as_one() -> None:
    some, distil = images(6), task(teachers=3, temperature=2.0)
    student = outputs(distil, some)[0]
    view = NO_AUGMENTATION(torch.from_numpy(some.images), torch.Generator())
    probabilities = torch.stack([teacher.model(view).div(2).softmax(1) for teacher in distil.teachers]).mean(0)
    expected = 4 * nn.functional.cross_entropy(student / 2, probabilities)
    torch.testing.assert_close(step(distil, some), expected)


def test_the_average_follows_the_student_and_is_what_is_stored() -> None:
    distil = task(ema=0.9)
    weight = distil.student.head.weight
    expected = weight.detach().clone()
    for age in range(1, 200):
        with torch.no_grad():
            weight += 0.1
        tau = min(0.9, (1 + age) / (10 + age))
        expected = tau * expected + (1 - tau) * weight.detach()
        distil.after_step(0.5)
    torch.testing.assert_close(distil.result.head.weight, expected)
    assert not torch.equal(distil.result.head.weight, weight)
    assert task().result is not None
    plain = task()
    assert plain.result is plain.student


def test_the_average_has_the_student_s_batch_normalisation_statistics() -> None:
    distil = task(ema=0.999)
    distil.train()
    step(distil, images(6))
    distil.after_step(0.1)
    own, its = dict(distil.student.named_buffers()), dict(distil.result.named_buffers())
    assert own
    assert all(torch.equal(own[name], its[name]) for name in own)


class Halted(DistillTask):
    """Stops after some steps, as a power cut would."""

    stop_at = 0

    def after_step(self, done: float) -> None:
        super().after_step(done)
        if self.stop_at and self.steps == self.stop_at:
            raise Interrupted


@pytest.mark.parametrize("config", [{"ema": 0.95}, {"loss": "feature", "ema": 0.5, "labelled_weight": 0.3}])
def test_an_interrupted_distillation_goes_on_to_the_same_bits(config: dict[str, object], tmp_path: Path) -> None:
    def train(folder: Path, stop_at: int) -> Halted:
        distil = task(**config)
        distil.__class__ = Halted
        distil.stop_at = stop_at  # type: ignore[attr-defined]
        batches = ShuffledImages(images(24), 8, seed=3)
        fit(
            distil, batches, folder, stage="distill", epochs=4, optimizer=Optimizer(name="sgd", lr=0.1), seed=1,
            hardware=Hardware(accelerator="cpu", checkpoint_seconds=0),
        )  # fmt: skip
        return distil  # type: ignore[return-value]

    whole = train(tmp_path / "whole", 0)
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", 7)
    resumed = train(tmp_path / "cut", 0)
    assert resumed.steps == whole.steps == 12
    for name, tensor in whole.result.state_dict().items():
        assert torch.equal(tensor, resumed.result.state_dict()[name]), name
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "cut" / "history.csv").read_text()


def test_both_gives_the_pool_its_known_labels_and_adds_what_it_lacks() -> None:
    pool, outside = images(6), images(3, 100, labelled=True)
    inside = ImageSet(pool.images[[4, 1]], ["x", "y"], [pool.digests[4], pool.digests[1]], np.array([2, 0]))
    labelled = ImageSet(
        np.concatenate([outside.images, inside.images]), outside.names + inside.names, outside.digests + inside.digests,
        np.array([0, 1, 2, 2, 0]),
    )  # fmt: skip
    both = with_labels(pool, labelled)
    assert both.labels is not None
    assert both.labels.tolist() == [-1, 0, -1, -1, 2, -1, 0, 1, 2]
    rows = np.array([0, 5, 6, 8])
    np.testing.assert_array_equal(both.images[rows], np.concatenate([pool.images[[0, 5]], outside.images[[0, 2]]]))
    assert with_labels(pool, inside).images is pool.images, "nothing is copied where nothing is added"
    batch = next(ShuffledImages(both, 9, seed=0).stream(0))
    assert sorted(batch["labels"].tolist()) == sorted(both.labels.tolist())


FACTORY = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Linear(3 * 16 * 16, 7)
        self.last = nn.Linear(7, classes)
    def forward(self, images):
        return self.last(self.body(images.flatten(1)).relu())

class Bare(Own):
    def forward(self, images):
        return super().forward(images) * 2

def make():
    return Own()

def four():
    return Own(4)

def bare():
    return Bare()

def picky():
    raise KeyError("no such thing")

def number():
    return 3

def tokens():
    return nn.Sequential(Own(), nn.Unflatten(1, (3, 1)))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's in the current folder, and a file of weights for it."""
    (tmp_path / "teachers_of_mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in {"", str(tmp_path)}])
    monkeypatch.delitem(sys.modules, "teachers_of_mine", raising=False)
    torch.manual_seed(5)
    for classes in (3, 4):
        torch.save(
            {"model": {"body.weight": torch.randn(7, 768), "body.bias": torch.randn(7), "last.weight": torch.randn(classes, 7),
                       "last.bias": torch.randn(classes)}}, tmp_path / f"{classes}.pth",
        )  # fmt: skip
    return tmp_path


def teachers(own: Path, name: str, **keys: object) -> list[Teacher]:
    source = TeacherSource(model=f"teachers_of_mine:{name}", **{"weights": "3.pth", **keys})
    return load_teachers([source], Run(own / "run"), Data(image_size=SIZE), CLASSES)


def test_a_teacher_of_the_user_s_own_comes_from_the_current_folder_with_its_weights(own: Path) -> None:
    path = list(sys.path)
    (teacher,) = teachers(own, "make")
    assert sys.path == path
    weights = torch.load(own / "3.pth")["model"]
    pixels = torch.rand(2, 3, SIZE, SIZE)
    hidden = (pixels.flatten(1) @ weights["body.weight"].T + weights["body.bias"]).relu()
    logits, embedding = teacher(pixels)
    torch.testing.assert_close(embedding, hidden)
    torch.testing.assert_close(logits, hidden @ weights["last.weight"].T + weights["last.bias"])
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_a_teacher_gets_its_own_normalisation(own: Path) -> None:
    (plain,), mean, std = teachers(own, "make"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    (teacher,) = teachers(own, "make", mean=mean, std=std)
    pixels = torch.rand(2, 3, SIZE, SIZE)
    wanted = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = plain.model(wanted)
    torch.testing.assert_close(teacher((pixels - 0.5) / 0.25)[0], expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("four", {"weights": "4.pth"}, r"teachers_of_mine:four: gives 4 logits, data\.labelled has 3 classes"),
        ("make", {"weights": "4.pth"}, r"distill\.teachers\.weights: 4\.pth: 2 of its tensors have another shape: last\.weight \(4, 7\)"),
        ("make", {"weights": "5.pth"}, r"distill\.teachers\.weights: 5\.pth: no such file"),
        ("mak", {}, r"teachers_of_mine has no mak \(did you mean make\?\)"),
        ("picky", {}, r"picky: fails on images \(2, 3, 16, 16\): KeyError: 'no such thing'"),
        ("number", {}, r"number: gives a int, not an nn\.Module"),
        ("tokens", {"weights": "tokens.pth"}, r"tokens: gives \(2, 3, 1\) for two images, not logits \(2, 3\)"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_one_line(own: Path, name: str, keys: dict[str, object], message: str) -> None:
    inside = {"0." + n: t for n, t in torch.load(own / "3.pth")["model"].items()}
    torch.save(inside, own / "tokens.pth")
    with pytest.raises(RecipeError, match=message) as caught:
        teachers(own, name, **keys)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_or_broken_is_one_line(own: Path) -> None:
    (own / "broken_of_mine.py").write_text("def (")
    for module, message in (("nothing_of_mine", "No module named"), ("broken_of_mine", "SyntaxError")):
        source = TeacherSource(model=f"{module}:make", weights="3.pth")
        with pytest.raises(RecipeError, match=rf"the module {module} cannot be imported: .*{message}"):
            load_teachers([source], Run(own / "run"), Data(image_size=SIZE), CLASSES)


def test_feature_distillation_wants_a_last_linear_layer(own: Path) -> None:
    (teacher,) = teachers(own, "bare")
    assert teacher(torch.rand(2, 3, SIZE, SIZE))[0].shape == (2, 3)
    with pytest.raises(RecipeError, match=r"distill\.loss is feature, but the last layer of the teacher \(Bare\)"):
        _ = teacher.embedding_dim


def test_a_folder_that_is_no_run_is_no_teacher(tmp_path: Path) -> None:
    for name, message in (("none", "no such run"), ("", "holds no recipe.yaml")):
        source = TeacherSource(model=str(tmp_path / name))
        with pytest.raises(EdgekitError, match=message):
            load_teachers([source], Run(tmp_path / "run"), Data(image_size=SIZE), CLASSES)
