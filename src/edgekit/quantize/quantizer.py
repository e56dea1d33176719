"""One way of quantizing to INT8, and the workshop that does it; what several ways, and several runtimes, need is made once."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from edgekit.files import copy_file
from edgekit.foreign import parse_json
from edgekit.onnx_graph.build import export_onnx
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import inherit
from edgekit.progress import progress
from edgekit.quantization import BiasCorrection, Distilled, Quantization
from edgekit.quantize import correct
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.equalize import By, equalize
from edgekit.quantize.fidelity import Judge
from edgekit.quantize.qdq import Scheme, quantize_onnx
from edgekit.quantize.ranges import Method
from edgekit.quantize.recover import STEPS, recover
from edgekit.quantize.sensitivity import restore_float_inputs
from edgekit.runtimes.session import EMBEDDING

_EQUALIZED = {"weights": "cross-layer equalization", "activations": "activations smoothed"}


@dataclass(frozen=True)
class QuantizationConfig:
    """How a file is made.

    Attributes:
        scheme: of the weights; None leaves all to NNCF, with its overflow fix.
        method: of the activations' ranges.
        equalized: how the float graph's channels were rescaled first.
        corrected: whether the biases were corrected afterwards.
        exclude: nodes that stay in float beside those that always do.
        learned: the scheme whose rounding the weights were distilled to bear; None: the weights as they were trained.
    """

    scheme: Scheme | None
    method: Method = "percentile"
    equalized: By | None = None
    corrected: bool = False
    exclude: tuple[str, ...] = ()
    learned: Scheme | None = None

    @property
    def name(self) -> str:
        """In words, as the bundle records it."""
        parts = [f"{self.scheme.name}, {self.method}" if self.scheme else "nncf"]
        parts += [_EQUALIZED[self.equalized]] if self.equalized else []
        parts += ["biases corrected"] if self.corrected else []
        parts += [f"{len(self.exclude)} nodes in float"] if self.exclude else []
        parts += ["distilled"] if self.learned else []
        return ", ".join(parts)


class Quantizer:
    """Quantizes the float graph of one export; shared by its targets.

    Args:
        calibration: of the float graph.
        scratch: where its own folder is made.
        unlabeled: more images without labels than the calibration's, uint8 (n, s, s, 3); None: those.
        model: the trained network, from pixels to logits, as torch; None where it came as ONNX.
    """

    def __init__(
        self, calibration: Calibration, scratch: Path, unlabeled: NDArray[np.uint8] | None, model: nn.Module | None
    ) -> None:
        self.first = calibration
        self.unlabeled = calibration.images if unlabeled is None else unlabeled
        self.model = model
        self.folder = Path(tempfile.mkdtemp(dir=scratch, prefix="int8-"))
        self._calibrations: dict[tuple[Scheme | None, By | None], Calibration | None] = {(None, None): calibration}
        self._files: dict[QuantizationConfig, tuple[Path, Quantization]] = {}

    @cached_property
    def judge(self) -> Judge:
        """Compares files with the float model on unlabeled images."""
        return Judge(self.first.model, self.unlabeled)

    def calibration(self, config: QuantizationConfig) -> Calibration | None:
        """The calibration of the float graph that a way starts from; None where that has nothing to equalize.

        The first way with weights that are `learned` takes minutes; the network must be there as torch.
        """
        key = config.learned, config.equalized
        if key not in self._calibrations:
            if config.equalized is None:
                assert config.learned is not None
                model = self._distilled(config.learned)
            else:
                before = self.calibration(replace(config, equalized=None))
                assert before is not None
                with progress("equalize", len(before.images), unit="images") as advance:
                    rewritten, count = equalize(read_onnx(before.model), before.images, config.equalized, advance)
                if not count:
                    self._calibrations[key] = None
                    return None
                model = self.folder / f"{len(self._calibrations)}-{config.equalized}.onnx"
                onnx.save(rewritten, model)
            self._calibrations[key] = Calibration(model, self.first.images, self.folder, self.first.drawn)
        return self._calibrations[key]

    def qdq(self, config: QuantizationConfig, output: Path) -> Quantization:
        """Write a way's graph with quantize/dequantize pairs, the rest in FP32, and say how it was made.

        Raises:
            ExportError: it cannot be made.
        """
        if config in self._files:
            path, quantization = self._files[config]
            copy_file(path, output)
            return quantization.model_copy()
        calibration = self.calibration(config)
        assert calibration is not None
        assert config.scheme is not None
        quantization = quantize_onnx(calibration, output, config.scheme, method=config.method, exclude=config.exclude)
        if config.exclude:
            onnx.save(restore_float_inputs(read_onnx(output), read_onnx(calibration.model), config.exclude), output)
        if config.equalized:
            quantization.equalized = _EQUALIZED[config.equalized]
        if config.corrected:
            quantization.bias_correction = self._correct(calibration, output)
        if config.learned:
            quantization.distilled = Distilled(steps=STEPS, images=len(self.unlabeled), labels=0)
        if not config.exclude:  # of those there may be one a layer, and nobody asks again
            path = self.folder / f"{len(self._files)}.onnx"
            copy_file(output, path)
            self._files[config] = path, quantization
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
            learned = recover(model, self.unlabeled, scheme, advance=advance)
        was = read_onnx(self.first.model, external=False)
        classes = next(p.value for p in was.metadata_props if p.key == "classes")
        embedding = any(output.name == EMBEDDING for output in was.graph.output)
        size = self.unlabeled.shape[1]
        export_onnx(
            learned, path, image_size=size, classes=parse_json(classes, self.first.model, list), embedding=embedding
        )
        inherit(self.first.model, path)
        return path
