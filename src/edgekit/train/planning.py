"""Plan a recipe for this machine and a time limit: measure a few real steps, and choose the network, the image size and the epochs.

The networks are measured from the cheapest to the most expensive, each with a few real steps of pretraining, as long as the wanted
epochs of pretraining fit. Then every stage of the chosen network is measured, and the time is divided among the stages.
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
from edgekit.data.layout import SIZES, Layout, shaped
from edgekit.data.source import ImageSource
from edgekit.data.sources import is_digits, open_labeled, open_pool
from edgekit.data.splits import Splits, training_preprocessing
from edgekit.data.template import LabelCounts, RecipePlan, recipe_text
from edgekit.errors import EdgekitError
from edgekit.machine import cpu_name, has_native_bf16
from edgekit.preprocess import Preprocessing
from edgekit.processors import load_of_others, usable_cpus
from edgekit.progress import duration
from edgekit.recipe import SMALL_IMAGE, Architecture, DataConfig, LabelCount, Recipe, settled
from edgekit.sizes import ImageSize
from edgekit.text import counted
from edgekit.train.advice.rules import ENOUGH_STEPS
from edgekit.train.analysis.symmetry import CLEARLY, FEWEST, SIDE, mirrored_told_apart
from edgekit.train.estimate import StageTime, measure
from edgekit.train.loop.devices import device_for
from edgekit.train.time_division import DISTILLED, LABELS_SHARE, TimeDivision, divide_time, epoch_seconds

# On 6,000 small images, 200 epochs of a narrow ResNet-18 (1.2 million images seen) beat fewer of a wider one.
_SEEN = 1_200_000
_WANTED = (30, 200)  # epochs of pretraining, at least and at most, before a larger network is worth its time
_CLEARLY = 0.8  # float32 must take at most this share of the time of bfloat16: a smaller difference may be noise
_QUICK = 4  # steps to measure the speed of a network
_SAMPLE = 64  # files to decode to measure the time per file
_MIRRORED = 1000  # images to test whether they may be mirrored
_MIRRORED_SECONDS = 10.0  # limit for reading them


@dataclass(frozen=True)
class PlannedNetwork:
    """A candidate: a network and an image size."""

    image_size: ImageSize
    encoder: Architecture

    @property
    def student(self) -> Architecture:
        """The student: half as wide as the encoder, but not narrower than the narrowest candidate."""
        return self.encoder.model_copy(update={"width": max(0.25, self.encoder.width / 2)})

    def __str__(self) -> str:
        stem = "" if self.encoder.stem == "auto" else f", {self.encoder.stem} stem"
        return f"{self.encoder.name} x{self.encoder.width:g}{stem}, {self.image_size} px"


def candidate_networks(side: int, aspect: float = 1.0) -> list[PlannedNetwork]:
    """Return the candidates for images of a size, from the cheapest to the most expensive.

    Args:
        side: of the square with as many pixels (`Layout.standard_side`).
        aspect: width by height of all sizes.
    """

    def candidate(side: int, width: float, stem: Any = "auto") -> PlannedNetwork:
        return PlannedNetwork(shaped(side, aspect), Architecture(name="resnet18", width=width, stem=stem))

    small = side <= SMALL_IMAGE
    smaller = [candidate(side, 0.25, "strided")] if small else [candidate(s, 0.25) for s in SIZES if 64 < s < side]
    return [*smaller, *(candidate(side, width) for width in (0.25, 0.5, 1.0))]


def wanted_epochs(images: int) -> int:
    """Return the epochs of pretraining that a pool should get before a larger network is chosen."""
    return min(max(round(_SEEN / images), _WANTED[0]), _WANTED[1])


def label_count(labels: int | float | str | LabelCount, layout: Layout) -> int:
    """Estimate the number of labels of a budget; for a file, its number of lines."""
    counts = LabelCounts.of(layout)
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
    """Measure candidate networks on this machine and choose the settings that fit the time.

    Args:
        layout: what the folder holds.
        labels: the label budget as YAML; None for the default.
        seconds: for the whole training.
        say: called with a text before each measurement.
        start_up: part of `seconds` that the training takes to load the libraries.

    Returns:
        The plan, and the seconds that the training will take.

    Raises:
        EdgekitError: the time is too short for any network, or a stage cannot be trained.
    """
    planner = _Planner(layout, labels, seconds, say, start_up)
    planner.choose_threads()
    network = planner.choose()
    return planner.share_out(network)


class _Planner:
    def __init__(
        self, layout: Layout, labels: str | None, seconds: float, say: Callable[[str], None], start_up: float
    ) -> None:
        self.layout, self.labels, self.seconds, self.say = layout, labels, seconds, say
        self.counts = LabelCounts.of(layout)
        self.start_up = start_up
        self.threads: int | None = None
        self.decoding = self._decoding()
        self.mirrored = self._mirrored()
        self.flip = self.mirrored is None or self.mirrored < CLEARLY

    def choose_threads(self) -> None:
        """On a busy machine, choose one thread if a step is faster with it: several threads wait for one another at every operation."""
        if load_of_others(0.25) is None or torch.get_num_threads() == 1:
            return
        recipe, splits = self._recipe(candidate_networks(self.layout.standard_side, self.layout.aspect)[0])
        if device_for(recipe.hardware).type != "cpu":
            return
        self.say("measuring one thread and several")
        seconds = dict[int | None, float]()
        for threads in (None, 1):
            times, _ = self._with_threads(threads, recipe, splits)
            seconds[threads] = times["pretrain"].trainings[-1].step_seconds
        if seconds[1] < _CLEARLY * seconds[None]:
            self.threads = 1

    def choose(self) -> PlannedNetwork:
        """Return the largest network that gets the wanted epochs of pretraining, or else the cheapest."""
        wanted = wanted_epochs(self.counts.pool)
        chosen: PlannedNetwork | None = None
        for network in candidate_networks(self.layout.standard_side, self.layout.aspect):
            self.say(f"measuring {network}")
            recipe, splits = self._recipe(network)
            times, _ = measure(recipe, splits, "pretrain", _QUICK)
            epoch = epoch_seconds(times["pretrain"])
            affordable = self._free() * (1 - LABELS_SHARE) * (1 - DISTILLED) / max(epoch, 1e-6)
            if chosen is None or affordable >= wanted:
                chosen = network
            if affordable < 2 * wanted:  # the next one takes more than twice as long
                break
        assert chosen is not None
        return chosen

    def share_out(self, network: PlannedNetwork) -> tuple[RecipePlan, float]:
        """Divide the time: choose the epochs of each stage."""
        self.say(f"measuring every stage of {network}")
        recipe, splits = self._recipe(network)
        times, took = measure(recipe, splits)
        precision, comparison = "auto", ""
        if device_for(recipe.hardware).type == "cpu" and has_native_bf16():
            precision, comparison, times, more = self._faster(network, times)
            took += more
        fixed = self.start_up + self.decoding + took + sum(stage.other for stage in times.values())
        division = divide_time(self.seconds, fixed, recipe, splits, times)
        pretrain = epoch_seconds(times["pretrain"])
        distill = epoch_seconds(times["distill"]) if "distill" in times else 0.0
        total = fixed + division.of_labels + division.pretrain_epochs * pretrain + division.distill_epochs * distill
        shares = {
            "pretrain": division.pretrain_epochs * pretrain,
            "distill": division.distill_epochs * distill,
            "fine-tuning and from scratch": division.of_labels,
        }
        self._say_if_short(division, times, total)
        chosen = RecipePlan(
            network.image_size, network.encoder, network.student, division.pretrain_epochs, division.distill_epochs if distill else "auto",
            division.steps.get("finetune"), division.steps.get("supervised"), precision, self.threads, self.flip,
            tuple(self._comments(times, shares, fixed, total, comparison)),
        )  # fmt: skip
        return chosen, total

    def _say_if_short(self, division: TimeDivision, times: dict[str, StageTime], total: float) -> None:
        """Say where the time is too short for enough epochs of pretraining, or for as many steps of distillation as the advice asks for."""
        wanted = wanted_epochs(self.counts.pool)
        short = []  # what fits and what is better, and the seconds of the whole training with that
        if division.pretrain_epochs < wanted / 4:
            missing = (wanted - division.pretrain_epochs) * epoch_seconds(times["pretrain"])
            short.append(
                (
                    f"{counted(division.pretrain_epochs, 'epoch')} of pretraining fit, and {wanted}",
                    missing / (1 - DISTILLED),
                )
            )
        if division.distill_epochs:
            steps = times["distill"].trainings[-1].steps / times["distill"].trainings[-1].epochs
            if (fit := round(steps * division.distill_epochs)) < ENOUGH_STEPS:
                missing = (ENOUGH_STEPS / steps - division.distill_epochs) * epoch_seconds(times["distill"])
                short.append((f"{counted(fit, 'step')} of distillation fit, and {ENOUGH_STEPS}", missing / DISTILLED))
        if short:
            enough = total + max(more for _, more in short) / (1 - LABELS_SHARE)
            self.say(
                f"note: {duration(self.seconds)} is short for this machine now: {'; '.join(f'{what} are better' for what, _ in short)}: "
                f"give about --time {math.ceil(enough / 60)}m"
            )

    def _faster(
        self, network: PlannedNetwork, times: dict[str, StageTime]
    ) -> tuple[str, str, dict[str, StageTime], float]:
        """Return whether float32 is faster than the bfloat16 of `auto`, by the processor time of one thread: with several threads, waiting
        on a busy machine takes processor time, too."""
        spent = dict[str, float]()
        for precision in ("bf16", "fp32"):
            measured, _ = self._with_threads(1, *self._recipe(network, precision))
            spent[precision] = measured["pretrain"].trainings[-1].processor_seconds
        comparison = (
            f"a step of pretraining takes {spent['bf16']:.3g} s of one core in bf16 and {spent['fp32']:.3g} s in fp32"
        )
        if spent["bf16"] * _CLEARLY <= spent["fp32"]:
            return "auto", comparison, times, 0.0
        recipe, splits = self._recipe(network, "fp32")
        times, more = measure(recipe, splits)
        return "fp32", comparison, times, more

    def _with_threads(self, threads: int | None, recipe: Recipe, splits: Splits) -> tuple[dict[str, StageTime], float]:
        """Measure some steps of pretraining with so many threads; afterwards there are as many as before."""
        before = torch.get_num_threads()
        hardware = recipe.hardware.model_copy(update={"threads": threads})
        try:
            return measure(recipe.model_copy(update={"hardware": hardware}), splits, "pretrain", _QUICK)
        finally:
            torch.set_num_threads(before)

    def _free(self) -> float:
        return max(1.0, self.seconds - self.start_up - self.decoding)

    def _recipe(self, network: PlannedNetwork, precision: str = "auto") -> tuple[Recipe, Splits]:
        """Return the recipe that would be written, and stand-ins for its images, in the same number and size."""
        draft = RecipePlan(
            network.image_size, network.encoder, network.student, 100, 100, precision=precision, threads=self.threads, flip=self.flip,
        )  # fmt: skip
        recipe = recipes.parse(recipes.read_yaml(recipe_text(self.layout, labels=self.labels, plan=draft)))
        splits = stand_in(recipe, self.layout)
        return settled(recipe, len(splits.pool), len(splits.labeled)), splits

    @cached_property
    def sources(self) -> list[ImageSource]:
        """The sources: training images first, then the test images."""
        layout = self.layout
        sources = [open_pool(layout.pool)] if layout.pool else []
        data = DataConfig(classes_per_image="any" if layout.several else "one")
        sources += [open_labeled(layout.labeled, data=data)] if layout.labeled else []
        return [*sources, open_labeled(layout.test, data=data)] if layout.test else sources

    def _mirrored(self) -> float | None:
        """Return how well mirrored images are distinguished from those of the pool; None for too few images, or for digits."""
        if is_digits(self.layout.labeled):
            return None
        self.say("comparing images with their mirror images")
        source, reduced = self.sources[0], Preprocessing(image_size=SIDE, resize_to=SIDE)
        order, began, images = np.random.default_rng(0).permutation(len(source.names)), time.monotonic(), []
        for row in order[:_MIRRORED].tolist():
            if time.monotonic() - began > _MIRRORED_SECONDS:
                break
            with suppress(EdgekitError):  # unreadable, or a deep image whose range is measured later
                images.append(reduced(source.rgb(row)))
        return mirrored_told_apart(np.stack(images)) if len(images) >= FEWEST else None

    def _decoding(self) -> float:
        """Return the seconds to decode all images."""
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
                    continue  # unreadable, or a deep image whose range is measured later
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
            decision = "images are flipped at random" if self.flip else "no image is flipped"
            yield f"A classifier distinguishes {self.mirrored:.0%} of the images from their mirror images (chance: 50%), so {decision}."
        steps = ", ".join(f"{name} {_step_seconds(stage):.3g} s" for name, stage in times.items() if stage.trainings)
        yield f"Measured steps: {steps}." + (f" {comparison[:1].upper()}{comparison[1:]}." if comparison else "")


def stand_in(recipe: Recipe, layout: Layout) -> Splits:
    """Return noise in place of the images of a folder, in the same numbers, without decoding anything."""
    counts, data = LabelCounts.of(layout), recipe.data
    classes = layout.classes
    stored = training_preprocessing(data).image_size
    noise = np.random.default_rng(0)

    def images(name: str, count: int, size: ImageSize, labeled: bool) -> ImageSet:
        few: NDArray[np.uint8] = noise.integers(0, 256, (1, *size, 3), dtype=np.uint8)
        pixels = np.broadcast_to(few, (count, *size, 3))  # takes the memory of one image
        labels = np.arange(count, dtype=np.int64) % max(1, len(classes)) if labeled else None
        if labels is not None and layout.several:
            labels = np.eye(len(classes), dtype=np.int64)[labels]
        names = [f"{name}{i}" for i in range(count)]
        return ImageSet(pixels, names, names, labels)

    budget = label_count(data.labels, layout)
    return Splits(
        classes,
        images("pool", counts.pool, stored, False),
        images("labeled", budget if layout.labeled else 0, stored, True),
        images("probe", counts.probe, data.image_size, True),
        images("test", max(1, counts.test) if layout.labeled else 0, data.image_size, True),
        [],
        [],
    )


def _step_seconds(stage: StageTime) -> float:
    return stage.trainings[-1].step_seconds
