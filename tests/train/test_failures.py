"""Failing on purpose: one clear line, and the last good checkpoint as it was."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from edgekit.files import sha256
from edgekit.recipe import Hardware, Optimizer
from edgekit.train.evaluate import apply, several_outputs
from edgekit.train.loop.checkpoint import read_checkpoint
from edgekit.train.loop.engine import fit
from edgekit.train.loop.failures import Diverged, OutOfMemory
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.memory import is_out_of_memory
from edgekit.train.loop.resumable import CHECKPOINT
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from tests.helpers.exported import splits
from tests.helpers.patience import until
from tests.helpers.recipe_changes import TINY, changed


class Fragile(nn.Module):
    """A linear model that goes wrong in the way, and from the step, that a test wants."""

    def __init__(self, spoil_at: int = -1, gigabytes_an_image: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.spoil_at = spoil_at
        self.gigabytes = gigabytes_an_image
        self.steps = 0

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        if self.gigabytes:
            torch.empty(len(batch["images"]) * self.gigabytes << 30, dtype=torch.uint8)  # never touched: only asked for
        loss = self.linear(batch["images"].float().mean((1, 2)) / 255).square().mean()
        self.steps += 1
        return {"loss": loss * (float("nan") if self.steps == self.spoil_at else 1.0), "logs": {}}


def training(task: nn.Module, folder: Path, batch_size: int = 16, **hardware: object) -> dict[str, float]:
    return fit(
        task, ShuffledImages(splits().pool, batch_size, 0), folder, stage="pretrain", epochs=1,
        optimizer=Optimizer(name="sgd", lr=0.01), seed=0,
        hardware=Hardware(accelerator="cpu", **{"checkpoint_seconds": 0, **hardware}),
    )  # fmt: skip


def test_a_loss_that_is_no_number_ends_the_training_and_leaves_the_checkpoint_from_before(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"pretrain: the loss is nan in epoch 1 \(lower pretrain.optimizer.lr"):
        training(Fragile(spoil_at=5), tmp_path)
    kept = read_checkpoint(tmp_path / CHECKPOINT)
    assert kept["global_step"] == 4
    assert all(torch.isfinite(weights).all() for weights in kept["state_dict"].values())


def test_without_a_checkpoint_in_between_the_end_of_the_epoch_notices(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="the loss is nan in epoch 1"):
        training(Fragile(spoil_at=5), tmp_path, checkpoint_seconds=3600)
    assert not (tmp_path / "history.csv").exists()


def test_out_of_memory_names_a_batch_that_fits(tmp_path: Path) -> None:
    """The allocator itself refuses: an image wants a tenth of the machine's memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    each = max(1, memory // 10)  # gigabytes: up to about 10 images fit
    with pytest.raises(OutOfMemory) as caught:
        training(Fragile(gigabytes_an_image=each), tmp_path, batch_size=64)
    assert "pretrain: out of memory with batches of 64" in caught.value.message
    assert caught.value.hint in {f"set pretrain.batch_size to {n}, which fits" for n in (2, 4, 8)}
    with pytest.raises(OutOfMemory, match="not even a batch of 2 fits"):
        training(Fragile(gigabytes_an_image=memory * 2), tmp_path / "other", batch_size=64)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_batch_that_fits_is_tried_in_the_trainings_precision(precision: str, tmp_path: Path) -> None:
    """Under bfloat16 autocast more images fit: trying in float32 would name a batch half as large as need be."""
    seen = []

    class Fails(Fragile):
        def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
            seen.append(torch.is_autocast_enabled("cpu"))
            if len(batch["images"]) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(batch, draws, monitor)

    with pytest.raises(OutOfMemory) as caught:
        training(Fails(), tmp_path, precision=precision)
    assert caught.value.hint == "set pretrain.batch_size to 8, which fits"
    assert seen == [precision == "bf16"] * 2


def test_an_evaluation_that_does_not_fit_goes_on_with_smaller_batches() -> None:
    """A GPU that trained batches of 64 may have no room for the evaluation's 500."""
    sizes = []

    class Small(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            if len(images) > 130:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return images.mean((2, 3))

    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    found = apply(Small(), images, 0.0, 1.0, torch.device("cpu"))
    assert sizes == [300, 250, 125, 125, 50]
    np.testing.assert_allclose(found.numpy(), images.mean((1, 2)) / 255, rtol=1e-5)


def test_a_detector_of_which_a_batch_does_not_fit_goes_on_with_smaller_ones() -> None:
    """It gives a score and a map of each image."""
    sizes = []

    class Small(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            sizes.append(len(images))
            if len(images) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return images.amax((1, 2, 3)), images.mean(1)

    images = np.random.default_rng(0).integers(0, 256, (10, 4, 6, 3), dtype=np.uint8)
    cpu = torch.device("cpu")
    scores, maps = several_outputs(Small(), images, 0.0, 1.0, cpu, size=16, kept_on=cpu)
    assert sizes == [10, 8, 4, 4, 2]
    np.testing.assert_allclose(scores.numpy(), images.max((1, 2, 3)) / 255, rtol=1e-6)
    np.testing.assert_allclose(maps.numpy(), images.mean(3) / 255, rtol=1e-5)


def test_an_evaluation_of_which_not_one_image_fits_says_so() -> None:
    class Full(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        apply(Full(), np.zeros((3, 4, 4, 3), np.uint8), 0.0, 1.0, torch.device("cpu"))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_the_libraries_of_a_gpu_have_messages_of_their_own_for_it(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_fp32_is_float32_while_it_trains(tmp_path: Path) -> None:
    """cuDNN's convolutions are in TF32 unless PyTorch is told otherwise; the switch exists without a GPU, too."""
    seen = []

    class Looks(Fragile):
        def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return super().forward(batch, draws, monitor)

    before = torch.backends.cudnn.allow_tf32
    training(Looks(), tmp_path)
    assert set(seen) == {(False, False)}
    assert torch.backends.cudnn.allow_tf32 == before


def test_other_errors_are_not_taken_for_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.extra
def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    """The system refuses to write beyond a size, in the middle of a checkpoint, as a full disk does."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(changed(TINY, pretrain__epochs=60)))
    checkpoint = tmp_path / "run" / "pretrain" / CHECKPOINT
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "train",
        str(recipe),
        "--run",
        str(tmp_path / "run"),
        "--until",
        "pretrain",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        until(checkpoint.exists, first)
        first.send_signal(signal.SIGKILL)
    before, room = sha256(checkpoint), checkpoint.stat().st_size // 2

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=full)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "cannot write" in errors[0]
    assert "check the folder's permissions and the free space" in errors[0]
    assert "Traceback" not in done.stderr
    assert sha256(checkpoint) == before
    assert not list(checkpoint.parent.glob(".last.ckpt*"))
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "pretrain: resumes from step" in again.stderr
