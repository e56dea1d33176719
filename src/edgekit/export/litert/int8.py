"""LiteRT's INT8 in the accuracy search (see `quantize.search`): edgekit's own ranges, equalization, corrected biases and layers in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from onnx import ModelProto, numpy_helper

from edgekit.bundle import Variant
from edgekit.errors import ExportError
from edgekit.export.litert.convert import lower
from edgekit.export.litert.graph import Graph
from edgekit.export.litert.normalization import by_rows
from edgekit.export.litert.output import with_batch, write
from edgekit.export.litert.quantize import OperatorCounts, quantize
from edgekit.export.litert.rewrites import Range
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, unverified, verify
from edgekit.export.xnnpack import XnnpackInt8
from edgekit.onnx_graph.files import read_onnx
from edgekit.quantization import Quantization
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.qdq import kept_in_float
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer
from edgekit.quantize.ranges import select
from edgekit.targets import LITERT

_QDQ = "qdq.onnx"  # temporary


@dataclass
class LiteRtInt8(XnnpackInt8):
    """LiteRT's INT8 (a `quantize.backend.Backend`).

    Attributes:
        quantizer: makes the quantized graphs.
        reference: the trained model's outputs.
        bounds: the bounds that a variant must meet.
        batch: the batch size that the files fix; None leaves it free.

    A target with the same files for another runtime overrides the constants below, and `quantized`.
    """

    runtime: ClassVar[str] = LITERT.name
    file: ClassVar[str] = "model.int8.tflite"
    format: ClassVar[str] = "LiteRT"

    quantizer: Quantizer
    reference: ReferenceOutputs
    bounds: AccuracyBounds
    batch: int | None = None
    target: str = "litert"
    _lowered: dict[Path, Graph] = field(default_factory=dict)

    def make(self, config: QuantizationConfig, folder: Path) -> Variant:
        """Write the file of a configuration into a folder.

        Raises:
            ExportError: nothing in the network can be quantized, or LiteRT has no such operator.
        """
        calibration = self.quantizer.calibration(config)
        assert calibration is not None
        assert config.scheme is not None
        model = read_onnx(calibration.model)
        kept = list(dict.fromkeys([*kept_in_float(model), *config.exclude]))
        record = Quantization(
            tool="edgekit",
            format=self.format,
            activations="int8 asymmetric, per tensor",
            weights=f"int8 symmetric, per output channel, {config.scheme.bits} bits",
            calibration=calibration.describe(config.method),
            kept_in_float=kept,
            configuration=config.name,
        )
        self.quantizer.record_weights(config, record)
        if config.corrected:
            record.bias_correction = self.quantizer.qdq(config, folder / _QDQ).bias_correction
            corrected = with_biases(model, read_onnx(folder / _QDQ))
            (folder / _QDQ).unlink()
            graph = lower(with_batch(corrected, self.batch))
        else:
            graph = self._float_graph(calibration.model, model)
        ranges = select(calibration.histograms, config.method)
        quantized, counts = self.quantized(graph, ranges, kept, config.scheme.bits)
        if not counts.int8:
            raise ExportError("nothing in the network can be quantized", "export it without --precision int8")
        write(quantized, folder / self.file, calibration.model, "int8")
        record.operations = [describe(counts)]
        if counts.by_row:
            record.activations += "; of linear layers that read floats per row, as they run"
        return unverified(self.target, self.runtime, "int8", folder, [self.file], quantization=record)

    def quantized(
        self, graph: Graph, ranges: Mapping[str, Range], kept: Collection[str], bits: int
    ) -> tuple[Graph, OperatorCounts]:
        """The float graph in INT8 (see `quantize`)."""
        return quantize(by_rows(graph), ranges, kept, bits)

    def _float_graph(self, path: Path, model: ModelProto) -> Graph:
        if path not in self._lowered:
            self._lowered[path] = lower(with_batch(model, self.batch))
        return self._lowered[path]

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """Compare a variant with the trained model in the runtime."""
        return self.quantizer.fidelity(variant, folder)

    def verify(self, variant: Variant, folder: Path) -> Variant:
        """Verify in the runtime."""
        return verify(variant, folder, self.reference, self.bounds)


def with_biases(model: ModelProto, corrected: ModelProto) -> ModelProto:
    """A float graph with the biases that the layers of the same names have in a Q/DQ graph; changes `model`."""
    theirs = {t.name: t for t in corrected.graph.initializer}
    bias = {n.name: n.input[2] for n in corrected.graph.node if n.op_type in {"Conv", "Gemm"} and len(n.input) > 2}
    ours = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.name not in bias or len(node.input) < 3 or bias[node.name] not in theirs:
            continue
        array = numpy_helper.to_array(theirs[bias[node.name]])
        if array.dtype == np.float32 and node.input[2] in ours and array.shape == tuple(ours[node.input[2]].dims):
            ours[node.input[2]].CopyFrom(numpy_helper.from_array(array, node.input[2]))
    return model


def describe(counts: OperatorCounts) -> str:
    """How many operators are in INT8, how many of them by row, and which are in float."""
    left = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.in_float.items(), key=lambda item: -item[1]))
    by_row = f" ({counts.by_row} of them linear layers that read floats)" if counts.by_row else ""
    return f"{counts.int8} operators in INT8{by_row}, in float {left or 'none'}"
