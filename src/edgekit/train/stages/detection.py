"""The stage of `task: anomaly`: a detector on the encoder, from the normal images."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.data.images import ImageSet
from edgekit.files import write_bytes
from edgekit.models.encoders import Encoder, build_encoder
from edgekit.models.store import load_pretrained, save_detector
from edgekit.recipe import Architecture, Recipe
from edgekit.run import Run
from edgekit.train.detect.build import Built, Source, build_detector, head_spec, require_images
from edgekit.train.detect.coreset import bank_size
from edgekit.train.detect.student import StudentTask
from edgekit.train.detect.trimming import images_to_drop
from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.loader import seed_for
from edgekit.train.loop.streaming import shuffled

STAGE = "anomaly"
TRIMMED = "trimmed.csv"


class Detection:
    """Builds the detector of a run.

    Args:
        recipe: what to build.
        run: its earlier stages are read.
        images: the normal ones to build it from, as `AnomalySets.normal`.
        device: where the encoder runs.
    """

    def __init__(self, recipe: Recipe, run: Run, images: ImageSet, device: torch.device) -> None:
        self.recipe, self.run, self.images, self.device = recipe, run, images, device
        self.last: dict[str, Any] = {}  # the log of the student's last epoch

    def build(self, folder: Path) -> tuple[list[str], dict[str, Any]]:
        """Write the detector; return the names of its files and what it was built from.

        Args:
            folder: of the stage; stfpm resumes from a checkpoint in it.
        """
        config, data, images = self.recipe.anomaly, self.recipe.data, self.images
        encoder, architecture = self._encoder()
        start = {} if encoder.loaded is None else {"started_from": asdict(encoder.loaded)}
        seed = seed_for(self.recipe.seed, STAGE, "draws")
        source = Source(encoder, images, data.mean, data.std, self.device, seed)

        def train(teacher: Encoder, modules: list[str], normal: ImageSet) -> Encoder:
            return self._student(architecture, teacher, modules, normal, folder)

        built = build_detector(config, source, train)
        files = save_detector(folder, built.detector, architecture, data.image_size)
        if self.last:
            files.append("history.csv")
        if built.unusualness is not None:
            files.append(_write_trimmed(folder, images, built))
        spec = built.detector.spec
        metrics = {
            "method": spec.method,
            "images": len(built.kept),
            "trimmed": len(images) - len(built.kept),
            "levels": [[level.module, level.height, level.width] for level in spec.levels],
            "grid": list(spec.grid),
            **({"bank": spec.bank} if spec.method == "patchcore" else {}),
        }
        return files, metrics | start | self.last

    def _encoder(self) -> tuple[Encoder, Architecture]:
        """The encoder, in evaluation mode, and its architecture."""
        own, data = self.recipe.anomaly.encoder, self.recipe.data
        if own is None:
            pretrained = load_pretrained(self.run.stage_path("pretrain"), self.run.require("pretrain").outputs)
            return pretrained.encoder, pretrained.architecture
        return build_encoder(own, data.image_size, "anomaly.encoder", (data.mean, data.std)).eval(), own

    def _student(
        self, architecture: Architecture, teacher: Encoder, modules: list[str], images: ImageSet, folder: Path
    ) -> Encoder:
        """Train a network of the encoder's architecture, with new weights, to give its feature maps."""
        from edgekit.train.loop.engine import fit

        config, data, seed = self.recipe.anomaly, self.recipe.data, self.recipe.seed
        torch.manual_seed(seed_for(seed, STAGE, "weights"))
        plain = architecture.model_copy(update={"weights": None, "weights_key": None})
        student = build_encoder(plain, data.image_size, "anomaly.encoder", (data.mean, data.std))
        batch = min(config.batch_size, len(images))
        batch -= batch % world_size()
        batches = shuffled(images, batch, seed_for(seed, STAGE, "order"), True)
        task = StudentTask(teacher, student, modules, data.mean, data.std)
        self.last = fit(
            task, batches, folder, stage=STAGE, epochs=config.epochs, optimizer=config.optimizer, seed=seed,
            hardware=self.recipe.hardware,
        )  # fmt: skip
        return student.eval()


def check_detection(recipe: Recipe, images: int) -> None:
    """Refuse early a detector that the encoder cannot have, or the machine cannot hold.

    Args:
        recipe: what to build.
        images: number of training images.

    Raises:
        RecipeError: the encoder is unknown or does not fit the images, or lacks a level; or the bank does not fit into memory.
        DataError: there are fewer than two images.
    """
    require_images(images)
    data, where = recipe.data, "anomaly.encoder" if recipe.anomaly.encoder is not None else "pretrain.encoder"
    architecture = recipe.anomaly.encoder or recipe.pretrain.encoder
    plain = architecture.model_copy(update={"weights": None, "weights_key": None})
    encoder = build_encoder(plain, data.image_size, where, (data.mean, data.std))
    spec = head_spec(recipe.anomaly, encoder, data.image_size, where)
    if spec.method == "patchcore":
        kept = images - images_to_drop(images, recipe.anomaly.trim)
        bank_size(recipe.anomaly.coreset, kept * spec.places, spec.features, spec.places)


def _write_trimmed(folder: Path, images: ImageSet, built: Built) -> str:
    """Write how unusual each training image is, the most unusual first, and whether the detector was built from it."""
    assert built.unusualness is not None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "unusualness", "kept"))
    kept = set(built.kept.tolist())
    for row in np.argsort(-built.unusualness, kind="stable"):
        writer.writerow((images.names[row], f"{built.unusualness[row]:.6g}", "yes" if int(row) in kept else "no"))
    write_bytes(folder / TRIMMED, text.getvalue().encode("utf-8", "surrogateescape"))
    return TRIMMED
