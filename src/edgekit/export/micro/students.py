"""The student that fits a board's flash, found by converting untrained students of smaller widths and measuring their files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.board import BoardNeeds
from edgekit.errors import EdgekitError
from edgekit.export.inputs import Sources
from edgekit.export.litert.convert import lower
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.micro.limits import largest_that, measure
from edgekit.export.micro.rules import quantize_for_micro
from edgekit.models.classifier import Classifier
from edgekit.models.pixels import PixelClassifier
from edgekit.models.resnet import RESNETS
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.simplify import fix_batch, simplify
from edgekit.progress import say
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import kept_in_float
from edgekit.quantize.ranges import select
from edgekit.recipe import Architecture
from edgekit.sizes import ImageSize
from edgekit.tasks import Task
from edgekit.tasks.classification import CLASSIFICATION

WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)  # of `distill.student.width`
_USUAL = "resnet10"  # the student that is measured where the network is none of edgekit's ResNets
_IMAGES = 8  # a file's size does not depend on its ranges


@dataclass(frozen=True)
class Student:
    """An untrained student, converted.

    Attributes:
        name: of its network, as in a recipe.
        width: factor on its channels.
        needs: what a board needs for it, measured.
    """

    name: str
    width: float
    needs: BoardNeeds


@dataclass
class Students:
    """What students of other widths need of a board. Their weights are random, which changes neither the file's size nor the arena.

    Attributes:
        architecture: of the exported network, if it is one of edgekit's ResNets; else that of the usual student.
        classes: number of classes; 0 where the network is no classifier, whose students cannot be built here.
        images: some of the calibration images, uint8 (n, h, w, 3).
        task: of the network.
    """

    architecture: Architecture
    classes: int
    images: NDArray[np.uint8]
    task: Task
    _measured: dict[float, Student] = field(default_factory=dict)

    @classmethod
    def like(cls, sources: Sources) -> Students:
        """Students like the exported network, for its images and its number of classes."""
        architecture = getattr(getattr(sources.model, "model", None), "architecture", None)
        if not isinstance(architecture, Architecture) or architecture.name not in RESNETS:
            architecture = Architecture(name=_USUAL, width=WIDTHS[-1])
        outputs = sources.reference.outputs[sources.reference.task.main]
        classes = outputs.shape[1] if sources.reference.task.name == CLASSIFICATION.name else 0
        return cls(architecture, classes, sources.calibration.images[:_IMAGES], sources.reference.task)

    def largest(self, flash: int, ram: int | None) -> Student | None:
        """The widest student whose file has at most `flash` bytes and whose arena at most `ram`; None where none fits.

        A wider student never needs less, so that two or three conversions find it.

        Raises:
            ValueError: students cannot be built or converted for these images.
        """
        if not self.classes or self.images.shape[1] != self.images.shape[2]:
            raise ValueError("students are measured as classifiers of square images")
        widths = [width for width in WIDTHS if width < self.architecture.width]
        if widths:
            say(f"measuring which {self.architecture.name} fits {flash:,} bytes of flash")

        def fits(width: float) -> bool:
            needs = self.student(width).needs
            return (needs.model_bytes or 0) <= flash and (ram is None or (needs.arena_bytes or 0) <= ram)

        width = largest_that(fits, widths)
        return None if width is None else self.student(width)

    def student(self, width: float) -> Student:
        """The student of a width, measured.

        Raises:
            ValueError: it cannot be built or converted.
        """
        if width not in self._measured:
            try:
                self._measured[width] = self._measure(width)
            except (EdgekitError, RuntimeError) as error:
                raise ValueError(f"{self.architecture.name} of width {width:g}: {error}") from error
        return self._measured[width]

    def _measure(self, width: float) -> Student:
        size, names = ImageSize.of(self.images.shape[1:3]), [f"class {i}" for i in range(self.classes)]
        architecture = self.architecture.model_copy(update={"width": width, "weights": None, "weights_key": None})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Classifier.build(architecture, size, names, [], "student")
            nn.init.normal_(network.head.weight, std=0.3)  # of zeros the graph would be cleaned
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.ones_(module.weight)  # likewise
        with TemporaryDirectory(prefix="micro-") as scratch:
            folder = Path(scratch)
            onnx, path = folder / "model.onnx", folder / "model.tflite"
            export_onnx(PixelClassifier(network.eval(), 0.5, 0.25).eval(), onnx, image_size=size, classes=names)
            ranges = select(Calibration(onnx, self.images, folder).histograms, "minmax")
            graph = simplify(read_onnx(onnx))
            content = quantize_for_micro(lower(fix_batch(graph, 1)), ranges, kept_in_float(graph), 8)[0]
            path.write_bytes(serialize(content))
            return Student(architecture.name, width, measure(path, self.task))
