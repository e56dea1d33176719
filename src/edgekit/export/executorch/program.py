"""A `.pte` of a graph of ONNX: exported by torch, lowered by ExecuTorch to XNNPACK, with what the file says of itself."""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto

from edgekit.bundle import Precision
from edgekit.errors import EdgekitError, ExportError, typed_reason_of
from edgekit.export.executorch.network import HINT, OnnxNetwork
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.metadata import of_onnx
from edgekit.onnx_graph.simplify import fix_batch
from edgekit.runtimes.executorch import FACTS, FORWARD
from edgekit.runtimes.native_output import caught_stderr

BATCH = 1  # a program has memory for one batch size


def write_program(model: ModelProto, source: Path, path: Path, precision: Precision) -> None:
    """Write a graph as a `.pte` for batches of one image.

    Args:
        model: float, or with Q/DQ nodes; a free batch axis, opset 17. It is changed.
        source: the float ONNX with its metadata: name, classes, preprocessing.
        path: the file to write.
        precision: for its metadata.

    Raises:
        ExportError: the graph has an operator that is not supported, or ExecuTorch cannot lower it.
    """
    network = OnnxNetwork(fix_batch(model, BATCH)).eval()
    facts = {**of_onnx(source), "outputs": network.outputs, "precision": precision}
    try:
        with _quiet(), torch.no_grad():
            content = _lowered(network, facts)
    except (EdgekitError, OSError, MemoryError):
        raise
    except Exception as error:  # torch and ExecuTorch raise many kinds for a graph that they do not expect
        reason = typed_reason_of(error)
        raise ExportError(f"ExecuTorch cannot lower the network: {reason}", HINT) from error
    path.write_bytes(content)


def _lowered(network: OnnxNetwork, facts: dict[str, Any]) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    exported = torch.export.export(network, (network.image,), strict=False)
    edge = to_edge_transform_and_lower(
        exported,
        partitioner=[XnnpackPartitioner()],
        constant_methods={FACTS: ""},
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    partitions, outside = count_operators(edge.exported_program(FORWARD))
    facts["xnnpack_partitions"] = partitions
    facts["outside_xnnpack"] = ", ".join(f"{count} {kind}" for kind, count in outside.most_common()) or "nothing"
    # The constants are given before the lowering, and these numbers are known after it.
    edge._config_methods = {FACTS: json.dumps(facts, ensure_ascii=False, sort_keys=True)}
    content: bytes = edge.to_executorch().buffer
    return content


def count_operators(program: Any) -> tuple[int, Counter[str]]:
    """The number of parts of a lowered program that XNNPACK runs, and the operators of each kind that ExecuTorch's own kernels run."""
    kinds: Counter[str] = Counter()
    partitions = 0
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = getattr(node.target, "__name__", str(node.target))
        if "executorch_call_delegate" in name:
            partitions += 1
        elif name != "getitem":
            kinds[name.split(".")[1 if "." in name else 0].lstrip("_")] += 1  # aten.native_layer_norm.default
    return partitions, kinds


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the warnings and notes of torch and ExecuTorch, which concern their own code; undo what they set up for logging."""
    disabled, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), caught_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


def float_program(source: Path, path: Path) -> None:
    """Write a float ONNX as a `.pte` in FP32."""
    write_program(read_onnx(source), source, path, "fp32")
