"""What every training of a recipe has: an optimizer with its schedule, a length, the hardware, and what is measured meanwhile.

Each default comes from a paper, or a comment says why it does not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from edgekit.recipe.bounds import BOUNDS
from edgekit.recipe.part import RecipePart


class Optimizer(RecipePart):
    """The optimizer and its schedule: linear warm-up, then cosine decay to 0 (both by step)."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    lr: float = Field(0.3, gt=0, description="base learning rate; multiplied by batch_size / 256 if `scale_lr` is true")
    scale_lr: bool = Field(
        True, description="linear scaling of the learning rate with the batch size (Goyal et al. 2017)"
    )
    weight_decay: float = Field(1e-6, ge=0, description="weight decay; not applied to biases and normalization layers")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of lars and sgd")
    warmup: float = Field(
        0.0, ge=0, le=0.9, description="warm-up as a share of the steps of the stage: the learning rate rises linearly"
    )
    warmup_epochs: float | None = Field(None, ge=0, description="warm-up in epochs; replaces `warmup`")


Epochs = Annotated[int, Field(ge=1)] | Literal["auto"]
_EPOCHS = "passes over the images; auto: as many as needed for `steps` steps, and at least {0} epochs{1}"


def epochs_field(stage: str) -> Any:
    """Return the field `epochs` of a stage; its description gives the bounds of auto."""
    bounds = BOUNDS[stage]
    most = f", at most {bounds.high}" if bounds.high else ""
    return Field("auto", description=_EPOCHS.format(bounds.low, most))


def steps_field(stage: str) -> Any:
    """Return the field `steps` of a stage."""
    steps = BOUNDS[stage].steps
    return Field(
        None,
        ge=1,
        description=f"with `epochs: auto`: the least number of steps, without the other bounds; default {steps:,}, with the bounds of `epochs`",
    )


class Hardware(RecipePart):
    """Where and how the training runs; it changes results by rounding only."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: bf16 autocast on GPUs and CPUs with native bf16 (avx512_bf16, AMX, Arm BF16), else fp32",
    )
    devices: int = Field(
        1, ge=1, description="GPUs (or CPU processes) per machine; batch_size is the batch of all devices together"
    )
    nodes: int = Field(
        1, ge=1, description="number of machines; start the same command on each, with torchrun or SLURM"
    )
    sync_batchnorm: bool = Field(
        True,
        description="with several devices: BatchNorm over the whole batch instead of over the share of each device",
    )
    compile: bool = Field(
        False,
        description="compile the encoder with torch.compile: takes minutes at the start, then steps are faster on GPUs",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads per process; default: chosen by PyTorch")
    checkpoint_seconds: float = Field(
        30.0,
        ge=0,
        description="seconds between two checkpoints; an interrupted training resumes from the last one, to the same weights (on CPUs bit for bit)",
    )


class Monitor(RecipePart):
    """What is measured during pretraining; the weights do not depend on it, so a change retrains nothing."""

    every: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="epochs between two evaluations of the frozen encoder on the test set; auto: a quarter of the epochs; 0: only at the end",
    )
    knn: bool = Field(
        True, description="measure the accuracy of weighted k nearest neighbors, with the probe set as the bank"
    )
    linear: bool = Field(
        False, description="measure the accuracy of a linear probe, trained on the probe set (slower than kNN)"
    )
