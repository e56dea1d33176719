"""A recipe for this machine and a time: a few real steps choose the network, the image size and the epochs that fit.

The networks are tried from the cheapest to the dearest, each with a few steps of its real pretraining, as long as the pretraining
gets the epochs that it wants. Then every stage of the chosen one is measured, and the time is shared out.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit import recipe as recipes
from edgekit.data.images import ImageSet
from edgekit.data.layout import SIZES, Layout
from edgekit.data.source import ImageSource
from edgekit.data.sources import DIGITS, open_labeled, open_pool
from edgekit.data.splits import Splits, training_preprocessing
from edgekit.data.template import Counts, RecipePlan, recipe_text
from edgekit.errors import EdgekitError
from edgekit.machine import cpu_name, has_native_bf16
from edgekit.preprocess import Preprocessing
from edgekit.processors import usable_cpus
from edgekit.progress import duration
from edgekit.recipe import SMALL_IMAGE, Architecture, LabelCount, Recipe, settled
from edgekit.train.analysis.symmetry import CLEARLY, FEWEST, SIDE, mirrored_told_apart
from edgekit.train.estimate import StageTime, measure
from edgekit.train.loop.devices import device_for

# On 6,000 small images, 200 epochs of a narrow ResNet-18 (1.2 million images seen) beat fewer of a wider one.
_SEEN = 1_200_000
_WANTED = (30, 200)  # epochs of pretraining, at least and at most, before a larger network is worth its time
_MOST = {"pretrain": 800, "distill": 300}  # epochs: beyond these, images only repeat
_DISTILLED = (
    0.22  # share of what pretraining and distillation have together: a step costs half as much, and fewer suffice
)
_LABELS_SHARE = 0.25  # of the time, which fine-tuning and the network from scratch may take together
_CLEARLY = 0.8  # by so much must float32 be faster, or the difference may be the measurement's
_QUICK = 4  # steps that tell a network's speed
_SAMPLE = 64  # files that are decoded to learn how long one takes
_MIRRORED = 1000  # images that are mirrored to learn whether that may be done
_MIRRORED_SECONDS = 10.0  # for reading them


@dataclass(frozen=True)
class PlannedNetwork:
    """A network and an image size that may be chosen."""

    image_size: int
    encoder: Architecture

    @property
    def student(self) -> Architecture:
        """Half as wide, but not below the narrowest that is tried."""
        return self.encoder.model_copy(update={"width": max(0.25, self.encoder.width / 2)})

    def __str__(self) -> str:
        stem = "" if self.encoder.stem == "auto" else f", {self.encoder.stem} stem"
        return f"{self.encoder.name} x{self.encoder.width:g}{stem}, {self.image_size} px"


def ladder(image_size: int) -> list[PlannedNetwork]:
    """The choices for images of a size, from the cheapest to the dearest."""

    def rung(size: int, width: float, stem: Any = "auto") -> PlannedNetwork:
        return PlannedNetwork(size, Architecture(name="resnet18", width=width, stem=stem))

    small = image_size <= SMALL_IMAGE
    smaller = [rung(image_size, 0.25, "strided")] if small else [rung(s, 0.25) for s in SIZES if 64 < s < image_size]
    return [*smaller, *(rung(image_size, width) for width in (0.25, 0.5, 1.0))]


def wanted_epochs(images: int) -> int:
    """Epochs of pretraining that a pool of so many images deserves before a larger network does."""
    return min(max(round(_SEEN / images), _WANTED[0]), _WANTED[1])


def label_count(labels: int | float | str | LabelCount, layout: Layout) -> int:
    """About how many labels a budget has; of a file, as many lines as it has."""
    counts = Counts.of(layout)
    if isinstance(labels, str):
        with open(os.path.expanduser(labels), encoding="utf-8-sig", errors="replace") as stream:
            return max(2, sum(1 for line in stream if line.strip()) - 1)
    each = labels.per_class if isinstance(labels, LabelCount) else labels
    count = each * len(layout.classes) if isinstance(each, int) else each * layout.labeled_images
    return max(2, min(counts.labeled, round(count)))


def plan(
    layout: Layout,
    labels: str | None,
    seconds: float,
    say: Callable[[str], None] = lambda text: None,
    start_up: float = 0.0,
) -> tuple[RecipePlan, float]:
    """Measure, and choose.

    Args:
        layout: what the folder holds.
        labels: the label budget as YAML; None for the default.
        seconds: for the whole training.
        say: told what is being measured.
        start_up: seconds of `seconds` that the training takes to load the libraries.

    Returns:
        The plan, and the seconds that the training will take.

    Raises:
        EdgekitError: the time is too short for any network, or a stage cannot be trained.
    """
    planner = _Planner(layout, labels, seconds, say, start_up)
    rung = planner.choose()
    return planner.share_out(rung)


class _Planner:
    def __init__(
        self, layout: Layout, labels: str | None, seconds: float, say: Callable[[str], None], start_up: float
    ) -> None:
        self.layout, self.labels, self.seconds, self.say = layout, labels, seconds, say
        self.counts = Counts.of(layout)
        self.start_up = start_up
        self.decoding = self._decoding()
        self.mirrored = self._mirrored()
        self.flip = self.mirrored is None or self.mirrored < CLEARLY

    def choose(self) -> PlannedNetwork:
        """The largest network whose pretraining gets the epochs that it wants; else the cheapest."""
        wanted = wanted_epochs(self.counts.pool)
        chosen: PlannedNetwork | None = None
        for rung in ladder(self.layout.image_size):
            self.say(f"measuring {rung}")
            recipe, splits = self._recipe(rung)
            times, _ = measure(recipe, splits, "pretrain", _QUICK)
            epoch = _epoch_seconds(times["pretrain"])
            affordable = self._free() * (1 - _LABELS_SHARE) * (1 - _DISTILLED) / max(epoch, 1e-6)
            if chosen is None or affordable >= wanted:
                chosen = rung
            if affordable < 2 * wanted:  # the next one takes more than twice as long
                break
        assert chosen is not None
        return chosen

    def share_out(self, rung: PlannedNetwork) -> tuple[RecipePlan, float]:
        """The epochs of each stage that fit."""
        self.say(f"measuring every stage of {rung}")
        recipe, splits = self._recipe(rung)
        times, took = measure(recipe, splits)
        precision, comparison = "auto", ""
        if device_for(recipe.hardware).type == "cpu" and has_native_bf16():
            precision, comparison, times, more = self._faster(rung, times)
            took += more
        fixed = self.start_up + self.decoding + took + sum(stage.other for stage in times.values())
        steps, of_labels = self._label_steps(recipe, times, fixed)
        pretrain = _epoch_seconds(times["pretrain"])
        distill = _epoch_seconds(times["distill"]) if "distill" in times else 0.0
        free = self.seconds - fixed - of_labels
        # Of a pile without labels, the later stages are not known: what they will need is left to them.
        distill_epochs = min(_MOST["distill"], math.floor(free * _DISTILLED / distill)) if distill else 1
        left = free - max(1, distill_epochs) * distill if distill else free * (1 - _LABELS_SHARE) * (1 - _DISTILLED)
        pretrain_epochs = min(_MOST["pretrain"], math.floor(left / pretrain))
        if distill_epochs < 1 or pretrain_epochs < 1:
            least = fixed + of_labels + (pretrain + distill) / (1 - _DISTILLED) / (1 - _LABELS_SHARE)
            raise EdgekitError(
                f"--time {duration(self.seconds)} is too short here: one epoch of pretraining takes {duration(pretrain)}",
                f"give at least {math.ceil(1.2 * least / 60)}m, or fewer or smaller images",
            )
        total = fixed + of_labels + pretrain_epochs * pretrain + distill_epochs * distill
        shares = {
            "pretrain": pretrain_epochs * pretrain,
            "distill": distill_epochs * distill,
            "fine-tuning and from scratch": of_labels,
        }
        chosen = RecipePlan(
            rung.image_size, rung.encoder, rung.student, pretrain_epochs, distill_epochs if distill else "auto", steps.get("finetune"),
            steps.get("supervised"), precision, self.flip, tuple(self._comments(times, shares, fixed, total, comparison)),
        )  # fmt: skip
        return chosen, total

    def _faster(
        self, rung: PlannedNetwork, times: dict[str, StageTime]
    ) -> tuple[str, str, dict[str, StageTime], float]:
        """Whether float32 is faster than the bfloat16 that `auto` takes here: by the processor time of one thread, since threads that
        wait for each other on a busy machine spend some, too."""
        spent, threads = dict[str, float](), torch.get_num_threads()
        try:
            for precision in ("bf16", "fp32"):
                recipe, splits = self._recipe(rung, precision)
                alone = recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"threads": 1})})
                found, _ = measure(alone, splits, "pretrain", _QUICK)
                spent[precision] = found["pretrain"].trainings[-1].processor_seconds
        finally:
            torch.set_num_threads(threads)
        comparison = (
            f"a step of pretraining takes {spent['bf16']:.3g} s of one core in bf16 and {spent['fp32']:.3g} s in fp32"
        )
        if spent["bf16"] * _CLEARLY <= spent["fp32"]:
            return "auto", comparison, times, 0.0
        recipe, splits = self._recipe(rung, "fp32")
        times, more = measure(recipe, splits)
        return "fp32", comparison, times, more

    def _label_steps(self, recipe: Recipe, times: dict[str, StageTime], fixed: float) -> tuple[dict[str, int], float]:
        """Steps of fine-tuning and of the network from scratch where `auto` takes too long, and the seconds of both."""
        stages: list[str] = [stage for stage in ("finetune", "supervised") if stage in times]
        own = {stage: times[stage].seconds - times[stage].other for stage in stages}
        allowed = _LABELS_SHARE * max(0.0, self.seconds - fixed)
        if sum(own.values()) <= allowed:
            return {}, sum(own.values())
        share = allowed / sum(own.values())
        steps: dict[str, int] = {
            stage: max(1, math.floor(share * max(training.steps for training in times[stage].trainings)))
            for stage in stages
        }
        return steps, allowed

    def _free(self) -> float:
        return max(1.0, self.seconds - self.start_up - self.decoding)

    def _recipe(self, rung: PlannedNetwork, precision: str = "auto") -> tuple[Recipe, Splits]:
        """The recipe that would be written, and stand-ins for its images: as many, and as large."""
        draft = RecipePlan(rung.image_size, rung.encoder, rung.student, 100, 100, precision=precision, flip=self.flip)
        recipe = recipes.parse(recipes.read_yaml(recipe_text(self.layout, labels=self.labels, plan=draft)))
        splits = stand_in(recipe, self.layout)
        return settled(recipe, len(splits.pool), len(splits.labeled)), splits

    @cached_property
    def sources(self) -> list[ImageSource]:
        """What is trained on first, then the test images."""
        layout = self.layout
        sources = [open_pool(layout.pool)] if layout.pool else []
        sources += [open_labeled(layout.labeled)] if layout.labeled else []
        return [*sources, open_labeled(layout.test)] if layout.test else sources

    def _mirrored(self) -> float | None:
        """How well mirrored images are told from the pool's; None where that was not tried: too few, or digits, which have a recipe."""
        if self.layout.labeled == DIGITS:
            return None
        self.say("comparing images with their mirror images")
        source, reduced = self.sources[0], Preprocessing(image_size=SIDE, resize_to=SIDE)
        order, began, images = np.random.default_rng(0).permutation(len(source.names)), time.monotonic(), []
        for row in order[:_MIRRORED].tolist():
            if time.monotonic() - began > _MIRRORED_SECONDS:
                break
            with suppress(EdgekitError):  # unreadable, or of a depth whose range is found later
                images.append(reduced(source.rgb(row)))
        return mirrored_told_apart(np.stack(images)) if len(images) >= FEWEST else None

    def _decoding(self) -> float:
        """Seconds until all images are decoded."""
        total = 0.0
        data = recipes.parse(recipes.read_yaml(recipe_text(self.layout, labels=self.labels))).data
        for source in self.sources:
            rows = range(0, len(source.names), math.ceil(len(source.names) / _SAMPLE))
            began, read = time.perf_counter(), 0
            for row in rows:
                try:
                    training_preprocessing(data)(source.rgb(row))
                    read += 1
                except EdgekitError:
                    continue  # unreadable, or of a depth whose range is found later
            total += (time.perf_counter() - began) / len(rows) * len(source.names) / usable_cpus()
        return total

    def _comments(
        self, times: dict[str, StageTime], shares: dict[str, float], fixed: float, total: float, comparison: str
    ) -> Iterator[str]:
        device = f"{cpu_name()}, {usable_cpus()} CPUs"
        yield f"For {duration(self.seconds)} on this machine ({device}); the whole training should take {duration(total)}:"
        parts = [f"{name} {duration(value)}" for name, value in shares.items() if value]
        yield f"{', '.join(parts)}, all else {duration(fixed)}."
        if self.mirrored is not None:
            decision = "they are flipped at random" if self.flip else "none is flipped"
            yield f"A classifier tells {self.mirrored:.0%} of the images from their mirror images (chance: 50%), so {decision}."
        steps = ", ".join(f"{name} {_step_seconds(stage):.3g} s" for name, stage in times.items() if stage.trainings)
        yield f"Measured steps: {steps}." + (f" {comparison[:1].upper()}{comparison[1:]}." if comparison else "")


def stand_in(recipe: Recipe, layout: Layout) -> Splits:
    """Noise in place of a folder's images, as many as there are; the numbers are those of the layout, without decoding anything."""
    counts, data = Counts.of(layout), recipe.data
    classes = layout.classes
    side = training_preprocessing(data).image_size
    noise = np.random.default_rng(0)

    def images(name: str, count: int, size: int, labeled: bool) -> ImageSet:
        few: NDArray[np.uint8] = noise.integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        pixels = np.broadcast_to(few, (count, size, size, 3))  # takes the memory of one image
        labels = np.arange(count, dtype=np.int64) % max(1, len(classes)) if labeled else None
        names = [f"{name}{i}" for i in range(count)]
        return ImageSet(pixels, names, names, labels)

    budget = label_count(data.labels, layout)
    return Splits(
        classes,
        images("pool", counts.pool, side, False),
        images("labeled", budget if layout.labeled else 0, side, True),
        images("probe", counts.probe, data.image_size, True),
        images("test", max(1, counts.test) if layout.labeled else 0, data.image_size, True),
        [],
        [],
    )


def _step_seconds(stage: StageTime) -> float:
    return stage.trainings[-1].step_seconds


def _epoch_seconds(stage: StageTime) -> float:
    training = stage.trainings[-1]
    return max(1e-6, training.seconds(training.steps // training.epochs, 1))
