"""INT8 as ONNX with quantise/dequantise pairs (Q/DQ), by ONNX Runtime's static quantisation.

The file is the one that ONNX Runtime fuses fully and that OpenVINO reads too: uint8 asymmetric activations, int8 weights per
output channel, biases in float. What comes before the first layer and the classifier itself stay in float: the classifier
costs next to nothing and carries the logits' precision.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edgekit.errors import ExportError
from edgekit.export.onnx import INPUT, OUTPUT
from edgekit.machine import has_int8_dot_product
from edgekit.progress import Advance, progress

# What both runtimes compute in INT8. Everything else (SiLU's pieces, LayerNorm, Softmax) is faster and more exact in float.
OPERATIONS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"]
PERCENTILE = 99.99  # of the activations; the extremes beyond it are clipped
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Scheme:
    """How weights are quantised, per output channel and symmetric.

    Attributes:
        name: as recorded in the bundle.
        bits: 8, or 7, which cannot saturate (see `saturates`).
        signed: int8, or uint8 around 128: exact on every CPU, but about as slow as float where there is no dot product.
    """

    name: str
    bits: Literal[7, 8]
    signed: bool = True


FULL = Scheme("8-bit", 8)
REDUCED = Scheme("7-bit", 7)
UNSIGNED = Scheme("unsigned 8-bit", 8, signed=False)


def saturates() -> bool:
    """Whether INT8 products of 8-bit weights saturate on this CPU.

    x86 without VNNI adds two u8 x s8 products in 16 bits, which can overflow; with 7-bit weights it cannot.
    """
    return platform.machine().lower() in {"x86_64", "amd64"} and not has_int8_dot_product()


class Calibration:
    """The calibration images of one export, and the ranges that they give the activations; collected once for all schemes.

    Args:
        model: the float ONNX.
        images: uint8 (n, s, s, 3), without labels.
        folder: where the ranges are kept while the export runs.
    """

    def __init__(self, model: Path, images: NDArray[np.uint8], folder: Path) -> None:
        if not len(images):
            raise ExportError("no calibration images: INT8 needs some to find the activations' ranges")
        self.model = model
        self.images = images
        self.cache = folder / "ranges.json"

    def progress(self) -> contextlib.AbstractContextManager[Advance]:
        """Show the progress of one calibration, in images."""
        return progress("calibrate", len(self.images), unit="images")

    def describe(self) -> dict[str, Any]:
        return {"method": "percentile", "percentile": PERCENTILE, "images": len(self.images)}


class _Reader:
    """Calibration images batch by batch, as `quantize_static` wants them.

    The last batch is dropped where it is a partial one: the histograms of ONNX Runtime take batches of one shape alone. With
    a stride of one batch the activations of that batch are all that is in memory.
    """

    def __init__(self, images: NDArray[np.uint8], batch: int, advance: Advance) -> None:
        self.images = images
        self.batch = min(batch, len(images))
        self.advance = advance
        self.range: Iterator[int] = iter(range(0))

    def __len__(self) -> int:
        return len(self.images) // self.batch

    def set_range(self, start_index: int, end_index: int) -> None:
        self.range = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        i = next(self.range, None)
        if i is None:
            return None
        self.advance(self.batch)
        return {INPUT: self.images[i * self.batch : (i + 1) * self.batch]}


def quantize_onnx(
    calibration: Calibration, output: Path, scheme: Scheme, percentile: float = PERCENTILE
) -> dict[str, Any]:
    """Write a Q/DQ model and say how it was made.

    Args:
        calibration: the float model and its calibration images.
        output: the file to write.
        scheme: of the weights.

    Raises:
        ExportError: ONNX Runtime cannot quantise the graph.
    """
    from onnxruntime import quantization as ort

    kept = kept_in_float(onnx.load(calibration.model))
    # Older releases of ONNX Runtime cannot keep the ranges: there a second scheme calibrates anew.
    can_keep = "calibration_cache_path" in inspect.signature(ort.quantize_static).parameters
    keep = {"calibration_cache_path": calibration.cache} if can_keep else {}
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it advises on the root logger to optimise first, which the exporter did
    try:
        with contextlib.redirect_stdout(io.StringIO()), calibration.progress() as advance:
            ort.quantize_static(
                calibration.model,
                output,
                _Reader(calibration.images, batch=10, advance=advance),
                quant_format=ort.QuantFormat.QDQ,
                op_types_to_quantize=OPERATIONS,
                nodes_to_exclude=kept,
                per_channel=True,
                reduce_range=scheme.bits == 7,
                activation_type=ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8 if scheme.signed else ort.QuantType.QUInt8,
                calibrate_method=ort.CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1, "QuantizeBias": False},
                **keep,
            )
    except Exception as error:  # whatever a graph that it does not expect makes of it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ExportError(
            f"ONNX Runtime cannot quantise the model: {reason}", "export it without --precision int8"
        ) from error
    finally:
        log.setLevel(level)
    model = onnx.load(output)
    onnx.checker.check_model(model, full_check=True)
    count = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if not count:
        raise ExportError("nothing in the network can be quantised", "export it without --precision int8")
    return {
        "tool": f"onnxruntime {metadata.version('onnxruntime')} quantize_static",
        "format": "QDQ",
        "activations": "uint8 asymmetric, per tensor",
        "weights": f"{'int8' if scheme.signed else 'uint8'} symmetric, per output channel, {scheme.bits} bits",
        "calibration": calibration.describe(),
        "operations": OPERATIONS,
        "kept_in_float": kept,
    }


def kept_in_float(model: ModelProto) -> list[str]:
    """Names of the nodes that stay in float: those before the first layer, and the last layer with what follows it."""
    nodes = list(model.graph.node)
    first = next((i for i, node in enumerate(nodes) if node.op_type in _LAYERS), len(nodes))
    kept = [node.name for node in nodes[:first]]
    by_output = {name: node for node in nodes for name in node.output}
    frontier = [OUTPUT]
    while frontier:  # back from the logits until the layer that made them
        node = by_output.get(frontier.pop())
        if node is None or node.name in kept:
            continue
        kept.append(node.name)
        if node.op_type not in _LAYERS:
            frontier.extend(node.input)
    return kept
