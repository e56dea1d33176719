"""The recipe that `edgekit init` writes: one template, filled in with what the folder holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from edgekit import recipe as recipes
from edgekit.data.labels import share
from edgekit.data.layout import Layout
from edgekit.data.sources import DIGITS
from edgekit.recipe import SMALL_IMAGE

_TEMPLATE = """\
# A recipe for edgekit: {summary}
# Train it with `edgekit train {file}`. What is left out has the default that `edgekit schema recipe` describes.
name: {name}   # the run goes to runs/NAME
seed: 0   # of weights, batches and augmentation

data:
{data}
  probe: {probe:g}   # share of `labelled` kept apart: measures the encoder (kNN, linear probe), never trains the models
  labels: {labels}   # {labels_why}
  label_seed: 0   # another seed draws other labels
  split_seed: 0   # another seed draws another probe set, and test set where `test` is a share
  image_size: {image_size}   # side of the square that the models take, in pixels; {size_why}
  fit: crop   # crop: keep the shape and cut the centre out; stretch: squash to the square, so that nothing is cut off
  max_skipped: 0.01   # refuse the data when a larger share of the files cannot be decoded

pretrain:   # SimCLR on all images, without labels
  method: simclr
  encoder: {{name: {encoder}, width: {encoder_width:g}}}   # the teacher: any of torchvision or timm; width scales a ResNet's channels
  projection: {{layers: 3, output: {projection}}}   # 3: SimCLR v2, 2: SimCLR v1
  temperature: {temperature:g}   # of the loss: 0.5 suits small images and short trainings, 0.1 long trainings of large ones
  epochs: {pretrain_epochs}   # the more images, the fewer; longer is nearly always better
  batch_size: {pretrain_batch}   # at most the number of images; an image is compared with all others of its batch
  optimizer: {{{pretrain_optimizer}}}   # {optimizer_why}
  augmentation: {{{augmentation}}}   # {augmentation_why}

finetune:   # the teacher, on the label budget: from the linear probe on the encoder, then all layers
  keep_projection_layers: 0   # of the projection head; 1: SimCLR v2's
  consistency: {{enabled: true}}   # also learn from the pool: confident answers to weak views are pseudo-labels for strong ones
  epochs: {finetune_epochs}
  batch_size: {finetune_batch}
  optimizer: {{{finetune_optimizer}}}
  augmentation: {{{plain}}}

distill:   # the teacher's answers on all images train the student
  student: {{name: {student}, width: {student_width:g}}}   # what goes to the device: any of torchvision or timm, for instance mobilenetv3_small_100
  temperature: {distill_temperature:g}   # above 1, the student also learns which wrong answers are nearly right
  labelled_weight: 0.0   # share of the true labels in the student's loss, beside the teacher's answers
  epochs: {distill_epochs}
  batch_size: {distill_batch}
  optimizer: {{{distill_optimizer}}}
  augmentation: {{{plain}}}

supervised:   # the student's architecture from scratch on the label budget: what all this must beat
  enabled: true
  epochs: {supervised_epochs}
  batch_size: {supervised_batch}
  optimizer: {{{supervised_optimizer}}}
  augmentation: {{{plain}}}
"""


# Below this many images an epoch has few steps; AdamW (tried on digits) then gets further than SGD (tried on CIFAR-10).
_MANY = 10_000
_FIRST_LABELS = 50  # of a pile: what the later stages are sized for
_FEW_STEPS = "name: adamw, lr: 2.0e-3, scale_lr: false, weight_decay: 1.0e-4, warmup_epochs: 5"
_FEW_STEPS_WHY = "few images make few steps, which adamw uses best"


@dataclass(frozen=True)
class _Values:
    """What the template says about training; `_for_images` fits it to the images, `_for_digits` holds the embedded data's own."""

    encoder: str = "resnet18"
    encoder_width: float = 1.0
    student: str = "resnet18"
    student_width: float = 0.5
    projection: int = 128
    temperature: float = 0.5
    pretrain_epochs: int = 100
    pretrain_batch: int = 256
    pretrain_optimizer: str = "name: sgd, lr: 0.12, weight_decay: 5.0e-4, warmup_epochs: 5"
    optimizer_why: str = "lr is for a batch of 256 and scales with it; lars suits batches over 1,000"
    augmentation: str = "crop_scale: [0.2, 1.0], flip: 0.5, jitter: 0.8, grey: 0.2"
    augmentation_why: str = "set flip to 0 where left and right matter, jitter and grey to 0 where colour does"
    finetune_epochs: int = 60
    finetune_batch: int = 64
    finetune_optimizer: str = "name: adamw, lr: 1.0e-3, scale_lr: false, weight_decay: 1.0e-4"
    plain: str = "crop_scale: [0.4, 1.0], flip: 0.5"
    distill_temperature: float = 2.0
    distill_epochs: int = 100
    distill_batch: int = 256
    distill_optimizer: str = "name: sgd, lr: 0.2, weight_decay: 1.0e-4, warmup_epochs: 2"
    supervised_epochs: int = 100
    supervised_batch: int = 64
    supervised_optimizer: str = (
        _FEW_STEPS  # until it fits its labels: an undertrained baseline would flatter the student
    )


def _for_digits() -> _Values:
    """The values of examples/digits.yaml. Grey 8x8 digits: a mirrored digit is another sign, and there is no colour to change."""
    return _Values(
        encoder="resnet10",
        encoder_width=0.25,
        student="resnet10",
        student_width=0.125,
        projection=64,
        temperature=0.2,
        pretrain_epochs=80,
        pretrain_optimizer=_FEW_STEPS,
        optimizer_why=_FEW_STEPS_WHY,
        augmentation="crop_scale: [0.4, 1.0], flip: 0.0, jitter: 0.0, grey: 0.0",
        augmentation_why="no flip, a mirrored digit is another sign; no colour to change",
        plain="crop_scale: [0.6, 1.0], flip: 0.0",
        finetune_epochs=150,
        finetune_batch=30,
        distill_epochs=30,
        distill_batch=128,
        distill_optimizer="name: adamw, lr: 4.0e-3, scale_lr: false, weight_decay: 1.0e-4, warmup_epochs: 2",
        supervised_epochs=300,
        supervised_batch=30,
    )


def _for_images(images: int, labels: int, image_size: int) -> _Values:
    """Batches that the images fill several times, and epochs for about as many views as 100 epochs of CIFAR-10 have."""
    small = image_size <= SMALL_IMAGE
    batch = _power_of_two(images // 4, 2, 512 if small else 256)
    epochs = min(500, max(50, _rounded(5_000_000 / images)))
    few = _power_of_two(labels // 4, 2, 64)
    values = _Values(
        pretrain_epochs=epochs,
        pretrain_batch=batch,
        distill_epochs=max(20, epochs // 2),
        distill_batch=batch,
        finetune_epochs=min(150, max(30, _rounded(30_000 / max(1, labels)))),
        finetune_batch=few,
        supervised_epochs=min(300, max(60, _rounded(100_000 / max(1, labels)))),
        supervised_batch=few,
        temperature=0.5 if small else 0.1,
    )
    return values if images >= _MANY else replace(values, pretrain_optimizer=_FEW_STEPS, optimizer_why=_FEW_STEPS_WHY)


def recipe_text(layout: Layout, name: str | None = None, file: str = "recipe.yaml") -> str:
    """A commented recipe for a folder; it is valid as it stands.

    Args:
        layout: what the folder holds.
        name: of the run; default the folder's.
        file: what the recipe will be called.

    Raises:
        RecipeError: the name is not one that a run can have.
    """
    digits = layout.labelled == DIGITS
    image_size = 16 if digits else layout.image_size
    probe = 0.1 if layout.smallest_class >= 10 else 0.0
    test_share = 0.0 if layout.test else 0.2
    trained = round(layout.labelled_images * (1 - probe - test_share))
    labels = "3" if digits else "1.0"
    labelled = 30 if digits else share(trained, float(labels))
    labels_why = "label budget: a share (0.1), a count a class (20), or a CSV file with the column `file`; 1.0 is every label there is"
    if layout.labelled is None:
        labels, labelled = "1.0", _FIRST_LABELS
        labels_why = "no labels yet; later the CSV file with the columns file,class: labels.csv"
    values = _for_digits() if digits else _for_images(layout.pool_images or trained, labelled, image_size)
    text = _TEMPLATE.format(
        **vars(values),
        summary=_summary(layout),
        file=file,
        name=json.dumps(name if name is not None else _run_name(layout)),
        data="\n".join(_data_lines(layout)),
        probe=probe,
        labels=labels,
        labels_why=labels_why,
        image_size=image_size,
        size_why=f"the images' shorter side is {layout.side} in the median",
    )
    recipes.parse(recipes.read_yaml(text), where="recipe")
    return text


def _data_lines(layout: Layout) -> list[str]:
    if layout.labelled is None:
        return [
            "  labelled: null   # no class folders: `labels` names the labels, a CSV file with the columns file,class (edgekit label suggest)",
            f"  pool: {_quoted(layout.pool or '')}   # all images: {layout.pool_images:,}",
            "  test: 0.1   # share of the pool that training never sees: the labels of these images measure the models",
        ]
    if layout.labelled == DIGITS:
        lines = [
            f"  labelled: {DIGITS}   # scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, nothing to download"
        ]
    else:
        lines = [
            f"  labelled: {_quoted(layout.labelled)}   # one sub-folder a class: {layout.labelled_images:,} images"
        ]
    if layout.pool is not None:
        lines.append(f"  pool: {_quoted(layout.pool)}   # images without labels: {layout.pool_images:,}")
    else:
        lines.append("  pool: null   # folder of unlabelled images; null: those of `labelled`, their labels unseen")
    if layout.test is not None:
        lines.append(f"  test: {_quoted(layout.test)}   # {layout.test_images:,} images, of the same classes")
    else:
        lines.append("  test: 0.2   # share of `labelled` held out for the final score; or a folder like `labelled`")
    return lines


def _summary(layout: Layout) -> str:
    if layout.labelled is None:
        return "a pile of images without labels. Only the encoder is trained until `labels` names some."
    shown = ", ".join(layout.classes[:8]) + (", …" if len(layout.classes) > 8 else "")
    return f"{len(layout.classes)} classes ({shown})"


def _run_name(layout: Layout) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", layout.name).strip("-._") or "images"


def _quoted(path: str) -> str:
    return json.dumps(path, ensure_ascii=False)


def _power_of_two(value: float, low: int, high: int) -> int:
    """The largest power of two up to `value`, between `low` and `high`."""
    return max(low, min(high, 1 << max(0, int(value).bit_length() - 1)))


def _rounded(value: float) -> int:
    """A number of epochs with one digit that is not 0, or 5 in the second place."""
    step = 10 ** max(0, len(str(int(value))) - 1) // 2 or 1
    return max(1, round(value / step) * step)
