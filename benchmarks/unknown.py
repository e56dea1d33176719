"""Which score tells known from unknown images: maximum probability, energy, or distance in the embedding; float and INT8.

    python benchmarks/unknown.py --data DATA --run NAME=RUN … [--work DIR] [--output FILE]

DATA holds mnist/ and cifar10/, each with train/ and test/. Of digits, mnist and cifar10, three, three and four classes are never trained on: a
small network learns the others from their labels, and must call the rest unknown (near unknowns). A complete RUN brings its student, for
which the other sets' test images are unknown (far unknowns). Every network is exported to ONNX, FP32 and INT8; each variant's threshold
is calibrated on its own outputs for the probe images, so that 5 % of what is known is called unknown.

For each score: AUROC of known test images against unknown ones, the share of unknown images that are accepted (false accepts), and the share of
known test images that are not (false abstains; 5 % was asked for). Also the expected calibration error and the negative log-likelihood on the
test images, before and after the temperature. Interrupted, it goes on where it was: bundles and outputs lie below --work. About fifteen
minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_sets import prepare
from numpy.typing import NDArray
from result_files import write_rows
from torch.nn import functional

from edgekit.bundle import Bundle
from edgekit.data.splits import Splits, load_splits
from edgekit.export.pipeline import ExportOptions, export_classifier
from edgekit.machine import this_machine
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier, normalize
from edgekit.models.store import load_classifier
from edgekit.preprocess import Preprocessing
from edgekit.recipe import Architecture, parse
from edgekit.run import Run
from edgekit.runtimes import load
from edgekit.runtimes.session import run_in_batches

Images = NDArray[np.uint8]
Outputs = dict[str, NDArray[np.float32]]
SIZE, MEAN, STD = 32, 0.5, 0.25
HELD_OUT = {"digits": 3, "mnist": 3, "cifar10": 4}  # the last classes, never trained on
STEPS = {"digits": 300, "mnist": 600, "cifar10": 600}
POOL, TEST, FAR = 2000, 1000, 500  # images, at most
FALSE_ABSTAIN = 0.05


@dataclass(frozen=True)
class Experiment:
    """A network, what it knows, and what it has never seen; all images uint8 (n, 32, 32, 3)."""

    name: str
    model: Callable[[], PixelClassifier]
    classes: list[str]
    pool: Images
    probe: tuple[Images, NDArray[np.int64]]
    test: tuple[Images, NDArray[np.int64]]
    unknown: dict[str, Images]


def some(images: Any, most: int) -> Images:
    """At most so many of them, evenly."""
    rows = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(np.int64)
    return np.ascontiguousarray(np.asarray(images[rows]))


def labeled(images: Any, labels: NDArray[np.int64] | None, most: int) -> tuple[Images, NDArray[np.int64]]:
    assert labels is not None
    rows = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(np.int64)
    return np.ascontiguousarray(np.asarray(images[rows])), labels[rows]


def splits_of(name: str, data: Path, work: Path) -> Splits:
    prepare(name, data, work)
    folder = work / "data" / name
    given = "digits" if name == "digits" else str(folder / "train")
    return load_splits(
        parse(
            {
                "data": {
                    "labeled": given,
                    "test": 0.2 if name == "digits" else str(folder / "test"),
                    "probe": 0.1,
                    "labels": 1.0,
                    "image_size": SIZE,
                }
            }
        ).data
    )


def held_out(name: str, splits: Splits, far: dict[str, Images]) -> Experiment:
    known = len(splits.classes) - HELD_OUT[name]
    train, test = splits.labeled.center_crop(SIZE), splits.test
    assert train.labels is not None and test.labels is not None and splits.probe.labels is not None
    of_known = train.labels < known
    images, labels = np.asarray(train.images)[of_known], train.labels[of_known]
    probe, is_probe = np.asarray(splits.probe.images), splits.probe.labels < known
    seen = test.labels < known
    tested = np.asarray(test.images)
    return Experiment(
        f"{name}, {HELD_OUT[name]} of {len(splits.classes)} classes held out",
        lambda: trained(images, labels, splits.classes[:known], STEPS[name]),
        splits.classes[:known],
        some(images, POOL),
        labeled(probe[is_probe], splits.probe.labels[is_probe], POOL),
        labeled(tested[seen], test.labels[seen], TEST),
        {f"{name}: held-out classes": some(tested[~seen], FAR), **far},
    )


def trained(images: Images, labels: NDArray[np.int64], classes: list[str], steps: int) -> PixelClassifier:
    """A ResNet-18 of a quarter of the width, from labels alone, with shifted images."""
    torch.manual_seed(0)
    model = Classifier.build(Architecture(name="resnet18", width=0.25, stem="strided"), SIZE, classes, [])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    every, truth = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(steps):
        rows = torch.randint(len(every), (64,))
        padded = functional.pad(every[rows], (0, 0, 3, 3, 3, 3))
        top, left = torch.randint(7, (2,)).tolist()
        batch = normalize(padded[:, top : top + SIZE, left : left + SIZE], MEAN, STD)
        loss = functional.cross_entropy(model(batch), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return PixelClassifier(model.eval(), MEAN, STD).eval()


def of_run(name: str, folder: Path, far: dict[str, Images]) -> Experiment:
    run = Run(folder)
    splits = load_splits(run.recipe.data, run)
    return Experiment(
        f"{name}, a run's student",
        lambda: PixelClassifier(
            load_classifier(run.stage_path("distill"), run.require("distill").outputs), MEAN, STD
        ).eval(),
        splits.classes,
        np.asarray(splits.pool.subset(np.linspace(0, len(splits.pool) - 1, min(POOL, len(splits.pool))).astype(np.int64)).center_crop(SIZE).images),
        labeled(splits.probe.images, splits.probe.labels, POOL),
        labeled(splits.test.images, splits.test.labels, TEST),
        {key: images for key, images in far.items() if key != name.split("-")[0]},
    )


def outputs_of(experiment: Experiment, work: Path) -> dict[str, dict[str, Outputs]]:
    """For each variant the outputs of each set of images."""
    folder = work / experiment.name.replace(" ", "-").replace(",", "")
    found = {}
    for variant in ("onnx-fp32", "onnx-int8"):
        path = folder / f"{variant}.npz"
        if not path.exists():
            bundle = exported(experiment, folder / "bundle")
            sets = {"pool": experiment.pool, "probe": experiment.probe[0], "test": experiment.test[0], **experiment.unknown}
            session = load(bundle, bundle.variant(variant))
            outputs = {name: run_in_batches(session, np.ascontiguousarray(images), 100) for name, images in sets.items()}
            session.close()
            np.savez(path, **{f"{name}/{key}": value for name, part in outputs.items() for key, value in part.items()})
        with np.load(path) as stored:
            sets = {key.rpartition("/")[0] for key in stored}
            found[variant] = {name: {key: stored[f"{name}/{key}"] for key in ("logits", "embedding")} for name in sets}
    return found


def exported(experiment: Experiment, folder: Path) -> Bundle:
    return export_classifier(
        experiment.model(),
        classes=experiment.classes,
        preprocessing=Preprocessing(image_size=SIZE, resize_to=SIZE),
        calibration=some(experiment.pool, 300),
        evaluation=experiment.test,
        output=folder,
        targets=["onnx"],
        precisions=["fp32", "int8"],
        embedding=True,
        timed=False,
        options=ExportOptions(search_minutes=1.0),
        name=experiment.name,
    )
