"""The makers of ONNX and OpenVINO files, and the backend of both for the accuracy search of INT8."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from edgekit.bundle import Precision, Variant
from edgekit.errors import ExportError, reason_of
from edgekit.export import openvino
from edgekit.export.inputs import Sources
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, unverified, verify
from edgekit.machine import cpu_features
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.simplify import fix_batch
from edgekit.quantization import MadeOn
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.qdq import FULL, REDUCED, UNSIGNED, saturates
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer
from edgekit.quantize.ranges import METHODS
from edgekit.quantize.search import search_accuracy
from edgekit.targets import find

_X86_NOTE = (
    "verified on a CPU with an INT8 dot product; on x86 without one (no VNNI) its products can saturate and cost accuracy: "
    "run `edgekit bench` there to compare with the golden tensors, or export there to avoid it"
)
_SLOW_NOTE = "unsigned weights: exact on every CPU, but hardly faster than float on x86 without VNNI"


def make_onnx(precision: Precision, sources: Sources) -> Variant:
    """Make a variant for ONNX Runtime: the float graph unchanged, or INT8 (a maker, see `targets.Target`)."""
    if precision == "int8":
        return _int8("onnx", sources)
    (sources.folder / "model.onnx").write_bytes(sources.float_onnx.read_bytes())
    return _float("onnx", precision, sources, ["model.onnx"], {})


def make_openvino(precision: Precision, sources: Sources) -> Variant:
    """Make a variant for OpenVINO: the IR of the float graph, or INT8 (a maker, see `targets.Target`)."""
    if precision == "int8":
        return _int8("openvino", sources)
    names = [f"model.{precision}.xml", f"model.{precision}.bin"]
    openvino.write_ir(sources.float_onnx, sources.folder / names[0], half=precision == "fp16")
    return _float("openvino", precision, sources, names, openvino.SETTINGS)


def _float(target: str, precision: Precision, sources: Sources, files: list[str], settings: dict[str, str]) -> Variant:
    variant = unverified(target, find(target).runtime.name, precision, sources.folder, files, settings=settings)
    return verify(variant, sources.folder, sources.reference, sources.options.bounds)


def _int8(target: Literal["onnx", "openvino"], sources: Sources) -> Variant:
    backend = Served(target, sources.quantizer, sources.reference, sources.options.bounds)
    return search_accuracy(backend, sources.folder, recover=sources.options.recover, budget=sources.budget)


def fix_onnx_batch(path: Path, batch: int) -> None:
    """Fix the batch size of an ONNX file with a free batch axis, in place.

    Raises:
        ExportError: the graph does not work with this batch size.
    """
    fixed = fix_batch(read_onnx(path), batch)
    try:
        onnx.checker.check_model(fixed, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = reason_of(error)
        raise ExportError(f"--batch {batch}: the network does not work with this batch size: {reason}") from error
    temporary = path.with_name(f"{path.name}.tmp")  # `path` may be a hard link to another variant's file
    onnx.save(fixed, temporary)
    os.replace(temporary, path)


def configurations(target: str) -> list[list[QuantizationConfig]]:
    """The first configurations to try: the fast scheme that does not saturate on this machine, with each method; for OpenVINO then NNCF."""
    scheme = REDUCED if saturates() else FULL
    groups = [[QuantizationConfig(scheme, method) for method in METHODS]]
    return [*groups, [QuantizationConfig(None)]] if target == "openvino" else groups


@dataclass
class Served:
    """ONNX Runtime or OpenVINO in the accuracy search (a `quantize.backend.Backend`).

    Attributes:
        target: onnx or openvino.
        quantizer: makes the quantized graphs.
        reference: the trained model's outputs.
        bounds: the bounds that a variant must meet.
    """

    target: Literal["onnx", "openvino"]
    quantizer: Quantizer
    reference: ReferenceOutputs
    bounds: AccuracyBounds

    @property
    def runtime(self) -> str:
        """Name of the runtime that serves the files."""
        return find(self.target).runtime.name

    def groups(self) -> list[list[QuantizationConfig]]:
        """See `configurations`."""
        return configurations(self.target)

    def last(self, best: QuantizationConfig | None) -> QuantizationConfig | None:
        """Unsigned weights, for ONNX Runtime on a CPU where signed ones saturate."""
        if self.target != "onnx" or not saturates():
            return None
        return replace(best or QuantizationConfig(UNSIGNED), scheme=UNSIGNED, exclude=())

    def make(self, config: QuantizationConfig, folder: Path) -> Variant:
        """Write the files of a configuration into a folder."""
        if config.scheme is None:
            files = ["model.int8.xml", "model.int8.bin"]
            calibration = self.quantizer.calibration(config)
            assert calibration is not None
            quantization = openvino.quantize_ir(calibration, folder / files[0])
        elif self.target == "onnx":
            files = ["model.u8.onnx"]
            quantization = self.quantizer.qdq(config, folder / files[0])
        else:
            files = ["model.int8.xml", "model.int8.bin"]
            graph = folder / "model.u8.onnx"
            quantization = self.quantizer.qdq(config, graph)
            openvino.write_ir(graph, folder / files[0])
        return unverified(
            self.target,
            self.runtime,
            "int8",
            folder,
            files,
            settings=openvino.SETTINGS if self.target == "openvino" else {},
            quantization=quantization.model_copy(
                update={"configuration": config.name, "made_on": MadeOn(isa=cpu_features(), saturates=saturates())}
            ),
            note=_X86_NOTE if config.scheme is FULL else _SLOW_NOTE if config.scheme is UNSIGNED else "",
        )

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """Compare a variant with the trained model in the runtime that serves the file."""
        return self.quantizer.fidelity(variant, folder)

    def verify(self, variant: Variant, folder: Path) -> Variant:
        """Verify in the runtime that serves the file."""
        return verify(variant, folder, self.reference, self.bounds)
