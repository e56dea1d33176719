"""The whole recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from edgekit.arguments import checked
from edgekit.recipe.anomaly import Anomaly
from edgekit.recipe.augmentation import Augmentation
from edgekit.recipe.data import DataConfig
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.recipe.method_table import Pretrain
from edgekit.recipe.methods import SimCLRConfig
from edgekit.recipe.names import tag_of
from edgekit.recipe.networks import OF_PRETRAINING
from edgekit.recipe.part import RecipePart
from edgekit.recipe.stages import Distill, Finetune, Multilabel, Supervised
from edgekit.recipe.training import Hardware, Monitor
from edgekit.stages import STAGES, StageName
from edgekit.task_names import TaskName


class Recipe(RecipePart):
    """What to train, from the images to the student.

    Read one with `Recipe.read`: missing keys get the defaults of their stage and pretraining method.
    """

    recipe_schema: Literal[1] = Field(1, alias="schema", description="version of this format")
    name: str = Field(
        "digits", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200, description="the run folder is runs/NAME"
    )
    task: TaskName = Field(
        "classification",
        description="what the run answers: classification: one class for each image; multilabel: any number of classes for each image, from a "
        "CSV file in data.labeled; recognition: the embedding alone, for galleries, of the student "
        "or, where there are no labels, of the encoder; training is that of a classification. anomaly: what is unlike the normal images of "
        "data.normal, and where: pretraining, then the detector of `anomaly`",
    )
    seed: int = Field(0, ge=0, description="seed of the initial weights, the batches and the augmentation")
    data: DataConfig = DataConfig()
    pretrain: Pretrain = SimCLRConfig()
    finetune: Finetune = Finetune()
    distill: Distill = Distill()
    supervised: Supervised = Supervised()
    multilabel: Multilabel = Field(Multilabel(), description="the loss on labels with `task: multilabel`; else unused")
    anomaly: Anomaly = Anomaly()
    monitor: Monitor = Monitor()
    hardware: Hardware = Hardware()

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        kept_layers, layers = self.finetune.keep_projection_layers, self.pretrain.projection.layers
        if kept_layers >= layers:
            raise ValueError(
                f"finetune.keep_projection_layers is {kept_layers}, but the projection head has {layers} layers and not all can be kept: "
                f"accepted: 0 to {layers - 1}"
            )
        for name in ("pretrain", "finetune", "distill", "supervised"):
            stage = getattr(self, name)
            warmup = stage.optimizer.warmup_epochs
            if warmup is not None and stage.epochs != "auto" and warmup >= stage.epochs:
                raise ValueError(
                    f"{name}.optimizer.warmup_epochs ({warmup:g}) must be less than {name}.epochs ({stage.epochs})"
                )
        return self

    @model_validator(mode="after")
    def _labels_of_the_task(self) -> Recipe:
        several = self.task == "multilabel"
        if several != (self.data.classes_per_image == "any"):
            wanted = "any" if several else "one"
            raise ValueError(
                f"data.classes_per_image is not {wanted}, but task is {self.task}: remove classes_per_image"
            )
        if not several:
            return self
        if self.data.labeled is None and isinstance(self.data.labels, str):
            raise ValueError(
                f"data.labeled is null, but task multilabel reads the classes of the images there: write labeled: {self.data.labels}, and in "
                "data.labels how many of them to use (1.0: all)"
            )
        if self.data.labeled is not None and not self.data.labeled.lower().endswith(".csv"):
            raise ValueError(
                f"data.labeled is {self.data.labeled}, but task multilabel takes a CSV file with the classes of the images"
            )
        if self.distill.loss == "dkd":
            raise ValueError(
                "distill.loss is dkd, which is about one target class for each image: accepted with task multilabel: kd, feature"
            )
        return self

    @model_validator(mode="after")
    def _student_starts(self) -> Recipe:
        encoder, student = self.pretrain.encoder, self.distill.student
        if self.distill.start == "encoder" and student.weights is not None:
            raise ValueError(
                "distill.start is encoder, but distill.student.weights gives other weights: remove one of them"
            )
        if self.distill.start == "encoder" and not student.same_network(encoder):
            raise ValueError(
                f"distill.start is encoder, but distill.student ({student.name}) is not the network of pretrain.encoder ({encoder.name}, with its "
                "width and stem): give both the same keys, accepted otherwise: auto, new"
            )
        return self

    @model_validator(mode="after")
    def _teacher_of_pretraining(self) -> Recipe:
        if not self.distill.learns_from_pretraining:
            return self
        if not isinstance(self.pretrain, DistillConfig):
            raise ValueError(
                f"distill.teachers names {OF_PRETRAINING}, but pretrain.method is {self.pretrain.method}, which has no teacher: set pretrain.method "
                "to distill, or name own"
            )
        if self.distill.loss == "feature":
            raise ValueError(
                f"distill.loss is feature, but distill.teachers names {OF_PRETRAINING}, whose features the pretraining has taught already: accepted: "
                "kd, dkd"
            )
        return self

    @model_validator(mode="after")
    def _normal_images(self) -> Recipe:
        if (self.task == "anomaly") != (self.data.normal is not None):
            raise ValueError(
                "task anomaly and data.normal belong together: data.normal names the normal images that a detector is built from"
            )
        return self

    @model_validator(mode="after")
    def _pretrained(self) -> Recipe:
        if isinstance(self.pretrain, DistillConfig):
            if self.pretrain.teacher.model is None:
                raise ValueError(
                    "pretrain.teacher.model is missing: pretrain.method distill needs the encoder that teaches, accepted: {model: timm:NAME}, "
                    "{model: torchvision:NAME}, {model: module:factory} or {model: folder of a run}"
                )
            if self.pretrain.one_branch is not None:
                raise ValueError("pretrain.one_branch does not apply to pretrain.method distill: remove it")
        for key, network in (("pretrain.encoder", self.pretrain.encoder), ("distill.student", self.distill.student)):
            if (tag := tag_of(network.name)) and network.weights is None:
                raise ValueError(
                    f"{key}.name is {network.name}, whose tag {tag} names published weights: add weights: pretrained, or remove .{tag}"
                )
        return self

    @property
    def stages(self) -> list[StageName]:
        """The stages of its runs, in their order. A pile without labels has the first two of a classification alone."""
        if self.task == "anomaly":  # an encoder of its own is not pretrained
            own = ("pretrain",) if self.anomaly.encoder is None else ()
            return [stage for stage in STAGES if stage in ("data", *own, "anomaly")]
        return [s for s in STAGES if s != "anomaly" and (s != "supervised" or self.supervised.enabled)]

    @property
    def student_starts_as_encoder(self) -> bool:
        """Whether distillation starts from the weights of the pretrained encoder.

        With `auto`, it does if the encoder knows more than the pool, from published weights or from an encoder that taught it, and is the same
        network. A student with new weights is the better one where the encoder has learned from the pool alone (docs/training.md).
        """
        encoder, student = self.pretrain.encoder, self.distill.student
        knows_more = encoder.weights is not None or isinstance(self.pretrain, DistillConfig)
        same = student.weights is None and student.same_network(encoder)
        return self.distill.start == "encoder" or (self.distill.start == "auto" and knows_more and same)

    @property
    def strong_augmentation(self) -> Augmentation:
        """The augmentation of the views that learn pseudo-labels: given, or that of pretraining; distillation's is weak, so SimCLR's."""
        if self.finetune.consistency.augmentation is not None:
            return self.finetune.consistency.augmentation
        if isinstance(self.pretrain, DistillConfig):
            return Augmentation(flip=self.pretrain.augmentation.flip)
        return self.pretrain.augmentation

    @classmethod
    @checked("source")
    def read(
        cls, source: Path | str | Mapping[str, Any], overrides: str | Sequence[str] | Mapping[str, Any] = ()
    ) -> Recipe:
        """Read a recipe from a YAML file or a dictionary.

        Args:
            source: the path of a YAML file, or its content as a dictionary.
            overrides: `["data.labels=10", …]` as `--set` takes them, or `{"data.labels": 10, …}`.

        Raises:
            RecipeError: the file is missing, is not YAML, or holds something invalid; the message lists the path of each key, its value
                and what would be accepted.
        """
        from edgekit.recipe.reading import recipe_of

        return recipe_of(source, overrides)

    @checked()
    def write(self, path: Path | str) -> None:
        """Write the whole recipe, defaults included, as YAML, atomically."""
        from edgekit.files import write_text
        from edgekit.recipe.reading import dump

        write_text(Path(path), dump(self))
