"""The recipe keys of `pretrain.method: distill`: a pretrained encoder teaches its representation on the pool, without labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgekit.recipe.augmentation import Augmentation
from edgekit.recipe.methods import MethodConfig, ProjectionConfig
from edgekit.recipe.pretrained import EncoderTeacher, Objective
from edgekit.recipe.training import Optimizer


class StudentProjection(ProjectionConfig):
    """The projection head from the student's features to the width of the teacher's."""

    layers: int = Field(
        1, ge=1, le=4, description="number of Linear layers; 1 as in CompRess, 2 in SEED; the encoder before it is kept"
    )
    output: Literal["teacher"] = Field(  # type: ignore[assignment]
        "teacher", description="width of the projections: that of the teacher's features"
    )


class DistillConfig(MethodConfig):
    """Distillation of a pretrained encoder into the student's encoder on the pool, without labels."""

    title = "Distillation of a pretrained encoder"
    method: Literal["distill"] = "distill"
    teacher: EncoderTeacher = Field(
        EncoderTeacher(),
        description="the teacher, for example {model: timm:vit_small_patch14_dinov2.lvd142m, image_size: 224, interpolate_positions: true}",
    )
    projection: StudentProjection = StudentProjection()
    objective: Objective = Field(
        "cosine",
        description="what the projection learns of the teacher's features: cosine: their direction; mse: their values (FitNets, Romero et al. "
        "2015); seed: the distribution of their similarities to a queue of features of earlier images (SEED, Fang et al. 2021); compress: the "
        "same with a queue of each network's own features (CompRess-2q, Abbasi Koohpayegani et al. 2020); maps: the direction of the teacher's "
        "features at each place of the image, where both networks have a last feature map, or patches (after FitNets); computed in every step",
    )
    target: Literal["view", "image"] = Field(
        "view",
        description="view: the teacher sees the student's augmented view; its features are computed in every step, except where the only "
        "augmentation is a flip: then once. image: the teacher sees the whole image (flipped if the view is): its features are computed once "
        "and kept on the disk, much faster with a large teacher",
    )
    queue: int = Field(
        4096, ge=1, description="seed, compress: features in the queue; 65,536 and 128,000 in the papers"
    )
    temperature: float | None = Field(
        None, gt=0, description="seed, compress: temperature of the student; default: 0.2 for seed, 0.04 for compress"
    )
    teacher_temperature: float | None = Field(
        None, gt=0, description="seed, compress: temperature of the teacher; default: 0.01 for seed, 0.04 for compress"
    )
    batch_size: int = Field(256, ge=2, description="images per step, of all devices together")
    # SEED trains with SGD, lr 0.03 and a batch of 256; a regression on small images learns faster with AdamW.
    optimizer: Optimizer = Optimizer(name="adamw", lr=1e-3, scale_lr=False, weight_decay=1e-4, warmup=0.05)
    # Milder than SimCLR's: views must agree with what the teacher says of them, not with each other.
    augmentation: Augmentation = Augmentation(crop_scale=(0.4, 1.0), jitter=0.0, gray=0.0, blur=0.0)

    @property
    def temperatures(self) -> tuple[float, float]:
        """The temperatures of student and teacher: those given, else those of the objective's paper."""
        student, teacher = (0.04, 0.04) if self.objective == "compress" else (0.2, 0.01)
        return self.temperature or student, self.teacher_temperature or teacher

    @model_validator(mode="after")
    def _queue_holds_a_batch(self) -> DistillConfig:
        if self.objective in {"seed", "compress"} and self.queue < self.batch_size:
            raise ValueError(f"queue ({self.queue}) must hold a batch: at least batch_size ({self.batch_size})")
        return self
