"""One way of making an INT8 file, and the workshop that makes it; what several ways need is made once."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.bundle import BundleFile, RuntimeName, Variant
from edgekit.export import correct, openvino
from edgekit.export.calibration import Calibration
from edgekit.export.equalise import By, equalise
from edgekit.export.fidelity import Fidelity, Judge
from edgekit.export.metadata import inherit
from edgekit.export.onnx import export_onnx
from edgekit.export.quantize import FULL, UNSIGNED, Scheme, quantize_onnx, saturates
from edgekit.export.ranges import Method
from edgekit.export.recover import STEPS, recover
from edgekit.export.sensitivity import release
from edgekit.machine import cpu_features
from edgekit.progress import progress
from edgekit.runtimes import why_not
from edgekit.runtimes.session import EMBEDDING

if TYPE_CHECKING:
    from edgekit.export.targets import Sources

RUNTIMES: dict[str, RuntimeName] = {"onnx": "onnxruntime", "openvino": "openvino"}
_EQUALISED = {"weights": "cross-layer equalisation", "activations": "activations smoothed"}
_X86_NOTE = (
    "verified on a CPU with an INT8 dot product; on x86 without one (no VNNI) its products can saturate and cost accuracy: "
    "`edgekit bench` there compares with the golden tensors, and an export made there avoids it"
)
_SLOW_NOTE = "unsigned weights: exact on every CPU, on x86 without VNNI hardly faster than float"


@dataclass(frozen=True)
class Way:
    """How a file is made.

    Attributes:
        scheme: of the weights; None leaves all to NNCF, with its overflow fix.
        method: of the activations' ranges.
        equalised: how the float graph's channels were rescaled first.
        corrected: whether the biases were corrected afterwards.
        exclude: nodes that stay in float beside those that always do.
        recovered: whether the weights come from quantisation-aware distillation.
    """

    scheme: Scheme | None
    method: Method = "percentile"
    equalised: By | None = None
    corrected: bool = False
    exclude: tuple[str, ...] = ()
    recovered: bool = False

    @property
    def name(self) -> str:
        """In words, as the bundle records it."""
        parts = [f"{self.scheme.name}, {self.method}" if self.scheme else "nncf"]
        parts += [_EQUALISED[self.equalised]] if self.equalised else []
        parts += ["biases corrected"] if self.corrected else []
        parts += [f"{len(self.exclude)} nodes in float"] if self.exclude else []
        parts += ["distilled"] if self.recovered else []
        return ", ".join(parts)


class Workshop:
    """Makes the INT8 files of one export; shared by its targets.

    Args:
        sources: what is exported.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.folder = Path(tempfile.mkdtemp(dir=sources.scratch, prefix="int8-"))
        self.calibrations: dict[tuple[bool, By | None], Calibration | None] = {(False, None): sources.calibration}
        self._files: dict[Way, tuple[Path, dict[str, Any]]] = {}

    @cached_property
    def judge(self) -> Judge:
        """Compares files with the float model on unlabelled images."""
        return Judge(self.sources.float_onnx, self.unlabelled)

    @property
    def unlabelled(self) -> NDArray[np.uint8]:
        """Images without labels: more than the calibration's, where there are."""
        more = self.sources.unlabelled
        return self.sources.calibration.images if more is None else more

    def calibration(self, recovered: bool, by: By | None) -> Calibration | None:
        """The calibration of a float graph that was rewritten; None where it has nothing to equalise."""
        key = recovered, by
        if key not in self.calibrations:
            if by is None:
                model = self._recovered()
            else:
                before = self.calibration(recovered, None)
                assert before is not None
                with progress("equalise", len(before.images), unit="images") as advance:
                    rewritten, count = equalise(onnx.load(before.model), before.images, by, advance)
                if not count:
                    self.calibrations[key] = None
                    return None
                model = self.folder / f"{'recovered-' if recovered else ''}{by}.onnx"
                onnx.save(rewritten, model)
            first = self.sources.calibration
            self.calibrations[key] = Calibration(model, first.images, self.folder, first.drawn)
        return self.calibrations[key]

    def prepare(self, bits: int) -> None:
        """Learn the weights of the ways that are `recovered`, for weights of so many bits.

        The network must be there as torch (`sources.model`).
        """
        self._bits = bits
        self.calibration(True, None)

    def make(self, target: str, way: Way, folder: Path) -> Variant:
        """Write a way's files into a folder; the variant is not verified yet.

        Raises:
            ExportError: it cannot be made.
            RuntimeMissing: its converter is not installed.
        """
        if way.scheme is None:
            files = ["model.int8.xml", "model.int8.bin"]
            calibration = self.calibration(way.recovered, way.equalised)
            assert calibration is not None
            quantization = openvino.quantize_ir(calibration, folder / files[0])
        else:
            source, quantization = self._qdq(way)
            if target == "onnx":
                files = ["model.u8.onnx"]
                (folder / files[0]).write_bytes(source.read_bytes())
            else:
                files = ["model.int8.xml", "model.int8.bin"]
                openvino.write_ir(source, folder / files[0])
        return Variant(
            id=f"{target}-int8",
            runtime=RUNTIMES[target],
            precision="int8",
            files=[BundleFile.of(folder, file) for file in files],
            settings=openvino.SETTINGS if target == "openvino" else {},
            quantization={
                **quantization, "way": way.name, "made_on": {"isa": cpu_features(), "saturates": saturates()},
            },
            executed=False,
            status="unexecuted",
            note=_X86_NOTE if way.scheme is FULL else _SLOW_NOTE if way.scheme is UNSIGNED else "",
        )  # fmt: skip

    def runs(self, target: str) -> bool:
        """Whether a target's runtime is here."""
        return why_not(RUNTIMES[target]) is None

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity:
        """Of a variant whose files are in a folder, in its runtime."""
        return self.judge(variant.runtime, folder / variant.files[0].path, variant.settings)

    def _qdq(self, way: Way) -> tuple[Path, dict[str, Any]]:
        if way not in self._files:
            calibration = self.calibration(way.recovered, way.equalised)
            assert calibration is not None
            assert way.scheme is not None
            path = self.folder / f"{len(self._files)}.u8.onnx"
            told = quantize_onnx(calibration, path, way.scheme, method=way.method, exclude=way.exclude)
            if way.exclude:
                onnx.save(release(onnx.load(path), way.exclude), path)
            if way.equalised:
                told["equalised"] = _EQUALISED[way.equalised]
            if way.corrected:
                told["bias_correction"] = self._correct(calibration, path)
            if way.recovered:
                told["distilled"] = {"steps": STEPS, "images": len(self.unlabelled), "labels": 0}
            self._files[way] = path, told
        return self._files[way]

    def _correct(self, calibration: Calibration, path: Path) -> dict[str, Any]:
        images = calibration.images[: correct.IMAGES]
        model = onnx.load(calibration.model)
        with progress("biases", correct.passes(model) * len(images), unit="images") as advance:
            corrected = correct.correct(model, onnx.load(path), images, advance)
        onnx.save(corrected.model, path)
        return {"layers": corrected.layers, "error_before": corrected.before, "error_after": corrected.after}

    def _recovered(self) -> Path:
        model, path = self.sources.model, self.folder / "recovered.onnx"
        assert model is not None
        with progress("recover", STEPS, unit="steps") as advance:
            learnt = recover(model, self.unlabelled, bits=self._bits, advance=advance)
        was = onnx.load(self.sources.float_onnx, load_external_data=False)
        classes = next(p.value for p in was.metadata_props if p.key == "classes")
        embedding = any(output.name == EMBEDDING for output in was.graph.output)
        size = self.unlabelled.shape[1]
        export_onnx(learnt, path, image_size=size, classes=json.loads(classes), embedding=embedding)
        inherit(self.sources.float_onnx, path)
        return path
