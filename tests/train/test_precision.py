"""bfloat16 is taken where the processor computes it, nowhere else, and what was interrupted still goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit import machine
from edgekit.data.augment import Augment
from edgekit.data.images import ImageSet
from edgekit.errors import RunError
from edgekit.models.classifier import Classifier
from edgekit.recipe import Architecture, Augmentation, Hardware, Optimizer
from edgekit.train.loop import engine
from edgekit.train.loop.devices import has_fast_bf16
from edgekit.train.loop.engine import fit
from edgekit.train.loop.failures import TrainingInterrupted
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.stages.training_tasks import ClassifyTask

X86 = "processor : 0\nvendor_id : AuthenticAMD\nflags : fpu {0}\n"
ARM = "processor : 0\nCPU implementer : 0x41\nFeatures : fp asimd {0}\n"


@pytest.mark.parametrize(
    ("cpuinfo", "native"),
    [
        (X86.format("avx2 avx512f avx512_vnni avx512_bf16"), True),
        (X86.format("avx2 avx512f amx_bf16 amx_tile"), True),
        (X86.format("avx2 avx512f avx512_vnni"), False),  # PyTorch emulates bfloat16 here
        (X86.format("avx2"), False),
        (ARM.format("asimddp i8mm bf16"), True),
        (ARM.format("asimddp"), False),
        ("", False),
    ],
)
def test_which_processors_compute_bfloat16(cpuinfo: str, native: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert machine.has_native_bf16(machine.cpu_features(tmp_path / "cpuinfo")) is native


@pytest.mark.parametrize(
    ("precision", "features", "emulated", "taken"),
    [
        ("auto", ["avx512_bf16"], False, "bf16-mixed"),
        ("auto", ["bf16"], False, "bf16-mixed"),
        ("auto", ["avx512f", "avx512_vnni"], False, "32-true"),
        ("auto", ["avx512_bf16"], True, "32-true"),
        ("fp32", ["avx512_bf16"], False, "32-true"),
        ("bf16", ["avx2"], False, "bf16-mixed"),
    ],
)
def test_auto_takes_bfloat16_where_it_is_native(
    precision: str, features: list[str], emulated: bool, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_features", lambda: features)
    monkeypatch.setattr(machine, "emulated", lambda: emulated)
    hardware = Hardware(accelerator="cpu", precision=precision)  # type: ignore[arg-type]
    assert engine._precision(hardware) == taken
    assert has_fast_bf16(hardware) is (features in (["avx512_bf16"], ["bf16"]) and not emulated)


class Halting(ClassifyTask):
    """Stops after some steps, as a power cut would."""

    stop_at = steps = 0

    def after_step(self, done: float) -> None:
        self.steps += 1
        if self.steps == self.stop_at:
            raise TrainingInterrupted


def train(folder: Path, precision: str, stop_at: int = 0, every: bool = True) -> Classifier:
    noise = np.random.default_rng(0).integers(0, 256, (26, 16, 16, 3), dtype=np.uint8)
    names = [str(i) for i in range(len(noise))]
    images = ImageSet(noise, names, names, np.arange(len(noise)) % 2)
    torch.manual_seed(0)
    model = Classifier.build(Architecture(name="resnet10", width=0.125, stem="strided"), 16, ["a", "b"], [], "x")
    task = Halting(model, Augment(Augmentation(), 16, 0.5, 0.25), 0.0)
    task.stop_at = stop_at
    fit(
        task, ShuffledImages(images, 8, 3, every), folder, stage="supervised", epochs=3,
        optimizer=Optimizer(name="adamw", lr=1e-3, scale_lr=False, warmup=0.3), seed=1,
        hardware=Hardware(accelerator="cpu", precision=precision, checkpoint_seconds=0),  # type: ignore[arg-type]
    )  # fmt: skip
    return model


@pytest.mark.parametrize("stop_at", [2, 6])
def test_a_training_in_bfloat16_resumes_to_the_same_bits(stop_at: int, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", "bf16")
    with pytest.raises(TrainingInterrupted):
        train(tmp_path / "cut", "bf16", stop_at)
    resumed = train(tmp_path / "cut", "bf16")
    for name, tensor in whole.state_dict().items():
        assert tensor.dtype == resumed.state_dict()[name].dtype != torch.bfloat16  # what is stored is float32
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert (tmp_path / "whole/history.csv").read_bytes() == (tmp_path / "cut/history.csv").read_bytes()


def test_a_checkpoint_of_an_epoch_with_other_steps_is_refused_and_kept(tmp_path: Path) -> None:
    """An older edgekit left the last partial batch out: what it began cannot go on exactly."""
    with pytest.raises(TrainingInterrupted):
        train(tmp_path, "fp32", stop_at=8, every=False)  # three steps an epoch, not four
    kept = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(RunError, match=r"last\.ckpt: .*its epochs have another number of steps .*delete it to train"):
        train(tmp_path, "fp32")
    assert (tmp_path / "last.ckpt").read_bytes() == kept
