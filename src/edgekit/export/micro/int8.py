"""TFLite Micro's INT8 in the accuracy search: LiteRT's backend with other rules and another runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit.bundle import Variant
from edgekit.errors import ExportError
from edgekit.export.litert.graph import Graph
from edgekit.export.litert.int8 import LiteRtInt8
from edgekit.export.litert.quantize import OperatorCounts
from edgekit.export.litert.rewrites import Range
from edgekit.export.micro.rules import HINT, check_kernels, quantize_for_micro
from edgekit.export.verify import ReferenceOutputs, class_spread
from edgekit.quantize.quantizer import QuantizationConfig
from edgekit.targets import TFLITE_MICRO

MOST_IMAGES = 1000  # that a variant is judged on: the interpreter's kernels take up to a second an image


@dataclass
class MicroInt8(LiteRtInt8):
    """TFLite Micro's INT8 (a `quantize.backend.Backend`)."""

    target: str = "micro"
    runtime: ClassVar[str] = TFLITE_MICRO.name
    file: ClassVar[str] = "micro_model.tflite"
    format: ClassVar[str] = "TFLite Micro"

    def make(self, config: QuantizationConfig, folder: Path) -> Variant:
        """Write the file of a configuration into a folder.

        Raises:
            ExportError: nothing in the network can be quantized, or TFLite Micro lacks an operator.
        """
        try:
            return super().make(config, folder)
        except ExportError as error:
            if "--target litert" not in error.hint:
                raise
            raise ExportError(error.message, HINT) from error

    def quantized(
        self, graph: Graph, ranges: Mapping[str, Range], kept: Collection[str], bits: int
    ) -> tuple[Graph, OperatorCounts]:
        """The float graph in INT8 (see `quantize_for_micro`)."""
        found = quantize_for_micro(graph, ranges, kept, bits)
        check_kernels(found[0], self.reference.task)
        return found


def subset(reference: ReferenceOutputs, count: int = MOST_IMAGES) -> ReferenceOutputs:
    """At most `count` images of the evaluation set, the golden ones first, the others spread over the task's groups."""
    if len(reference.images) <= count:
        return reference
    spread = class_spread(reference.task.groups(reference.outputs, reference.labels), count)
    chosen = np.array(list(dict.fromkeys([*reference.golden.tolist(), *spread.tolist()]))[:count], np.int64)
    return reference.subset(chosen)
