"""ExecuTorch's INT8 in the accuracy search (see `quantize.search`): the same Q/DQ graph as ONNX Runtime's, in XNNPACK's integers.

XNNPACK's activations are int8 and asymmetric, which is uint8 moved by 128, and its weights int8 per output channel, so the ranges, the
equalization, the corrected biases, the layers in float and the distilled weights are those of the other targets. To lower a program takes up to
twenty seconds, so candidates are compared by their Q/DQ graph; those that are judged on the evaluation set, and the one that is delivered,
are lowered and run in ExecuTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import BundleFile, Variant
from edgekit.export.executorch.network import OnnxNetwork
from edgekit.export.executorch.program import write_program
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, unverified, verify
from edgekit.export.xnnpack import XnnpackInt8
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.simplify import fix_batch
from edgekit.quantize.fidelity import Fidelity, run
from edgekit.quantize.qdq import saturates
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer
from edgekit.targets import EXECUTORCH, ONNXRUNTIME

_QDQ = "qdq.onnx"  # temporary
FILE = "model.int8.pte"


@dataclass
class ExecuTorchInt8(XnnpackInt8):
    """ExecuTorch's INT8 (a `quantize.backend.Backend`).

    Attributes:
        quantizer: makes the quantized graphs.
        reference: the trained model's outputs.
        bounds: the bounds that a variant must meet.
    """

    quantizer: Quantizer
    reference: ReferenceOutputs
    bounds: AccuracyBounds
    target: str = "executorch"

    def make(self, config: QuantizationConfig, folder: Path) -> Variant:
        """Write the Q/DQ graph of a configuration into a folder; `verify` lowers it.

        Raises:
            ExportError: nothing in the network can be quantized.
        """
        record = self.quantizer.qdq(config, folder / _QDQ)
        record.format, record.activations, record.configuration = (
            "ExecuTorch",
            "int8 asymmetric, per tensor",
            config.name,
        )
        return unverified(self.target, EXECUTORCH.name, "int8", folder, [_QDQ], quantization=record)

    def fidelity(self, variant: Variant, folder: Path) -> Fidelity | None:
        """Compare the Q/DQ graph of a variant with the trained model.

        ONNX Runtime rounds as XNNPACK does, except where its products saturate; there the graph is computed in float.
        """
        path, task = folder / _QDQ, self.quantizer.task
        if not saturates():
            return self.quantizer.judge(lambda images: run(ONNXRUNTIME.name, path, images, task))
        return self.quantizer.judge(lambda images: _simulated(path, images, task.required))

    def verify(self, variant: Variant, folder: Path) -> Variant:
        """Lower a variant and verify it in ExecuTorch.

        Raises:
            ExportError: ExecuTorch cannot lower or run it.
        """
        write_program(read_onnx(folder / _QDQ), self.quantizer.first.model, folder / FILE, "int8")
        lowered = variant.model_copy(update={"files": [BundleFile.of(folder, FILE)]})
        return verify(lowered, folder, self.reference, self.bounds)


def _simulated(path: Path, images: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """The outputs of a Q/DQ graph, its integers rounded and its products in float."""
    import torch

    network = OnnxNetwork(fix_batch(read_onnx(path), 1))
    with torch.inference_mode():
        rows = [network(torch.from_numpy(np.array(image[None]))) for image in images]
    columns = zip(*rows, strict=True)
    found = dict(
        zip(network.outputs, (np.concatenate([row.numpy() for row in column]) for column in columns), strict=True)
    )
    return {name: found[name] for name in names}
