"""The pretraining stage with `pretrain.method: distill`: the teacher, its features, its scores, and the training task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from edgekit.data.augment import Augment
from edgekit.data.pixels import margins
from edgekit.data.splits import Splits
from edgekit.data.to_device import to_device
from edgekit.errors import RecipeError
from edgekit.files import digest_of, write_json
from edgekit.foreign import Unreadable, read_json
from edgekit.models.pixels import normalize
from edgekit.recipe import Recipe
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.run import Run
from edgekit.terminal import echo
from edgekit.train.evaluate import bank_of, encoder_scores
from edgekit.train.loop.devices import uses_bf16
from edgekit.train.loop.distributed import barrier, rank
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from edgekit.train.pretrain.maps import TeacherMaps
from edgekit.train.pretrain.method import Method, Views
from edgekit.train.pretrain.teacher import AsEncoder, load_encoder_teacher, teacher_identity
from edgekit.train.pretrain.teacher_features import FOLDER, TeacherFeatures, keeps_features
from edgekit.train.stages.training_tasks import PretrainTask, monitored
from edgekit.train.stages.views import augment_for


class Teaching:
    """What the stage needs of the teacher.

    Args:
        config: `pretrain` of the recipe.
        recipe: what to train.
        splits: the images.
        run: keeps the features of the teacher.
        device: where features are computed.
    """

    def __init__(self, config: DistillConfig, recipe: Recipe, splits: Splits, run: Run, device: torch.device) -> None:
        self.config, self.recipe, self.splits, self.run, self.device = config, recipe, splits, run, device
        self.teacher = load_encoder_teacher(config.teacher, recipe.data, run)
        self.identity = teacher_identity(config.teacher, run)
        if rank() == 0 and self.teacher.loaded is not None:
            echo(f"pretrain: weights of the teacher: {self.teacher.loaded}", err=True)
        size = recipe.data.image_size
        self.flip = config.augmentation.at(size).flip
        self.maps = TeacherMaps(self.teacher) if config.objective == "maps" else None
        if self.maps is not None and recipe.hardware.compile:
            raise RecipeError(
                "hardware.compile: a compiled encoder does not give its feature map",
                "set it to false, or pretrain.objective to cosine",
            )
        self.features = (
            TeacherFeatures(
                self.teacher, splits.pool, size, flips=self.flip > 0, identity=self.identity, folder=run.path,
                device=device, bf16=uses_bf16(recipe.hardware),
            )
            if keeps_features(config, size)
            else None
        )  # fmt: skip

    def task(self, method: Method) -> DistilledTask:
        """Return the training task; computes the features that are kept."""
        if self.features is not None:
            self.features.complete()
        data = self.recipe.data
        plain = self.config.augmentation.model_copy(update={"flip": 0.0})
        augment = augment_for(plain, data)
        of_images = self.config.target == "image"
        return DistilledTask(method, augment, self.flip, self.maps or self.teacher, self.features, of_images)

    def scores(self) -> dict[str, Any]:
        """Return the scores of the teacher beside those of the student, for the record; computed once for a run."""
        own: dict[str, Any] = {
            "title": self.teacher.title,
            "width": self.teacher.width,
            "image_size": self.teacher.image_size.plain,
        }
        own["features"] = "in every step" if self.features is None else "kept"
        if self.teacher.loaded is not None:
            own["loaded"] = asdict(self.teacher.loaded)
        if not len(self.splits.labeled):
            return {"teacher": own}
        measured = None
        if rank() == 0:
            measured = self._measured()
        barrier()
        return {"teacher": {**own, **(measured or {})}}

    def _measured(self) -> dict[str, float]:
        sets = {"test": self.splits.test.digest, "bank": bank_of(self.splits, self.recipe).digest}
        content = {"teacher": self.identity, "own": list(self.teacher.own), "given": list(self.teacher.given), **sets}
        path = self.run.path / FOLDER / f"scores-{digest_of(content)[:16]}.json"
        try:
            earlier = read_json(path)
            return {name: float(earlier[name]) for name in ("knn", "linear")}
        except (Unreadable, KeyError, TypeError, ValueError):
            pass
        scores = encoder_scores(
            AsEncoder(self.teacher),
            self.splits,
            self.recipe,
            self.device,
            linear_too=True,
            title="teacher's kNN and probe",
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, scores)
        return scores


class DistilledTask(PretrainTask):
    """Pretraining from a teacher: one view of each image, and the teacher's features of the view or of the image.

    Args:
        method: one of `edgekit.train.pretrain.OBJECTIVES`.
        augment: makes the views, without flips: they are drawn here, because features are kept for both orientations.
        flip: probability of a horizontal flip.
        teacher: gives the features, or the maps, of images.
        features: those that are kept; None: computed in every step.
        of_images: whether the teacher sees the whole image instead of the view.
    """

    def __init__(
        self,
        method: Method,
        augment: Augment,
        flip: float,
        teacher: Callable[[Tensor], Tensor],
        features: TeacherFeatures | None,
        of_images: bool,
    ) -> None:
        super().__init__(method, augment)
        self.plain, self.flip = augment, flip
        self.teacher, self.features, self.of_images = teacher, features, of_images

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
        """Return the loss of a batch; with `monitor`, also the two numbers of the collapse monitor."""
        pixels, index = batch["images"], batch["index"]
        mirrored = torch.rand(len(pixels), generator=draws.own) < self.flip
        views = _flipped(self.plain(pixels, draws.own), mirrored)
        targets = self._targets(pixels, views, index, mirrored)
        loss = self.method(Views([views], index, draws.shared, targets))
        return {"loss": loss.value, "logs": monitored(loss) if monitor else {}}

    @torch.no_grad()
    def _targets(self, pixels: Tensor, views: Tensor, index: Tensor, mirrored: Tensor) -> Tensor:
        if self.features is not None:
            return to_device(self.features(index, mirrored), pixels.device)
        if not self.of_images:
            return self.teacher(views)
        size = self.plain.size
        top, left = margins(tuple(pixels.shape), size)
        center = pixels[:, top : top + size.height, left : left + size.width]
        return self.teacher(_flipped(normalize(center, self.plain.mean, self.plain.std), mirrored))


def _flipped(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images (n, 3, h, w), mirrored where `mirrored` (n), on the CPU, says so."""
    chosen = to_device(mirrored, images.device)[:, None, None, None]
    return torch.where(chosen, images.flip(3), images).contiguous(memory_format=torch.channels_last)
