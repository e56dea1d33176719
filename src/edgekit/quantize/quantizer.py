"""`QuantizationConfig`: how one INT8 file is quantized. `Quantizer`: does it, and shares work between configurations and runtimes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle import Variant
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
from edgekit.quantize.fidelity import Fidelity, Judge, run
from edgekit.quantize.qdq import Scheme, quantize_onnx
from edgekit.quantize.ranges import Method
from edgekit.quantize.recover import STEPS, recover
from edgekit.quantize.sensitivity import restore_float_inputs
from edgekit.runtimes import why_not
from edgekit.tasks import EMBEDDING, Task
from edgekit.text import counted

_EQUALIZED = {"weights": "cross-layer equalization", "activations": "activations smoothed"}


@dataclass(frozen=True)
class QuantizationConfig:
    """How an INT8 file is quantized.

    Attributes:
        scheme: how weights are quantized; None: NNCF quantizes everything, with its overflow fix.
        method: how the ranges of the activations are chosen.
        equalized: how the channels of the float graph are rescaled first; None: not at all.
        corrected: whether the biases are corrected afterwards.
        exclude: nodes that stay in float, in addition to those that always do.
        learned: the scheme that the weights were distilled for; None: the weights as they were trained.
    """

    scheme: Scheme | None
    method: Method = "percentile"
    equalized: By | None = None
    corrected: bool = False
    exclude: tuple[str, ...] = ()
    learned: Scheme | None = None

    @property
    def name(self) -> str:
        """The configuration in words, as the bundle records it."""
        parts = [f"{self.scheme.name}, {self.method}" if self.scheme else "nncf"]
        parts += [_EQUALIZED[self.equalized]] if self.equalized else []
        parts += ["biases corrected"] if self.corrected else []
        parts += [f"{counted(len(self.exclude), 'node')} in float"] if self.exclude else []
        parts += ["distilled"] if self.learned else []
        return ", ".join(parts)


class Quantizer:
    """Quantizes the float graph of one export; the targets of the export share it.

    Args:
        calibration: the calibration of the float graph.
        scratch: the folder in which it creates its own.
        unlabeled: images for comparison and distillation, uint8 (n, h, w, 3); None: the calibration images.
        model: the trained network, from pixels to its outputs, as torch; None where it came as ONNX.
        task: what the network answers.
    """

    def __init__(
        self,
        calibration: Calibration,
        scratch: Path,
        unlabeled: NDArray[np.uint8] | None,
        model: nn.Module | None,
        task: Task,
    ) -> None:
        self.task = task
        self.first = calibration
        self.unlabeled = calibration.images if unlabeled is None else unlabeled
        self.model = model
        self.folder = Path(tempfile.mkdtemp(dir=scratch, prefix="int8-"))
        self._calibrations: dict[tuple[Scheme | None, By | None], Calibration | None] = {(None, None): calibration}
        self._files: dict[QuantizationConfig, tuple[Path, Quantization]] = {}

    @cached_property
    def judge(self) -> Judge:
        """Compares files with the float model on unlabeled images."""
        return Judge(self.first.model, self.unlabeled, self.task)

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """Compare a variant, whose files are in `folder`, with the float model in its runtime; None if that is not installed here."""
        if why_not(variant.runtime) is not None:
            return None
        path = folder / variant.files[0].path
        return self.judge(lambda images: run(variant.runtime, path, images, self.task, variant.settings))

    def calibration(self, config: QuantizationConfig) -> Calibration | None:
        """The calibration of the float graph that a configuration starts from; None if the graph has nothing to equalize.

        The first configuration with `learned` weights takes minutes, and needs the network as torch.
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
        """Write the Q/DQ graph of a configuration, the rest in FP32; return the record of how it was made.

        Raises:
            ExportError: the graph cannot be quantized.
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
        if config.corrected:
            quantization.bias_correction = self._correct(calibration, output)
        self.record_weights(config, quantization)
        if not config.exclude:  # not cached: there may be one for each layer, and each is needed once
            path = self.folder / f"{len(self._files)}.onnx"
            copy_file(output, path)
            self._files[config] = path, quantization
        return quantization.model_copy()

    def record_weights(self, config: QuantizationConfig, quantization: Quantization) -> None:
        """Record how the weights of the float graph that a configuration starts from were changed (see `calibration`)."""
        if config.equalized:
            quantization.equalized = _EQUALIZED[config.equalized]
        if config.learned:
            quantization.distilled = Distilled(steps=STEPS, images=len(self.unlabeled), labels=0)

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
            learned = recover(model, self.unlabeled, scheme, categorical=self.task.categorical, advance=advance)
        was = read_onnx(self.first.model, external=False)
        classes = next(p.value for p in was.metadata_props if p.key == "classes")
        embedding = any(output.name == EMBEDDING for output in was.graph.output)
        export_onnx(
            learned,
            path,
            image_size=self.unlabeled.shape[1:3],
            classes=parse_json(classes, self.first.model, list),
            embedding=embedding,
            task=self.task,
        )
        inherit(self.first.model, path)
        return path
