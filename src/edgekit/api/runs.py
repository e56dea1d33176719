"""A run from Python: its networks as plain PyTorch modules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import run as runs
from edgekit.api.extras import require

if TYPE_CHECKING:
    from edgekit.models.classifier import Classifier
    from edgekit.models.encoders import Encoder
    from edgekit.models.trained import TrainedNetwork


class Run(runs.RunFolder):
    """A run's folder, and its networks in one line each: `edgekit.Run("runs/photos").student()`.

    Every network is a `torch.nn.Module` in evaluation mode on the CPU that takes normalized float32 images (n, 3, h, w). It has
    `classes`, `image_size`, `transform` (one image file, PIL image or array -> such a tensor), `normalize` (uint8 pixels (n, h, w, 3)
    -> such images) and `embed` (its features).

    Args:
        path: the folder, which may not exist yet.
    """

    def student(self) -> TrainedNetwork:
        """The distilled student: images -> logits (n, classes).

        Raises:
            RunError: there is no such run, its stage is not complete, or its files are damaged.
            RuntimeMissing: the extra [train] is not installed.
        """
        return self._classifier("distill")

    def teacher(self) -> TrainedNetwork:
        """The fine-tuned teacher: images -> logits (n, classes). Raises what `student` does."""
        return self._classifier("finetune")

    def supervised(self) -> TrainedNetwork:
        """The student's architecture, trained from scratch on the same labels. Raises what `student` does."""
        return self._classifier("supervised")

    def encoder(self) -> TrainedNetwork:
        """The pretrained encoder: images -> features (n, d). Raises what `student` does."""
        require("torch", "safetensors")
        Run.open(self.path)
        outputs = self.require("pretrain").outputs
        from edgekit.models.store import load_pretrained

        return self._trained(load_pretrained(self.stage_path("pretrain"), outputs).encoder)

    def _classifier(self, stage: str) -> TrainedNetwork:
        require("torch", "safetensors")
        Run.open(self.path)
        outputs = self.require(stage).outputs
        from edgekit.models.store import load_classifier

        return self._trained(load_classifier(self.stage_path(stage), outputs))

    def _trained(self, network: Classifier | Encoder) -> TrainedNetwork:
        from edgekit.data.ranges import of_run
        from edgekit.models.trained import TrainedNetwork

        data = self.recipe.data
        return TrainedNetwork(network, data.preprocessing(of_run(self)), data.mean, data.std).eval()


def opened(run: runs.Run | Path | str) -> Run:
    """Open an existing run.

    Raises:
        RunError: there is no such folder, or it holds no recipe.
    """
    return Run.open(run.path if isinstance(run, runs.Run) else run)
