"""Every step's forward pass on "cuda" without a GPU: nothing is on the wrong device, and nothing waits for the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from edgekit import recipe as recipes
from edgekit.data.augment import Augment, OneBranch
from edgekit.data.to_device import to_device
from edgekit.recipe import Augmentation
from edgekit.train.distill.distillation import DistillTask
from edgekit.train.distill.losses import decoupled, distillation, ensemble, regression
from edgekit.train.distill.teachers import Teacher
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.pretrain import METHODS, build_method, losses
from edgekit.train.stages.training_tasks import ClassifyTask, PretrainTask
from tests.helpers import distilled
from tests.helpers.fake_cuda import CUDA, HostWaits, fake_cuda, on_cuda
from tests.train.test_methods import POOL, settings

SIZE, COUNT = 16, 8
EVERYTHING = Augmentation(
    crop=0.8, rotate=0.5, jitter=0.8, gray=0.5, blur=0.5, sobel=0.5, noise=0.5, cutout=0.5, flip=0.5
)
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS), ("instdisc", {"loss": "info_nce"}), ("moco", {"symmetric": True}),
    ("triplet", {"mining": "hard"}), ("triplet", {"mining": "all"}),
]  # fmt: skip
MISMATCH = r"on the same device|two different devices"  # PyTorch words it differently from release to release and operator to operator
BOTH_PRECISIONS = pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])


def augment(config: Augmentation = EVERYTHING) -> Augment:
    return Augment(config, SIZE, 0.5, 0.25)


def batch(size: int = SIZE, labels: bool = False) -> Batch:
    made = Batch(
        images=torch.zeros(COUNT, size, size, 3, dtype=torch.uint8, device=CUDA),
        index=torch.zeros(COUNT, dtype=torch.int64, device=CUDA),
    )
    if labels:
        made["labels"] = torch.zeros(COUNT, dtype=torch.int64, device=CUDA)
    return made


def draws() -> StepDraws:
    return StepDraws(torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))


def check(outcome: StepOutcome) -> None:
    """The loss and what is logged are float32 scalars on the GPU: whoever reads them decides when to wait."""
    for value in (outcome["loss"], *outcome["logs"].values()):
        assert value.device == CUDA
        assert value.dtype == torch.float32
        assert value.shape == ()


@pytest.fixture(autouse=True)
def _generators_need_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise's pixels come from a generator of the GPU, which without a driver cannot be made."""
    real = torch.Generator

    def generator(device: Any = "cpu") -> torch.Generator:
        return real("cpu" if torch.device(device).type == "cuda" else device)

    monkeypatch.setattr("edgekit.data.augment.transform.torch.Generator", generator)


@BOTH_PRECISIONS
@pytest.mark.parametrize(("name", "change"), CASES, ids=str)
def test_a_methods_step(name: str, change: dict[str, Any], bf16: bool) -> None:
    method = build_method(recipes.parse({"pretrain": {**settings(name), **change}}).pretrain, SIZE, POOL).train()
    method._normalized = True  # InstDisc asks once a training whether its constant is known, and waits for the answer
    task = PretrainTask(method, augment())
    with fake_cuda(bf16=bf16):
        on_cuda(task)
        check(task(batch(), draws(), monitor=False))
        task.after_step(0.5)


@BOTH_PRECISIONS
def test_fine_tuning(bf16: bool) -> None:
    task = ClassifyTask(distilled.classifier(0), augment(), label_smoothing=0.1).train()
    with fake_cuda(bf16=bf16):
        on_cuda(task)
        check(task(batch(labels=True), draws(), monitor=False))


@BOTH_PRECISIONS
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"loss": "dkd", "images": "both"},
        {"loss": "feature"},
        {"labeled_weight": 0.5},
        {"images": "labeled", "labeled_weight": 0.5},
        {"ema": 0.99},
    ],
    ids=str,
)
def test_distillation(config: dict[str, Any], bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = distilled.task(teachers=2, **config)
    draw = DistillTask._draw

    def really(self: DistillTask, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with unset_fake_temporarily():
            return draw(self, count, generator)

    monkeypatch.setattr(DistillTask, "_draw", really)
    with fake_cuda(bf16=bf16):
        on_cuda(task)
        for teacher in task.teachers:
            move(teacher)
        check(task(batch(labels="images" in config), draws(), monitor=False))
        task.after_step(0.5)


def move(teacher: Teacher) -> None:
    """To the GPU, as a teacher moves itself at the first batch."""
    on_cuda(teacher.model)
    teacher.device = CUDA
    teacher.scale, teacher.shift = (torch.empty(t.shape, device=CUDA) for t in (teacher.scale, teacher.shift))


@pytest.mark.parametrize("one_branch", [False, True])
@pytest.mark.parametrize("side", [SIZE, SIZE + 6, 80])
def test_augmentation(side: int, one_branch: bool) -> None:
    """From the size of the views, from a larger one, and from one where the CPU would resize without a matrix."""
    made: Augment | OneBranch = augment()
    if one_branch:
        made = OneBranch(EVERYTHING, ["rotate", "jitter", "sobel", "noise", "cutout", "blur"], SIZE, 0.5, 0.25)
    with fake_cuda(bf16=True):
        views = made(batch(side)["images"], draws().own, 2)
        assert views.shape == (2 * COUNT, 3, SIZE, SIZE)
        assert (views.device, views.dtype) == (CUDA, torch.float32)


def test_losses_of_bfloat16_are_float32() -> None:
    with fake_cuda(bf16=True):
        first, second = (torch.zeros(COUNT, 4, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
        target = torch.zeros(COUNT, device=CUDA, dtype=torch.int64)
        answers = ensemble([first, second], 2.0)
        for value in (
            losses.nt_xent(first, second, 0.1), distillation(first, second, 2.0), losses.triplet(first, second, 0.5, "semi-hard"),
            decoupled(first, answers, target, 4.0, 1.0, 8.0), regression(first, second),
        ):  # fmt: skip
            assert (value.device, value.dtype) == (CUDA, torch.float32)


class TestTheCheckCanFail:
    """Faults that are planted in a step."""

    def run(self, step: Any) -> None:
        with fake_cuda():
            step(torch.zeros(4, device=CUDA))

    def test_a_tensor_on_the_wrong_device(self) -> None:
        with pytest.raises(RuntimeError, match=MISMATCH):
            self.run(lambda x: x + torch.zeros(4))

    def test_a_constant_that_stayed_on_the_cpu(self) -> None:
        class Scaled(nn.Linear):
            def __init__(self) -> None:
                super().__init__(4, 4)
                self.scale = torch.ones(4)  # no buffer: `.to()` leaves it behind

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * self.scale

        with pytest.raises(RuntimeError, match=MISMATCH), fake_cuda():
            on_cuda(Scaled())(torch.zeros(2, 4, device=CUDA))

    @pytest.mark.parametrize(
        "read",
        [
            lambda x: x[0].item(),
            lambda x: bool(x[0] > 0),
            lambda x: x.tolist(),
            lambda x: x[x > 0],
            lambda x: float(x[0]),
        ],
    )
    def test_a_value_that_is_read(self, read: Any) -> None:
        with pytest.raises(Exception, match=r"_local_scalar_dense|nonzero"):
            self.run(read)

    @pytest.mark.parametrize("copy", [lambda x: x.cpu(), lambda x: torch.zeros(4).copy_(x)])
    def test_a_copy_to_the_host(self, copy: Any) -> None:
        with pytest.raises(HostWaits, match="to the host"):
            self.run(copy)

    @pytest.mark.parametrize(
        "copy",
        [
            lambda x: torch.zeros(4).to(CUDA),
            lambda x: torch.tensor([1.0, 2.0], device=CUDA),
            lambda x: x.copy_(torch.zeros(4)),
        ],
    )
    def test_a_copy_to_the_gpu_that_waits(self, copy: Any) -> None:
        with pytest.raises(HostWaits, match="not asynchronous"):
            self.run(copy)

    def test_the_right_ways(self) -> None:
        self.run(lambda x: x + to_device(torch.zeros(4), CUDA) + torch.ones(4, device=CUDA) * 2.0)
