"""Teachers: of the run, of other runs, and networks of the user. Each takes the images of the student, and converts their normalization."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.data.images import ImageSet, spread_rows
from edgekit.errors import RecipeError
from edgekit.files import sha256
from edgekit.models.checkpoints import digest_of_weights
from edgekit.models.class_order import hits, natural
from edgekit.models.factories import network_of, source_file, users_code
from edgekit.models.pixels import Statistics, normalize, resized
from edgekit.models.pretrained import published
from edgekit.models.store import load_classifier
from edgekit.models.weights import LoadedWeights, load_weights
from edgekit.recipe import OWN, PRETRAINED, DataConfig, TeacherSource
from edgekit.run import Run
from edgekit.sizes import ImageSize, SizeLike
from edgekit.stages import MODEL_OF
from edgekit.text import counted
from edgekit.train.distill.named_teachers import named_classifier

_WHERE = "distill.teachers"


class Teacher:
    """A frozen classifier: in evaluation mode, without gradients, and not part of the checkpoint.

    Args:
        model: maps images (n, 3, h, w) with its own normalization to logits (n, classes).
        image_size: h and w, in pixels.
        scale: factor that converts the student's normalized images, one number or one per channel.
        shift: added after the factor, to get the normalization of the teacher.
        given: mean and standard deviation of the student's images, which are resized to h and w if they have another size.
    """

    def __init__(
        self,
        model: nn.Module,
        image_size: SizeLike,
        scale: Statistics = 1.0,
        shift: Statistics = 0.0,
        given: tuple[float, float] = (0.5, 0.25),
    ) -> None:
        self.image_size, self.given = ImageSize.of(image_size), given
        self.model = model.eval().requires_grad_(False)
        self.scale, self.shift = (torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (scale, shift))
        self.as_it_is = scale == 1.0 and shift == 0.0
        self.device = torch.device("cpu")
        self._seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._last = self._find_last()
        self.loaded: LoadedWeights | None = None  # what came from a file of weights

    @property
    def embedding_dim(self) -> int:
        """The input width of the last layer.

        Raises:
            RecipeError: the last layer is not a Linear.
        """
        if self._last is None:
            raise RecipeError(
                f"distill.loss is feature, but the last layer of the teacher ({type(self.model).__name__}) is not an nn.Linear, whose input is "
                "the embedding",
                "set distill.loss to kd or dkd",
            )
        return self._last.in_features

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, classes) and embedding (n, d) of the student's images (n, 3, h, w); (n, 0) without an embedding."""
        if images.device != self.device:
            self.device = images.device
            self.model = self.model.to(self.device)
            self.scale, self.shift = self.scale.to(self.device), self.shift.to(self.device)
        images = resized(images, self.image_size, *self.given)
        logits = self.model(images if self.as_it_is else images * self.scale + self.shift)
        embedding = self._seen.pop(self._last)[0] if self._last is not None else logits.new_zeros(len(logits), 0)
        return logits, embedding

    def _find_last(self) -> nn.Linear | None:
        """Return the Linear layer whose outputs are the logits; from now on, its inputs are recorded."""
        linears = [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        hooks = {m: m.register_forward_hook(self._note) for m in linears}
        with torch.no_grad():
            logits = self.model(torch.rand(2, 3, *self.image_size, generator=torch.Generator().manual_seed(0)))
        last = next((m for m in self._seen if self._seen[m][1] is logits and self._seen[m][0].ndim == 2), None)
        for module, hook in hooks.items():
            if module is not last:
                hook.remove()
        self._seen.clear()
        return last if isinstance(last, nn.Linear) else None

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen[module] = inputs[0], output


def load_teachers(
    sources: Sequence[TeacherSource], run: Run, data: DataConfig, classes: list[str], *, own: bool = True
) -> list[Teacher]:
    """Load the teachers of a recipe.

    Args:
        sources: `distill.teachers`.
        run: the run that distills; `own` is its fine-tuned model.
        data: image size and normalization of the student's images.
        classes: the required classes of the logits, in this order.
        own: false leaves out the run's own teacher, which may not exist yet when the others are checked. The teacher of the pretraining is
            always left out: see `edgekit.train.stages.probed_teacher`.

    Raises:
        EdgekitError: a teacher cannot be found, imported or loaded, or has other classes or another image size.
    """
    teachers = []
    for source in sources:
        if source.of_this_run:
            if own and source.model == OWN:
                teachers.append(_of_stage(run, "finetune", run, data, classes))
        elif source.library is not None:
            teachers.append(_of_library(source, data, classes))
        elif source.factory is not None:
            teachers.append(_of_factory(source, data, classes))
        else:
            other, stage = locate(source.model, run)
            teachers.append(_of_stage(other, stage, run, data, classes))
    return teachers


def check_order(
    sources: Sequence[TeacherSource],
    teachers: Sequence[Teacher],
    data: DataConfig,
    labeled: ImageSet,
    classes: list[str],
) -> None:
    """Refuse a network of the user whose logits are in numerical order of the class names; those of edgekit are in alphabetical order.

    Args:
        sources: `distill.teachers`.
        teachers: of all but those of the run itself, in their order.
        data: image size and normalization of the student's images.
        labeled: images with labels, which show the order.
        classes: names, sorted.

    Raises:
        RecipeError: it is clearly more accurate in the other order.
    """
    by_number = natural(classes)
    several = labeled.labels is not None and labeled.labels.ndim == 2
    if by_number == classes or classes != sorted(classes) or several:
        return
    images = labeled.subset(spread_rows(len(labeled), 512)).center_crop(data.image_size)
    assert images.labels is not None
    pixels = torch.from_numpy(np.ascontiguousarray(images.images))
    for source, teacher in zip([s for s in sources if not s.of_this_run], teachers, strict=True):
        if source.factory is None and source.library is None:
            continue
        decided = [teacher(normalize(part, data.mean, data.std))[0].argmax(1) for part in pixels.split(32)]
        right, ours, certain = hits(
            (by_number, classes), torch.cat(decided).numpy(), [classes[i] for i in images.labels]
        )
        if certain and right > ours:
            raise RecipeError(
                f"{_WHERE}: {source.model}: its classes are in the order {', '.join(by_number[:4])}, … ({right} of {len(images)} "
                f"labeled images correct), those of the run in the order {', '.join(classes[:4])}, … ({ours} correct)",
                "return the logits in the order of the run, or name the class folders with leading zeros",
            )


def identity(source: TeacherSource, run: Run) -> dict[str, Any]:
    """Return the identity of a teacher that the run does not make, for the inputs of a stage.

    Raises:
        EdgekitError: it cannot be found.
    """
    if source.factory is not None:
        module, _ = source.factory
        assert source.weights is not None
        return {
            "factory": source.model,
            "source": sha256(source_file(module, f"{_WHERE}: {source.model}")),
            "weights": digest_of_weights(source.weights, f"{_WHERE}.weights"),
            "mean": source.mean,
            "std": source.std,
            **_set_keys(source),
        }
    if source.library is not None:
        assert source.weights is not None
        weights = (
            {"published": published(*source.library, _WHERE).source}
            if source.weights == PRETRAINED
            else {"weights": digest_of_weights(source.weights, f"{_WHERE}.weights")}
        )
        return {"network": source.model, **weights, "mean": source.mean, "std": source.std, **_set_keys(source)}
    other, stage = locate(source.model, run)
    pixels = other.recipe.data
    return {"model": other.require(stage).outputs["model.safetensors"], "mean": pixels.mean, "std": pixels.std}


def _set_keys(source: TeacherSource) -> dict[str, Any]:
    """Return the keys that older records lack, where they are set."""
    size = None if source.image_size is None else source.image_size.plain
    keys = {"weights_key": source.weights_key, "image_size": size}
    return {key: value for key, value in keys.items() if value is not None}


def locate(where: str, run: Run) -> tuple[Run, str]:
    """Return the run and the stage of a path: the folder of a run (its fine-tuned model), or of one of its stages.

    Raises:
        EdgekitError: there is no such run, or it is the one that distills.
    """
    path = Path(where).expanduser()
    stage = path.name if (path / "model.json").is_file() and path.name in MODEL_OF else ""
    other = Run.open(path.parent if stage else path)
    if other.path.resolve() == run.path.resolve():
        raise RecipeError(
            f"{_WHERE}: {where} belongs to the run that distills",
            "write own for its fine-tuned model, or name another run",
        )
    return other, stage or "finetune"


def _of_stage(other: Run, stage: str, run: Run, data: DataConfig, classes: list[str]) -> Teacher:
    model = load_classifier(other.stage_path(stage), other.require(stage).outputs)
    where = f"{_WHERE}: {other.stage_path(stage)}"
    if model.classes != classes:
        raise RecipeError(
            f"{where}: has {counted(len(model.classes), 'class', 'classes')} ({', '.join(model.classes[:5])}…), data.labeled has {len(classes)} "
            f"({', '.join(classes[:5])}…)",
            "use a teacher with the same classes in the same order",
        )
    if model.image_size != data.image_size:
        raise RecipeError(
            f"{where}: takes images of {model.image_size} px, but data.image_size is {data.image_size}",
            f"set data.image_size to {model.image_size.plain}",
        )
    its = data if other.path == run.path else other.recipe.data
    if its.classes_per_image != data.classes_per_image:
        raise RecipeError(
            f"{where}: was trained for the task {other.recipe.task}, which gives other probabilities than this recipe's",
            "use a teacher of the same task",
        )
    return Teacher(model, data.image_size, *_renormalized(data, its.mean, its.std), given=(data.mean, data.std))


def _of_library(source: TeacherSource, data: DataConfig, classes: list[str]) -> Teacher:
    size = source.image_size or data.image_size
    model, loaded, known = named_classifier(source, len(classes), size, f"{_WHERE}: {source.model}")
    mean: Statistics = source.mean if source.mean is not None else known.mean if known is not None else data.mean
    std: Statistics = source.std if source.std is not None else known.std if known is not None else data.std
    teacher = _tried(model, f"{_WHERE}: {source.model}", size, (mean, std), data, classes)
    teacher.loaded = loaded
    return teacher


def _tried(
    model: nn.Module,
    where: str,
    size: ImageSize,
    own: tuple[Statistics, Statistics],
    data: DataConfig,
    classes: list[str],
) -> Teacher:
    """Try a network on two images, and make it a teacher.

    Raises:
        RecipeError: it fails, or does not return the logits of the classes.
    """
    what = f"{where}: fails on images {(2, 3, *size)}"
    with users_code(
        what, "a teacher must map images of three channels to logits; set its image_size to the size that it takes"
    ):
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, 3, *size))
        _check_logits(logits, classes, where)
        return Teacher(model, size, *_renormalized(data, *own), given=(data.mean, data.std))


def _of_factory(source: TeacherSource, data: DataConfig, classes: list[str]) -> Teacher:
    assert source.factory is not None
    assert source.weights is not None
    where = f"{_WHERE}: {source.model}"
    mean, std = (data.mean if source.mean is None else source.mean), (data.std if source.std is None else source.std)
    model = network_of(source.factory, where)
    loaded = load_weights(model, source.weights, _WHERE, weights_key=source.weights_key)
    teacher = _tried(model, where, source.image_size or data.image_size, (mean, std), data, classes)
    teacher.loaded = loaded
    return teacher


def _check_logits(logits: Any, classes: list[str], where: str) -> None:
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise RecipeError(
            f"{where}: returned {shape} for two images, not logits (2, {len(classes)})",
            "wrap the network so that it returns logits",
        )
    if logits.shape[1] != len(classes):
        raise RecipeError(
            f"{where}: returned {counted(logits.shape[1], 'logit')}, but data.labeled has {counted(len(classes), 'class', 'classes')}",
            "use a teacher with the same classes, in alphabetical order",
        )


def _renormalized(data: DataConfig, mean: Statistics, std: Statistics) -> tuple[Statistics, Statistics]:
    """Return scale and shift that convert the student's normalization to another: ((x * std + mean) - its mean) / its std."""
    if (mean, std) == (data.mean, data.std):
        return 1.0, 0.0
    means, stds = (v if isinstance(v, tuple) else (v, v, v) for v in (mean, std))
    scale, shift = [data.std / s for s in stds], [(data.mean - m) / s for m, s in zip(means, stds, strict=True)]
    return (scale[0], scale[1], scale[2]), (shift[0], shift[1], shift[2])
