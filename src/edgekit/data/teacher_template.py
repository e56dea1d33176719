"""The part of the recipe that `edgekit init --teacher` writes: a pretrained encoder teaches its representation, without labels."""

from __future__ import annotations

import re

_BLOCK = """\
pretrain:   # a pretrained encoder teaches its representation on all images, without labels
  method: distill
  teacher: {teacher}   # {teacher_why}
  objective: cosine   # or mse, seed, compress, maps: what is learned of its features
  target: image   # image: it sees each image and its mirror image once, and its features are kept; view: every augmented view, slower
  projection: {{layers: 1}}   # to the width of the teacher's features; fine-tuning starts from the encoder before it
  encoder: {encoder}   # the network that learns: any network of torchvision or timm
  epochs: {epochs}   # longer is nearly always better; auto: depends on the number of images
  batch_size: {batch}   # at most the number of images
  optimizer: {{name: adamw, lr: 1.0e-3, scale_lr: false, weight_decay: 1.0e-4, warmup: 0.05}}
  augmentation: {augmentation}
"""

_TEACHERS = """\
  teachers: [{model: pretrain.teacher}]   # its features and a linear classifier on the labels; own: the fine-tuned network; with many labels, both
"""


def with_teacher(text: str, source: str, why: str) -> str:
    """Return a recipe of `edgekit.data.template` whose pretraining is distillation from a teacher, which then teaches the classes, too.

    Args:
        text: the recipe.
        source: `pretrain.teacher`, as YAML.
        why: a comment on it.
    """
    begin, end = text.index("\npretrain:") + 1, text.index("\nfinetune:") + 1
    section = text[begin:end]

    def value(key: str, after: str = "") -> str:
        found = re.search(rf"^  {key}: (\{{.*?\}}|[^ #]+)", after or section, re.MULTILINE)
        assert found is not None, key
        return found[1]

    block = _BLOCK.format(
        teacher=source, teacher_why=why, encoder=value("encoder"), epochs=value("epochs"), batch=value("batch_size"),
        augmentation=value("augmentation", text[end:]),
    )  # fmt: skip
    later = re.sub(r"^distill:.*\n", lambda found: found[0] + _TEACHERS, text[end:], count=1, flags=re.MULTILINE)
    return text[:begin] + block + "\n" + later
