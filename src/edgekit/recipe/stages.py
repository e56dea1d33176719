"""The stages after pretraining: fine-tuning, distillation, and the supervised baseline.

Each default comes from a paper, or a comment says why it does not.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgekit.recipe.augmentation import Augmentation
from edgekit.recipe.networks import OF_PRETRAINING, Architecture, TeacherSource
from edgekit.recipe.part import RecipePart
from edgekit.recipe.training import Epochs, Optimizer, epochs_field, steps_field


class Consistency(RecipePart):
    """Pseudo-labels of the pool, predicted on a weak view and learned on a strong view of the same image (FixMatch, Sohn et al. 2020)."""

    enabled: bool = True
    images: int = Field(256, ge=2, description="images of the pool per step, in addition to the labeled ones")
    weight: float = Field(1.0, gt=0, description="weight of the loss on pseudo-labels; 1 in FixMatch on CIFAR-10")
    threshold: Annotated[float, Field(ge=0, lt=1)] | Literal["adaptive"] = Field(
        0.95,
        description="least confidence of a pseudo-label that is trained on; adaptive: follows the confidence of the model, for each class "
        "(FreeMatch, Wang et al. 2023)",
    )
    align: Literal["labels", "start", "none"] = Field(
        "labels",
        description="distribution alignment of the pseudo-labels (ReMixMatch), toward the class shares of: labels: the label budget; start: the "
        "predictions for the pool before fine-tuning; none: no alignment",
    )
    max_drift: float = Field(
        0.5,
        gt=0,
        le=1,
        description="largest share of the pseudo-labels whose class may change since the start of fine-tuning; beyond it, fine-tuning continues "
        "on the labels alone",
    )
    max_gap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="limit on the probe set for the confidence minus the accuracy of the images that would count as pseudo-labels; beyond it "
        "(95 % interval), fine-tuning continues on the labels alone. Also the limit for the difference between their share and that of the "
        "pool; beyond it, a warning is printed",
    )
    augmentation: Augmentation | None = Field(
        None,
        description="augmentation of the strong view; default: that of pretraining, with pretrain.method distill that of SimCLR",
    )


class Finetune(RecipePart):
    """Fine-tuning on the label budget, from a linear probe on the encoder (LP-FT) or from a layer of the projection head."""

    train: Literal["all", "last_stage", "head"] = Field(
        "all",
        description="what is trained: all; last_stage: the last stage of the encoder and the layers after it; head: only the layers after the "
        "encoder. The rest keeps its weights and its BatchNorm statistics",
    )
    keep_projection_layers: int = Field(
        0, ge=0, description="first layers of the projection head that are kept: 0 in SimCLR v1, 1 in v2; never all"
    )
    epochs: Epochs = epochs_field("finetune")
    steps: int | None = steps_field("finetune")
    batch_size: int = Field(256, ge=2)
    # SimCLR v2 fine-tunes with LARS on 12,811 images; a budget of a few hundred images has too few steps for LARS.
    optimizer: Optimizer = Optimizer(name="adamw", lr=1e-3, scale_lr=False, weight_decay=1e-4)
    # Only random crop and flip, as in SimCLR v2 (section 3), but milder crops: on small images, crops of 8 % lose the object.
    augmentation: Augmentation = Augmentation(crop_scale=(0.4, 1.0), jitter=0.0, gray=0.0, blur=0.0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    linear_first: bool = Field(
        True,
        description="start from a linear probe on the frozen encoder instead of a zero last layer (LP-FT, Kumar et al. 2022)",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise decay: learning rate of a block as a share of that of the next block; 1: the same for all",
    )
    freeze_batchnorm: bool = Field(False, description="keep the BatchNorm statistics of pretraining")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights, which is stored as the teacher; 0: store the last weights",
    )
    consistency: Consistency = Field(
        Consistency(), description="pseudo-labels of the pool, in addition to the label budget"
    )
    fallback: bool = Field(
        True,
        description="store the frozen encoder with its linear probe as the teacher if it is better than the fine-tuned network: on the probe set; "
        "without a probe set, if the two disagree on more than twice the share of images that the linear probe gets wrong",
    )


class Multilabel(RecipePart):
    """How classifiers with any number of classes an image learn from labels. Only with `task: multilabel`."""

    loss: Literal["bce", "asymmetric"] = Field(
        "bce",
        description="bce: binary cross-entropy; asymmetric: it counts easy negatives less (ASL, Ridnik et al. 2021, equation 7)",
    )
    gamma_negative: float = Field(
        4.0, ge=0, description="asymmetric: focusing of the classes that are not there; 4 in the paper"
    )
    gamma_positive: float = Field(
        0.0, ge=0, description="asymmetric: focusing of those that are there; 0 in the authors' recipes"
    )
    clip: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="asymmetric: probability below which a class that is not there counts nothing; 0.05 in the paper",
    )


class Distill(RecipePart):
    """Distillation of the teacher into the student on the unlabeled pool (SimCLR v2, equations 2 and 3)."""

    student: Architecture = Architecture(name="resnet18", width=0.5)
    start: Literal["auto", "encoder", "new"] = Field(
        "auto",
        description="weights that the student starts from: encoder: those of the pretrained encoder, which must be the same network; new: random "
        "ones, or those of student.weights; auto: encoder where it is the same network and started from weights or was taught by another "
        "encoder, else new",
    )
    teachers: list[TeacherSource] = Field(
        [TeacherSource()],
        description="list of {model: own, pretrain.teacher, a run's folder or module:factory}; several are averaged: the mean of their softened "
        "probabilities",
    )
    images: Literal["unlabeled", "labeled", "both"] = Field(
        "unlabeled",
        description="images to distill on: the pool, the label budget, or both: the pool and the images of the label budget that it lacks",
    )
    loss: Literal["kd", "dkd", "feature"] = Field(
        "kd",
        description="kd: soft cross-entropy (Hinton et al. 2015); dkd: decoupled (Zhao et al. 2022), the target of an unlabeled image is the "
        "teacher's top class; feature: kd plus regression of the teacher's embedding (FitNets, Romero et al. 2015)",
    )
    temperature: float = Field(
        1.0, gt=0, description="temperature of teacher and student; the loss is multiplied by its square"
    )
    dkd_alpha: float = Field(1.0, ge=0, description="dkd: weight of the target-class term; 1 in the paper")
    dkd_beta: float = Field(
        8.0,
        ge=0,
        description="dkd: weight of the term of the other classes; in the paper 8 on CIFAR-100 (temperature 4), 0.5 on ImageNet (temperature 1)",
    )
    feature_weight: float = Field(1.0, gt=0, description="feature: weight of the mean squared error of the embedding")
    labeled_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the supervised loss on the label budget (1 - alpha in equation 3); 0: distillation alone (equation 2)",
    )
    mixup: float = Field(
        0.5,
        ge=0,
        le=0.5,
        description="each image is mixed with another one, whose share is random between 0 and this value; teacher and student see the same "
        "mixture (Beyer et al. 2022); 0: no mixing",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights, which is stored as the student (0.999); 0: store the last weights",
    )
    epochs: Epochs = epochs_field("distill")
    steps: int | None = steps_field("distill")
    batch_size: int = Field(512, ge=2)
    optimizer: Optimizer = Optimizer(name="lars", lr=0.3, weight_decay=1e-6, warmup=0.05)
    augmentation: Augmentation = Augmentation(crop_scale=(0.4, 1.0), jitter=0.0, gray=0.0, blur=0.0)

    @property
    def learns_from_pretraining(self) -> bool:
        """Whether the teacher of the pretraining is one of the teachers."""
        return any(teacher.model == OF_PRETRAINING for teacher in self.teachers)

    @model_validator(mode="after")
    def _check(self) -> Distill:
        if not self.teachers:
            raise ValueError(
                "teachers is empty, accepted: a list of {model: own, pretrain.teacher, a run's folder or module:factory}"
            )
        return self


class Supervised(RecipePart):
    """The baseline: the student's architecture, trained from scratch on the same label budget."""

    enabled: bool = True
    search: bool = Field(
        True,
        description="also try no crops, mild crops, and three times the epochs, and keep the best on the probe set; all together see no more "
        "images than pretraining; false, or without a probe set: only the settings given here",
    )
    epochs: Epochs = epochs_field("supervised")
    steps: int | None = steps_field("supervised")
    batch_size: int = Field(128, ge=2)
    optimizer: Optimizer = Optimizer(name="sgd", lr=0.1, weight_decay=5e-4, warmup=0.05)
    augmentation: Augmentation = Augmentation(jitter=0.0, gray=0.0, blur=0.0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
