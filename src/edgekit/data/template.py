"""The recipe that `edgekit init` writes: one template, filled in with what the folder holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from edgekit import recipe as recipes
from edgekit.data.layout import Layout, ratio_name
from edgekit.data.sources import DIGITS, is_digits
from edgekit.recipe import SMALL_IMAGE, Architecture
from edgekit.sizes import ImageSize
from edgekit.text import counted

_TEMPLATE = """\
# A recipe for edgekit: {summary}
# Train it with `edgekit train {file}`. Missing keys have their defaults, see `edgekit schema recipe`.
{measured}
name: {name}   # the run is written to runs/NAME
{task}seed: 0   # seed of the initial weights, batches and augmentation

data:
{data}
  probe: {probe:g}   # share of `labeled` that trains no model: it measures the encoder (kNN, linear probe)
  labels: {labels}   # {labels_why}
  label_seed: 0   # another seed draws other labels
  split_seed: 0   # another seed draws another probe set, and another test set if `test` is a share
  image_size: {image_size}   # size of the images that the models take, in pixels: a side, or [height, width]; {size_why}
  fit: crop   # crop: keep the aspect ratio and cut out the center; stretch: resize to image_size, so that nothing is cut off
  max_skipped: 0.01   # largest share of files that may be unreadable; with more, the data is refused

pretrain:   # SimCLR on all images, without labels
  method: simclr
  encoder: {{name: {encoder}, width: {encoder_width:g}{stem}}}   # the teacher: any network of torchvision or timm; width scales a ResNet's channels
  projection: {{layers: 3, output: {projection}}}   # 3: SimCLR v2, 2: SimCLR v1
  temperature: {temperature:g}   # of the loss: 0.5 for small images and short trainings, 0.1 for large images and long trainings
  epochs: {pretrain_epochs}   # longer is nearly always better; auto: depends on the number of images
  batch_size: {pretrain_batch}   # at most the number of images; each image is compared with all others of its batch
  optimizer: {{{pretrain_optimizer}}}   # {optimizer_why}
  augmentation: {{{augmentation}}}   # {augmentation_why}

finetune:   # train the teacher on the label budget: start from a linear probe on the encoder, then train all layers
  keep_projection_layers: 0   # layers of the projection head to keep; SimCLR v2 keeps 1
  consistency: {{enabled: true}}   # also learn from the pool: confident predictions for weak views are pseudo-labels for strong views
  epochs: {finetune_epochs}   # {label_epochs_why}
{finetune_steps}  batch_size: {finetune_batch}   # with fewer labels, all of them are one batch
  optimizer: {{{finetune_optimizer}}}
  augmentation: {{{plain}}}

distill:   # train the student on the predictions of the teacher for all images
  student: {{name: {student}, width: {student_width:g}{stem}}}   # the model for the device, of torchvision or timm, such as mobilenetv3_small_100
{distill_loss}  temperature: {distill_temperature:g}   # above 1, the student also learns which wrong classes the teacher finds likely
  {mixup}
  labeled_weight: 0.0   # share of the loss on the true labels; the rest is the loss on the predictions of the teacher
  epochs: {distill_epochs}
  batch_size: {distill_batch}
  optimizer: {{{distill_optimizer}}}
  augmentation: {{{plain}}}

supervised:   # the baseline: the student's architecture, trained from scratch on the label budget
  enabled: true
  epochs: {supervised_epochs}
{supervised_steps}  batch_size: {supervised_batch}
  optimizer: {{{supervised_optimizer}}}
  augmentation: {{{plain}}}
{hardware}"""

# What a CSV file with several classes of an image adds.
_MULTILABEL = """\
task: multilabel   # any number of classes for each image; classification: one class for each image
"""
_CONSISTENCY = """\
  consistency: {enabled: true}   # also learn from the pool: confident predictions for weak views are pseudo-labels for strong views
"""
_NO_CONSISTENCY = """\
  consistency: {enabled: false}   # a pseudo-label is the one class of an image, and these have any number of classes
"""
# What `edgekit init --task recognition` adds.
_RECOGNITION = """\
task: recognition   # `edgekit export` gives the embedding alone; then `edgekit gallery create runs/NAME/export-recognition FOLDER`
"""
_KEEPS_GEOMETRY = """\
  loss: feature   # the student also learns the teacher's embedding, by which a gallery recognizes classes without training
"""

_MIXED = "mixup: 0.5   # mix each image with another one, at most half; 0: off"
_NOT_MIXED = "mixup: 0.0   # off, so that images of classes that are not labeled here lie among the others as the teacher has them"

# With fewer images, an epoch has few steps, and AdamW (tuned on digits) is better than SGD (tuned on CIFAR-10).
_MANY = 10_000
_FEW_STEPS = "name: adamw, lr: 2.0e-3, scale_lr: false, weight_decay: 1.0e-4, warmup: 0.05"
_FLIP, _NO_FLIP = "flip: 0.5", "flip: 0.0"
_FEW_STEPS_WHY = "with few images there are few steps, for which adamw is best"


@dataclass(frozen=True)
class RecipePlan:
    """The settings that fit a machine and a time limit (see `edgekit.train.planning`).

    Args:
        image_size: of the models' images, in pixels.
        encoder: architecture of the teacher.
        student: architecture of the student.
        pretrain_epochs: epochs that fit.
        distill_epochs: epochs that fit; auto without labels, where only pretraining can be measured.
        finetune_steps: steps that fit; None if `auto` fits.
        supervised_steps: steps that fit; None if `auto` fits.
        precision: auto, or fp32 if that is faster.
        threads: of the training on a CPU; None for PyTorch's choice.
        flip: whether the augmentation mirrors images.
        measured: comments for the recipe, one line each.
    """

    image_size: ImageSize
    encoder: Architecture
    student: Architecture
    pretrain_epochs: int
    distill_epochs: int | str
    finetune_steps: int | None = None
    supervised_steps: int | None = None
    precision: str = "auto"
    threads: int | None = None
    flip: bool = True
    measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelCounts:
    """Approximate number of images of each set: the exact ones are known once the images are decoded."""

    probe_share: float
    labeled: int
    pool: int
    probe: int
    test: int

    @classmethod
    def of(cls, layout: Layout) -> LabelCounts:
        """Estimate the counts of a folder with the recipe written for it; `labeled` is the largest possible budget."""
        probe = 0.1 if layout.smallest_class >= 10 else 0.0
        test = 0.0 if layout.test else 0.2
        images = layout.labeled_images
        labeled = max(2, round(images * (1 - probe - test)))
        return cls(
            probe,
            labeled,
            layout.pool_images or labeled,
            round(images * probe),
            layout.test_images or round(images * test),
        )


@dataclass(frozen=True)
class _TemplateValues:
    """The values of the template; `values_for_images` adapts them to the images, `_for_digits` returns those of the embedded digits."""

    encoder: str = "resnet18"
    encoder_width: float = 1.0
    student: str = "resnet18"
    student_width: float = 0.5
    projection: int = 128
    temperature: float = 0.5
    pretrain_epochs: int | str = "auto"
    pretrain_batch: int = 256
    pretrain_optimizer: str = "name: sgd, lr: 0.12, weight_decay: 5.0e-4, warmup: 0.05"
    optimizer_why: str = "lr is for a batch of 256 and scales with batch_size; prefer lars for batches over 1,000"
    augmentation: str = f"crop_scale: [0.2, 1.0], {_FLIP}, jitter: 0.8, gray: 0.2"
    augmentation_why: str = "set flip to 0 if left and right matter, jitter and gray to 0 if color matters"
    finetune_epochs: int | str = "auto"
    finetune_steps: str = ""
    label_epochs_why: str = "auto: enough steps for any number of labels; a number: passes over the labeled images"
    finetune_batch: int = 256
    finetune_optimizer: str = "name: adamw, lr: 1.0e-3, scale_lr: false, weight_decay: 1.0e-4"
    plain: str = f"crop_scale: [0.4, 1.0], {_FLIP}"
    distill_temperature: float = 2.0
    distill_epochs: int | str = "auto"
    distill_batch: int = 256
    distill_optimizer: str = "name: sgd, lr: 0.2, weight_decay: 1.0e-4, warmup: 0.02"
    supervised_epochs: int | str = "auto"
    supervised_steps: str = ""
    supervised_batch: int = 256
    supervised_optimizer: str = (
        _FEW_STEPS  # enough to fit the labels: an undertrained baseline would make the student look too good
    )
    stem: str = ""
    hardware: str = ""
    measured: str = (
        "# Nothing was measured: `epochs: auto` depends on the number of images and labels, not on a time limit."
    )


def _for_digits() -> _TemplateValues:
    """Return the values of examples/digits.yaml: gray 8x8 digits, of which a mirrored one is another sign."""
    return _TemplateValues(
        encoder="resnet10",
        encoder_width=0.25,
        student="resnet10",
        student_width=0.125,
        projection=64,
        temperature=0.2,
        pretrain_epochs=125,
        pretrain_optimizer=_FEW_STEPS,
        optimizer_why=_FEW_STEPS_WHY,
        augmentation="crop_scale: [0.4, 1.0], flip: 0.0, jitter: 0.0, gray: 0.0",
        augmentation_why="no flip: a mirrored digit is another sign; no color changes: the images are gray",
        plain="crop_scale: [0.6, 1.0], flip: 0.0",
        finetune_epochs=600,
        finetune_batch=30,
        distill_epochs=40,
        distill_batch=128,
        distill_optimizer="name: adamw, lr: 4.0e-3, scale_lr: false, weight_decay: 1.0e-4, warmup: 0.07",
        supervised_epochs=100,
        supervised_batch=30,
        measured="# The values were tuned on these digits; training takes a few minutes on two cores.",
    )


def values_for_images(images: int, image_size: ImageSize) -> _TemplateValues:
    """Choose batches that the images fill several times; nothing depends on the labels, so the recipe fits any label budget."""
    small = image_size.shorter <= SMALL_IMAGE
    batch = _power_of_two(images // 4, 2, 256)
    labeled_batch = 256 if small else 64
    values = _TemplateValues(
        pretrain_batch=batch,
        distill_batch=batch,
        finetune_batch=labeled_batch,
        supervised_batch=labeled_batch,
        temperature=0.5 if small else 0.1,
    )
    return values if images >= _MANY else replace(values, pretrain_optimizer=_FEW_STEPS, optimizer_why=_FEW_STEPS_WHY)


def recipe_text(
    layout: Layout,
    name: str | None = None,
    file: str = "recipe.yaml",
    labels: str | None = None,
    plan: RecipePlan | None = None,
    task: str = "classification",
) -> str:
    """Return a commented, valid recipe for a folder.

    Args:
        layout: what the folder holds.
        name: of the run; default: the name of the folder.
        file: name of the recipe file.
        labels: the label budget as YAML; default: all labels, for the digits three per class.
        plan: the measured settings; None: `epochs` of every stage is auto.
        task: classification or recognition; images with several classes are of the task multilabel.

    Raises:
        RecipeError: the name is not a valid name of a run, or the budget is invalid.
    """
    digits = is_digits(layout.labeled)
    counts = LabelCounts.of(layout)
    image_size = ImageSize(16, 16) if digits else layout.image_size
    labels_why = (
        "label budget: a share (0.1; 1.0: all labels), a count per class (20), or a CSV file with the column `file`"
    )
    if layout.labeled is None:
        labels, labels_why = (
            labels or "1.0",
            "no labels yet; later a CSV file with the columns file,class: labels.csv",
        )
    image_size = plan.image_size if plan is not None else image_size
    values = _for_digits() if digits else values_for_images(counts.pool, image_size)
    if plan is not None:
        values = _planned(values, plan)
    text = _TEMPLATE.format(
        **vars(values),
        summary=_summary(layout),
        task=_MULTILABEL if layout.several else _RECOGNITION if task == "recognition" else "",
        distill_loss=_KEEPS_GEOMETRY if task == "recognition" else "",
        mixup=_NOT_MIXED if task == "recognition" else _MIXED,
        file=file,
        name=json.dumps(name if name is not None else run_name(layout.name)),
        data="\n".join(_data_lines(layout)),
        probe=counts.probe_share,
        labels=labels or ("3" if digits else "1.0"),
        labels_why=labels_why,
        image_size=image_size.plain,
        size_why=_size_why(layout),
    )
    if layout.several:
        text = text.replace(_CONSISTENCY, _NO_CONSISTENCY)
    recipes.parse(recipes.read_yaml(text), where="recipe")
    return text


def _size_why(layout: Layout) -> str:
    median = f"the median of the shorter side of the images is {layout.side}"
    if layout.aspect == 1:
        return median
    return f"{median}, and nearly all are {ratio_name(layout.aspect)}: this size keeps that shape (docs/data.md has the rule)"


def _planned(values: _TemplateValues, plan: RecipePlan) -> _TemplateValues:
    """Return the values, updated with the measured ones."""

    def steps(count: int | None) -> str:
        return f"  steps: {count}   # the steps that `auto` aims for: more would take too long\n" if count else ""

    if not plan.flip:
        why = "no flip: a classifier recognizes mirrored images, see above; set jitter and gray to 0 if color matters"
        values = replace(
            values,
            augmentation=values.augmentation.replace(_FLIP, _NO_FLIP),
            plain=values.plain.replace(_FLIP, _NO_FLIP),
            augmentation_why=why,
        )
    return replace(
        values,
        encoder=plan.encoder.name,
        encoder_width=plan.encoder.width,
        student=plan.student.name,
        student_width=plan.student.width,
        stem="" if plan.encoder.stem == "auto" else f", stem: {plan.encoder.stem}",
        pretrain_epochs=plan.pretrain_epochs,
        distill_epochs=plan.distill_epochs,
        finetune_epochs="auto",
        finetune_steps=steps(plan.finetune_steps),
        supervised_epochs="auto",
        supervised_steps=steps(plan.supervised_steps),
        hardware=_hardware(plan),
        measured="\n".join(f"# {line}" for line in plan.measured),
    )


def _hardware(plan: RecipePlan) -> str:
    lines = [] if plan.precision == "auto" else [f"  precision: {plan.precision}   # was faster here"]
    if plan.threads is not None:
        lines.append(f"  threads: {plan.threads}   # was faster here while other programs ran; null: all processors")
    return "\n".join(["", "hardware:", *lines, ""]) if lines else ""


def _data_lines(layout: Layout) -> list[str]:
    if layout.labeled is None:
        return [
            "  labeled: null   # no class folders: `labels` is a CSV file with the columns file,class (see `edgekit label suggest`)",
            f"  pool: {quoted(layout.pool or '')}   # all images: {layout.pool_images:,}",
            "  test: 0.1   # share of the pool that training never sees: the labeled images in it are the test set"
            if layout.test is None
            else f"  test: {quoted(layout.test)}   # {layout.test_images:,} images; their classes are those that `labels` may name",
        ]
    if is_digits(layout.labeled):
        which = "" if layout.labeled == DIGITS else " of these; the other digits are new to a gallery (docs/data.md)"
        lines = [
            f"  labeled: {layout.labeled}   # scikit-learn's handwritten digits: {layout.labeled_images:,} gray images of 8x8 pixels{which}"
            + (", nothing to download" if layout.labeled == DIGITS else "")
        ]
    else:
        kind = "images and their classes" if layout.labeled.lower().endswith(".csv") else "one sub-folder per class"
        lines = [f"  labeled: {quoted(layout.labeled)}   # {kind}: {layout.labeled_images:,} images"]
    if layout.pool is not None:
        lines.append(f"  pool: {quoted(layout.pool)}   # unlabeled images: {layout.pool_images:,}")
    else:
        lines.append("  pool: null   # folder of unlabeled images; null: the images of `labeled`, without their labels")
    if layout.test is not None:
        lines.append(f"  test: {quoted(layout.test)}   # {layout.test_images:,} images, of the same classes")
    else:
        lines.append(
            "  test: 0.2   # share of `labeled` that is held out for the final score, or a folder like `labeled`"
        )
    return lines


def _summary(layout: Layout) -> str:
    if layout.labeled is None:
        return "images without labels. Only the encoder is trained until `labels` is set."
    shown = ", ".join(layout.classes[:8]) + (", …" if len(layout.classes) > 8 else "")
    return f"{counted(len(layout.classes), 'class', 'classes')} ({shown})"


def run_name(folder: str) -> str:
    """Return the default name of the run of a folder, which is given without its path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).strip("-._") or "images"


def quoted(path: str) -> str:
    """Return a path as YAML."""
    return json.dumps(path, ensure_ascii=False)


def _power_of_two(value: float, low: int, high: int) -> int:
    """Return the largest power of two up to `value`, between `low` and `high`."""
    return max(low, min(high, 1 << max(0, int(value).bit_length() - 1)))
