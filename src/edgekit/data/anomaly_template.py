"""The recipe that `edgekit init --task anomaly` writes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from edgekit import recipe as recipes
from edgekit.data.anomaly_layouts import GOOD, AnomalyImages, list_images
from edgekit.data.labels import share
from edgekit.data.layout import HeaderSample, standard_size
from edgekit.data.template import quoted, run_name, values_for_images
from edgekit.data.textures import SIDE, TEXTURES
from edgekit.recipe import DataConfig
from edgekit.sizes import ImageSize

_TEMPLATE = """\
# A recipe for edgekit: anomaly detection, from {normal:,} normal images.
# Train it with `edgekit train {file}`. Missing keys have their defaults, see `edgekit schema recipe`.

name: {name}   # the run is written to runs/NAME
task: anomaly
seed: 0   # seed of the initial weights, the batches, the augmentation and the draws

data:
  normal: {where}   # {holds}
  probe: {probe:g}   # {probe_why}
{test}  split_seed: 0   # another seed draws other held-out images
  image_size: {image_size}   # side of the square images that the model takes, in pixels; {size_why}
  fit: stretch   # stretch: the whole image, so that a defect at the border is seen; crop: keep the aspect ratio and cut out the center
  max_skipped: 0.01   # largest share of files that may be unreadable; with more, the data is refused

pretrain:   # SimCLR on the normal images; it is skipped if `anomaly.encoder` names weights
  method: simclr
  encoder: {{name: {encoder}, width: {width:g}}}   # any network of torchvision or timm
  temperature: {temperature:g}
  epochs: {epochs}   # few, if all images show nearly the same: see the warning of a collapse; auto: depends on the number of images
  batch_size: {batch}   # at most the number of images
  optimizer: {{{optimizer}}}
  augmentation: {{crop_scale: [0.2, 1.0], flip: 0.5, jitter: 0.8, gray: 0.2}}   # set jitter and gray to 0 if color tells defects
  # tiles: {{side: 0.375, count: 4}}   # compare windows of the images in place of whole ones; try it if the projections collapse

anomaly:   # compare the feature maps of each image with those of normal images
  method: patchcore   # patchcore: parts may lie anywhere; padim: every image shows the same place, for instance a part in a fixture; stfpm: smallest
  # encoder: {{name: "timm:resnet18.a1_in1k", weights: pretrained}}   # published weights are better than training on few images
  coreset: auto   # patchcore: patches that are kept, a number or a share of all: more are more exact, slower and larger; auto: 1 %, 2,000 at least
  trim: 0.0   # share of the images above that may have defects after all: so many of the most unusual ones are left out
  threshold: normal   # normal: from held-out normal images; labeled: the best F1 on half of the test images
  false_alarms: 0.05   # share of normal images that may be called anomalous; 5 % needs 19 held-out images, 1 % needs 99
"""

_TEST_SHARE = "  test: 0.2   # share of the normal images that is tested with the anomalous ones: the CSV file has no column `split`\n"
_FEWEST = 19  # held-out images for a threshold with 5 % false alarms
_SHARES = (0.1, 0.15, 0.2, 0.25, 0.3)
# Networks that a processor trains in minutes on a few hundred images.
_ENCODER, _WIDTH = "resnet10", 0.5
# The textures are nearly alike, so that longer pretraining collapses: AUROC of three seeds 0.87 to 0.90 with 10 epochs, 0.81 to 0.87 with 40.
_TEXTURES_EPOCHS = 10


def anomaly_recipe_text(where: str, name: str | None = None, file: str = "recipe.yaml") -> tuple[str, list[str]]:
    """Return a commented, valid recipe for a set that `edgekit.data.anomaly_layouts.list_images` can list, and notes for the user.

    Args:
        where: the folder, the CSV file, or `textures`.
        name: of the run; default: that of the folder or file.
        file: name of the recipe file.

    Raises:
        DataError: as in `list_images`; or no image can be read.
        RecipeError: the name is not a valid name of a run.
    """
    listed = list_images(DataConfig(normal=where))
    counts = Counter(listed.parts)
    normal, held_out = counts["train"] + counts["any"], counts["validation"]
    if where == TEXTURES:
        side, notes = SIDE, list[str]()
    else:
        sample = HeaderSample(listed.source)
        side, notes = sample.median_side(), [*listed.source.notes, *sample.notes()]
    image_size = standard_size(side)
    probe = 0.0 if held_out else next((p for p in _SHARES if share(normal, p) >= _FEWEST), 0.2)
    values = values_for_images(round(normal * (1 - probe)), ImageSize.of(image_size))
    text = _TEMPLATE.format(
        normal=normal,
        file=file,
        name=json.dumps(name if name is not None else run_name(_folder_name(where))),
        where=where if where == TEXTURES else quoted(where.rstrip("/") or where),
        holds=_holds(listed, where),
        probe=probe,
        probe_why=f"`validation` has {held_out:,} normal images for the threshold"
        if held_out
        else f"share of the normal images that no model learns from, about {share(normal, probe)}: the threshold is set on them",
        test=_TEST_SHARE if counts["any"] else "",
        image_size=image_size,
        size_why=f"the median of the shorter side of the images is {side}",
        encoder=_ENCODER,
        width=_WIDTH,
        temperature=values.temperature,
        epochs=_TEXTURES_EPOCHS if where == TEXTURES else values.pretrain_epochs,
        batch=values.pretrain_batch,
        optimizer=values.pretrain_optimizer,
    )
    recipes.parse(recipes.read_yaml(text), where="recipe")
    return text, notes


def _holds(listed: AnomalyImages, where: str) -> str:
    """Say in a comment what a set holds."""
    tests = Counter(defect for defect, part in zip(listed.defects, listed.parts, strict=True) if part == "test")
    good, kinds = tests.pop(GOOD, 0), sorted(tests)
    begin = "generated, nothing to download: " if where == TEXTURES else ""
    if not tests and not good:
        return f"{begin}normal images; no test images, so nothing can be scored"
    named = f" ({', '.join(kinds[:6])}{', …' if len(kinds) > 6 else ''})" if kinds else ""
    return f"{begin}normal images; test images: {good:,} normal, {sum(tests.values()):,} anomalous{named}"


def _folder_name(where: str) -> str:
    path = Path(where).expanduser().resolve()
    return path.stem if path.suffix.lower() == ".csv" else path.name
