"""OpenVINO's IR: FP32, FP16, and INT8 from the Q/DQ file or by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import ExportError, RuntimeMissing, reason_of
from edgekit.files import written_by_a_library
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import into_ir, of_onnx
from edgekit.onnx_graph.operators import refused
from edgekit.quantization import CalibrationRecord, Quantization
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import kept_in_float

# Stored with every variant: the runtime's own default is bf16 on CPUs that have it, which is less exact and not faster.
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}


def write_ir(source: Path, output: Path, *, half: bool = False) -> None:
    """Convert an ONNX file, float or Q/DQ.

    Args:
        source: the ONNX file.
        output: the .xml; its weights go into a .bin beside it.
        half: store float weights as FP16.

    Raises:
        RuntimeMissing: OpenVINO is not installed.
        ExportError: OpenVINO cannot read the graph.
    """
    try:
        model = _read(source)
        into_ir(model, of_onnx(source) | ({"precision": "fp16"} if half else {}))
        _save(model, output, half=half)
    except RuntimeError as error:
        raise refused("OpenVINO", read_onnx(source), error, "leave out --target openvino") from error


def _read(source: Path) -> Any:
    """Read an ONNX file as an OpenVINO model, in a form that computes the same with a free and with a fixed batch axis."""
    ov = _openvino()
    from edgekit.runtimes.openvino import fold_biases

    model = ov.Core().read_model(source)
    fold_biases(model)
    return model


def _save(model: Any, path: Path, *, half: bool = False) -> None:
    """Write an IR, the same bytes each time: OpenVINO names unnamed nodes by a counter of the process; here they are named by
    their position in the graph."""
    for place, operation in enumerate(model.get_ordered_ops()):
        if operation.get_friendly_name() == operation.get_name():
            operation.set_friendly_name(f"{operation.get_type_name()}.{place}")
    ov = _openvino()
    with written_by_a_library(path.parent):
        ov.save_model(model, path, compress_to_fp16=half)
        ov.Core().read_model(path)  # earlier releases than 2026.4 do not notice that the disk is full


def fix_ir_batch(path: Path, batch: int) -> None:
    """Fix the batch size of an IR with a free batch axis, in place.

    Raises:
        RuntimeMissing: OpenVINO is not installed.
        ExportError: the graph does not work with this batch size.
    """
    ov = _openvino()
    temporary = path.with_name(f"fixed-{path.name}")
    try:
        model = ov.Core().read_model(path)
        model.reshape([batch, *(side.get_length() for side in list(model.input().partial_shape)[1:])])
        _save(model, temporary)  # FP16 weights are kept
    except RuntimeError as error:
        reason = reason_of(error)
        raise ExportError(f"--batch {batch}: the network does not work with this batch size: {reason}") from error
    del model  # it holds the file that is replaced now
    for suffix in (".bin", ".xml"):
        os.replace(temporary.with_suffix(suffix), path.with_suffix(suffix))


def quantize_ir(calibration: Calibration, output: Path, *, exclude: Sequence[str] = ()) -> Quantization:
    """Quantize the float model with NNCF so that it saturates on no CPU; return the record of how it was made.

    Args:
        calibration: the float model and its calibration images.
        output: the .xml to write; its weights go into the .bin beside it.
        exclude: names of nodes that stay in float, in addition to `kept_in_float`.

    Raises:
        RuntimeMissing: OpenVINO or NNCF is not installed.
        ExportError: NNCF cannot quantize the graph.
    """
    _openvino()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing CUDA at import
    try:
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    except ImportError as error:
        raise RuntimeMissing("nncf is not installed", "install edgekit's wheel with the extra [export]") from error
    graph = read_onnx(calibration.model)
    transformer = any(node.op_type == "Softmax" for node in graph.graph.node)
    model = _read(calibration.model)
    present = {operation.get_friendly_name() for operation in model.get_ops()}
    float_nodes = [name for name in dict.fromkeys([*kept_in_float(graph), *exclude]) if name in present]
    count = len(calibration.images)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), calibration.progress() as advance:

            def image(i: int) -> NDArray[np.uint8]:
                advance()
                return calibration.images[i : i + 1]

            quantized = nncf.quantize(
                model,
                nncf.Dataset(range(count), image),
                subset_size=count,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                ignored_scope=nncf.IgnoredScope(names=float_nodes, validate=False),
                advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
            )
            into_ir(quantized, of_onnx(calibration.model) | {"precision": "int8"})
            _save(quantized, output)
    except OSError:  # a full disk is not the graph's fault
        raise
    except Exception as error:  # NNCF raises many kinds for a graph that it does not expect
        reason = reason_of(error)
        raise ExportError(f"NNCF cannot quantize the model: {reason}", "export it without --precision int8") from error
    return Quantization(
        tool=f"nncf {metadata.version('nncf')} quantize, overflow fix",
        format="OpenVINO FakeQuantize",
        activations="8 bits, per tensor",
        weights="int8 symmetric, per output channel, 7 bits",
        calibration=CalibrationRecord.model_validate(
            {"method": "NNCF's default", "images": count, **calibration.drawn}
        ),
        kept_in_float=float_nodes,
    )


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise RuntimeMissing(
            "openvino is not installed",
            "install edgekit's wheel with the extra [openvino], or export only --target onnx",
        ) from error
    return openvino
