"""The teacher's features of the pool: computed once and kept in the run where the augmentation allows it, else computed in every step.

They can be kept if the teacher sees the same pixels in every epoch: whole images (`target: image`), or views that are only flipped. Both
orientations of an image are computed. The file is written part by part, and an interrupted computation resumes with the next part:

    RUN/teacher/KEY.npy     float16 (n, orientations, d), memory-mapped; KEY is a digest of the teacher, the images and the pixels
    RUN/teacher/KEY.json    how many images are done

With several processes, the features are computed in every step: each process would need those of all images.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.data.images import ImageSet
from edgekit.data.pixels import Pixels, center_crop
from edgekit.errors import EdgekitError
from edgekit.files import digest_of, write_json
from edgekit.foreign import Unreadable, read_json
from edgekit.models.pixels import normalize
from edgekit.progress import progress
from edgekit.recipe import Augmentation
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.sizes import ImageSize, SizeLike
from edgekit.train.loop.distributed import world_size
from edgekit.train.loop.timing import is_timing, timed_run, timed_training
from edgekit.train.pretrain.teacher import FrozenEncoder

FOLDER = "teacher"  # in the run
_BATCH = 64
_PART = 16  # batches between two notes of the progress
_ONLY_FLIPS = ("crop", "rotate", "jitter", "gray", "blur", "sobel", "noise", "cutout")


def only_flips(augmentation: Augmentation, image_size: SizeLike) -> bool:
    """Whether a view is the image itself or its mirror image, so that its features can be kept."""
    settled = augmentation.at(image_size)
    return not any(getattr(settled, name) for name in _ONLY_FLIPS)


def keeps_features(config: DistillConfig, image_size: SizeLike) -> bool:
    """Whether pretraining keeps the teacher's features: in one process, where the teacher sees the same pixels in every epoch."""
    same = config.target == "image" or only_flips(config.augmentation.at(image_size), image_size)
    return world_size() == 1 and config.objective != "maps" and same


class TeacherFeatures:
    """The kept features.

    Args:
        teacher: the frozen encoder.
        pool: the images; of those stored larger than the models take, the teacher sees the center.
        image_size: size of the student's images, in pixels.
        flips: whether mirror images are needed.
        identity: of the teacher, see `edgekit.train.pretrain.teacher.teacher_identity`.
        folder: of the run.
        device: where they are computed.
        bf16: whether in bfloat16, as the training.
    """

    def __init__(
        self,
        teacher: FrozenEncoder,
        pool: ImageSet,
        image_size: SizeLike,
        *,
        flips: bool,
        identity: dict[str, Any],
        folder: Path,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self.teacher, self.device, self.bf16 = teacher, device, bf16
        self.orientations = 2 if flips else 1
        self.images: Pixels = center_crop(pool.images, image_size)
        key = digest_of(
            {"teacher": identity, "pool": pool.digest, "orientations": self.orientations, "size": teacher.image_size.plain,
             "given": [ImageSize.of(image_size).plain, *teacher.given], "own": list(teacher.own), "bf16": bf16, "width": teacher.width}
        )[:16]  # fmt: skip
        self.path = folder / FOLDER / f"{key}.npy"
        self.computed = 0  # images in this process
        self._rows: NDArray[np.float16] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, orientations, d)."""
        return len(self.images), self.orientations, self.teacher.width

    def complete(self, stage: str | None = "pretrain") -> None:
        """Compute what is missing.

        Args:
            stage: whose time the computation is; None: of an earlier one.

        Raises:
            EdgekitError: a feature is not finite, or too large for float16.
        """
        if is_timing():
            self._rows = self._timed(stage)
            return
        done = self._done(self.path)
        if done < len(self.images):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = np.lib.format.open_memmap(self.path, mode="r+" if done else "w+", dtype=np.float16, shape=self.shape)
            with progress("teacher", len(self.images), unit="images", done=done) as advance:
                for start in range(done, len(self.images), _BATCH):
                    stop = min(start + _BATCH, len(self.images))
                    rows[start:stop] = self._features(self.images[start:stop])
                    self.computed += stop - start
                    advance(stop - start)
                    if stop == len(self.images) or (start // _BATCH + 1) % _PART == 0:
                        rows.flush()
                        write_json(self.path.with_suffix(".json"), {"done": stop})
            del rows
        self._rows = np.load(self.path, mmap_mode="r")

    def __call__(self, index: Tensor, mirrored: Tensor) -> Tensor:
        """Features, float32 (n, d) on the CPU, of the images at `index` (n), of their mirror images where `mirrored` (n)."""
        assert self._rows is not None
        side = mirrored.cpu().numpy().astype(np.int64) if self.orientations == 2 else 0
        return torch.from_numpy(np.asarray(self._rows[index.cpu().numpy(), side], dtype=np.float32))

    def means(self, index: Tensor) -> Tensor:
        """Mean over the orientations of the features of the images at `index` (n), float32 (n, d) on the CPU."""
        assert self._rows is not None
        return torch.from_numpy(np.asarray(self._rows[index.cpu().numpy()], dtype=np.float32)).mean(1)

    def _timed(self, stage: str | None) -> NDArray[np.float16]:
        """Compute the first of the missing batches only, to measure how long all of them take; the other features stay zero.

        Those that the run keeps already are neither computed nor counted.
        """
        run = timed_run()
        path = self.path if run is None else run / FOLDER / self.path.name
        kept = self._done(path)
        # Pages that are never written take no memory, and those of the file are copied when they are written.
        rows = np.load(path, mmap_mode="c") if kept else np.zeros(self.shape, np.float16)
        steps = math.ceil((len(self.images) - kept) / _BATCH)
        timing = timed_training(stage, steps, 1, _BATCH, prepares=True) if stage and steps else None
        if timing is None:
            return rows
        for step in range(timing.most):
            begin = kept + step * _BATCH
            part = self._features(self.images[begin : begin + _BATCH])
            rows[begin : begin + len(part)] = part
            if timing.tick():
                break
        return rows

    def _done(self, path: Path) -> int:
        """How many images in the file of an earlier session are complete; 0 if it is missing or of another shape."""
        try:
            done = read_json(path.with_suffix(".json"))["done"]
            rows = np.load(path, mmap_mode="r")
        except (Unreadable, OSError, ValueError, KeyError, EOFError):
            return 0
        fits = rows.shape == self.shape and rows.dtype == np.float16
        return done if fits and isinstance(done, int) and 0 <= done <= len(self.images) else 0

    def _features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        images = normalize(torch.tensor(pixels, device=self.device), *self.teacher.given)
        both = [images, images.flip(3)][: self.orientations]
        with self._precision():
            features = torch.stack([self.teacher(one).float() for one in both], dim=1).cpu().numpy()
        with np.errstate(over="ignore"):
            rows = features.astype(np.float16)
        if not np.isfinite(rows).all():
            raise EdgekitError(
                f"pretrain.teacher: {self.teacher.title}: its features are not finite, or larger than 65,504",
                "use another teacher, or wrap it so that it normalizes its features",
            )
        return rows

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
