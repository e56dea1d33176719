"""ONNX Runtime's and OpenVINO's INT8: which ways are tried, and each file run in the runtime that will serve it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgekit.bundle import BundleFile, RuntimeName, Variant
from edgekit.export import openvino
from edgekit.export.catalogue import RUNTIMES
from edgekit.export.int8.fidelity import Fidelity, run
from edgekit.export.int8.quantize import FULL, REDUCED, UNSIGNED, saturates
from edgekit.export.int8.ranges import METHODS
from edgekit.export.int8.ways import Way, Workshop
from edgekit.export.verify import Bounds, Reference, verify
from edgekit.machine import cpu_features
from edgekit.quantization import MadeOn
from edgekit.runtimes import why_not

_X86_NOTE = (
    "verified on a CPU with an INT8 dot product; on x86 without one (no VNNI) its products can saturate and cost accuracy: "
    "`edgekit bench` there compares with the golden tensors, and an export made there avoids it"
)
_SLOW_NOTE = "unsigned weights: exact on every CPU, on x86 without VNNI hardly faster than float"


def ways(target: str) -> list[list[Way]]:
    """What is tried first: the scheme that is fast and does not saturate on this machine, with each method; for OpenVINO then NNCF."""
    scheme = REDUCED if saturates() else FULL
    groups = [[Way(scheme, method) for method in METHODS]]
    return [*groups, [Way(None)]] if target == "openvino" else groups


@dataclass
class Served:
    """A runtime's INT8 (a `family.Family`).

    Attributes:
        target: onnx or openvino.
        workshop: that quantises.
        reference: the trained model's answers.
        bounds: what passes.
    """

    target: Literal["onnx", "openvino"]
    workshop: Workshop
    reference: Reference
    bounds: Bounds

    @property
    def runtime(self) -> RuntimeName:
        """That serves the files."""
        return RUNTIMES[self.target]

    def groups(self) -> list[list[Way]]:
        """See `ways`."""
        return ways(self.target)

    def last(self, best: Way | None) -> Way | None:
        """Unsigned weights where signed ones saturate in ONNX Runtime."""
        if self.target != "onnx" or not saturates():
            return None
        return replace(best or Way(UNSIGNED), scheme=UNSIGNED, exclude=())

    def make(self, way: Way, folder: Path) -> Variant:
        """Write a way's files into a folder."""
        if way.scheme is None:
            files = ["model.int8.xml", "model.int8.bin"]
            calibration = self.workshop.calibration(way)
            assert calibration is not None
            quantization = openvino.quantize_ir(calibration, folder / files[0])
        elif self.target == "onnx":
            files = ["model.u8.onnx"]
            quantization = self.workshop.qdq(way, folder / files[0])
        else:
            files = ["model.int8.xml", "model.int8.bin"]
            graph = folder / "model.u8.onnx"
            quantization = self.workshop.qdq(way, graph)
            openvino.write_ir(graph, folder / files[0])
        return Variant(
            id=f"{self.target}-int8",
            runtime=self.runtime,
            precision="int8",
            files=[BundleFile.of(folder, file) for file in files],
            settings=openvino.SETTINGS if self.target == "openvino" else {},
            quantization=quantization.model_copy(
                update={"way": way.name, "made_on": MadeOn(isa=cpu_features(), saturates=saturates())}
            ),
            executed=False,
            status="unexecuted",
            note=_X86_NOTE if way.scheme is FULL else _SLOW_NOTE if way.scheme is UNSIGNED else "",
        )

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """In its runtime."""
        if why_not(self.runtime) is not None:
            return None
        path = folder / variant.files[0].path
        return self.workshop.judge(lambda images: run(self.runtime, path, images, variant.settings))

    def verify(self, variant: Variant, folder: Path) -> Variant:
        """In its runtime."""
        return verify(variant, folder, self.reference, self.bounds)
