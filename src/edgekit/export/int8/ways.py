"""One way of quantising to INT8, and the workshop that does it; what several ways, and several runtimes, need is made once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from edgekit.export.graph.files import read_onnx
from edgekit.export.graph.metadata import inherit
from edgekit.export.graph.onnx import export_onnx
from edgekit.export.int8 import correct
from edgekit.export.int8.calibration import Calibration
from edgekit.export.int8.equalise import By, equalise
from edgekit.export.int8.fidelity import Judge
from edgekit.export.int8.quantize import Scheme, quantize_onnx
from edgekit.export.int8.ranges import Method
from edgekit.export.int8.recover import STEPS, recover
from edgekit.export.int8.sensitivity import release
from edgekit.files import copy_file
from edgekit.foreign import parse_json
from edgekit.progress import progress
from edgekit.quantization import BiasCorrection, Distilled, Quantization
from edgekit.runtimes.session import EMBEDDING

_EQUALISED = {"weights": "cross-layer equalisation", "activations": "activations smoothed"}


@dataclass(frozen=True)
class Way:
    """How a file is made.

    Attributes:
        scheme: of the weights; None leaves all to NNCF, with its overflow fix.
        method: of the activations' ranges.
        equalised: how the float graph's channels were rescaled first.
        corrected: whether the biases were corrected afterwards.
        exclude: nodes that stay in float beside those that always do.
        learnt: the scheme whose rounding the weights were distilled to bear; None: the weights as they were trained.
    """

    scheme: Scheme | None
    method: Method = "percentile"
    equalised: By | None = None
    corrected: bool = False
    exclude: tuple[str, ...] = ()
    learnt: Scheme | None = None

    @property
    def name(self) -> str:
        """In words, as the bundle records it."""
        parts = [f"{self.scheme.name}, {self.method}" if self.scheme else "nncf"]
        parts += [_EQUALISED[self.equalised]] if self.equalised else []
        parts += ["biases corrected"] if self.corrected else []
        parts += [f"{len(self.exclude)} nodes in float"] if self.exclude else []
        parts += ["distilled"] if self.learnt else []
        return ", ".join(parts)


class Workshop:
    """Quantises the float graph of one export; shared by its targets.

    Args:
        calibration: of the float graph.
        scratch: where its own folder is made.
        unlabelled: more images without labels than the calibration's, uint8 (n, s, s, 3); None: those.
        model: the trained network, from pixels to logits, as torch; None where it came as ONNX.
    """

    def __init__(
        self, calibration: Calibration, scratch: Path, unlabelled: NDArray[np.uint8] | None, model: nn.Module | None
    ) -> None:
        self.first = calibration
        self.unlabelled = calibration.images if unlabelled is None else unlabelled
        self.model = model
        self.folder = Path(tempfile.mkdtemp(dir=scratch, prefix="int8-"))
        self._calibrations: dict[tuple[Scheme | None, By | None], Calibration | None] = {(None, None): calibration}
        self._files: dict[Way, tuple[Path, Quantization]] = {}

    @cached_property
    def judge(self) -> Judge:
        """Compares files with the float model on unlabelled images."""
        return Judge(self.first.model, self.unlabelled)

    def calibration(self, way: Way) -> Calibration | None:
        """The calibration of the float graph that a way starts from; None where that has nothing to equalise.

        The first way with weights that are `learnt` takes minutes; the network must be there as torch.
        """
        key = way.learnt, way.equalised
        if key not in self._calibrations:
            if way.equalised is None:
                assert way.learnt is not None
                model = self._distilled(way.learnt)
            else:
                before = self.calibration(replace(way, equalised=None))
                assert before is not None
                with progress("equalise", len(before.images), unit="images") as advance:
                    rewritten, count = equalise(read_onnx(before.model), before.images, way.equalised, advance)
                if not count:
                    self._calibrations[key] = None
                    return None
                model = self.folder / f"{len(self._calibrations)}-{way.equalised}.onnx"
                onnx.save(rewritten, model)
            self._calibrations[key] = Calibration(model, self.first.images, self.folder, self.first.drawn)
        return self._calibrations[key]

    def qdq(self, way: Way, output: Path) -> Quantization:
        """Write a way's graph with quantise/dequantise pairs, the rest in FP32, and say how it was made.

        Raises:
            ExportError: it cannot be made.
        """
        if way in self._files:
            path, quantization = self._files[way]
            copy_file(path, output)
            return quantization.model_copy()
        calibration = self.calibration(way)
        assert calibration is not None
        assert way.scheme is not None
        quantization = quantize_onnx(calibration, output, way.scheme, method=way.method, exclude=way.exclude)
        if way.exclude:
            onnx.save(release(read_onnx(output), read_onnx(calibration.model), way.exclude), output)
        if way.equalised:
            quantization.equalised = _EQUALISED[way.equalised]
        if way.corrected:
            quantization.bias_correction = self._correct(calibration, output)
        if way.learnt:
            quantization.distilled = Distilled(steps=STEPS, images=len(self.unlabelled), labels=0)
        if not way.exclude:  # of those there may be one a layer, and nobody asks again
            path = self.folder / f"{len(self._files)}.onnx"
            copy_file(output, path)
            self._files[way] = path, quantization
        return quantization.model_copy()

    def _correct(self, calibration: Calibration, path: Path) -> BiasCorrection:
        images = calibration.images[: correct.IMAGES]
        model = read_onnx(calibration.model)
        with progress("biases", correct.passes(model) * len(images), unit="images") as advance:
            corrected = correct.correct(model, read_onnx(path), images, advance)
        onnx.save(corrected.model, path)
        return BiasCorrection(layers=corrected.layers, error_before=corrected.before, error_after=corrected.after)

    def _distilled(self, scheme: Scheme) -> Path:
        model, path = self.model, self.folder / f"{len(self._calibrations)}-distilled.onnx"
        assert model is not None
        with progress("recover", STEPS, unit="steps") as advance:
            learnt = recover(model, self.unlabelled, scheme, advance=advance)
        was = read_onnx(self.first.model, external=False)
        classes = next(p.value for p in was.metadata_props if p.key == "classes")
        embedding = any(output.name == EMBEDDING for output in was.graph.output)
        size = self.unlabelled.shape[1]
        export_onnx(
            learnt, path, image_size=size, classes=parse_json(classes, self.first.model, list), embedding=embedding
        )
        inherit(self.first.model, path)
        return path
