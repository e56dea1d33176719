"""Random small networks for TFLite Micro: each runs as LiteRT's reference kernels run the same file, or is refused by name.

`EDGEKIT_MICRO_CASES=1000` runs so many instead of the few that the suite takes.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from edgekit.errors import ExportError
from edgekit.export.litert.convert import lower
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.litert.graph import Graph
from edgekit.export.micro.limits import measure
from edgekit.export.micro.rules import METHODS, check_kernels, quantize_for_micro
from edgekit.onnx_graph.simplify import fix_batch, simplify
from edgekit.quantize.qdq import kept_in_float
from edgekit.quantize.ranges import collect, select
from edgekit.tasks.classification import CLASSIFICATION
from tests.export.test_litert_fuzz import by_litert, by_onnxruntime, difference
from tests.helpers.litert_networks import LAYERS, build, images

pytest.importorskip("tflite_micro", reason="its wheels are for x86-64 alone")

from edgekit.runtimes.micro import MicroSession

CASES = int(os.environ.get("EDGEKIT_MICRO_CASES", "40"))
REFUSED = re.compile(r"TFLite Micro (does not have|cannot run) the operator [A-Z0-9_]+ \(node [^)]+\)")


def integers(model: ModelProto, folder: Path, kept: set[str], method: str) -> Graph:
    """A network in INT8 for TFLite Micro, by edgekit's ranges over other images than it is then run on."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    histograms = collect(path, images(model, 8, seed=1), lambda *_: None)
    graph = lower(fix_batch(model, 1))
    found, counts = quantize_for_micro(graph, select(histograms, method), kept | set(kept_in_float(model)), 8)
    floats = [op for op in found.operators if op.outputs[0].dtype == np.float32 and op.node != "dequantize"]
    assert sum(counts.in_float.values()) == len(floats)
    return found


def refusal(graph: Graph) -> str | None:
    """Why TFLite Micro does not run a graph; None where it does."""
    try:
        check_kernels(graph, CLASSIFICATION)
    except ExportError as error:
        return error.message
    return None


def hold(layers: list[str], seed: int, method: str, share: float) -> tuple[float, float] | None:
    """Hold a network in TFLite Micro against LiteRT's reference kernels with the same file.

    Returns:
        The difference between the two, and that of the latter from the float network; None where TFLite Micro refuses it.
    """
    model = simplify(build(["convolution", *layers, "convolution"], seed))
    random = np.random.default_rng(seed)
    kept = {node.name for node in model.graph.node if random.random() < share}
    pixels = images(model, 2)
    expected = by_onnxruntime(model, pixels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = integers(model, folder, kept, method)
        if (refused := refusal(found)) is not None:
            assert REFUSED.match(refused), refused
            return None
        path = folder / "micro_model.tflite"
        path.write_bytes(serialize(found))
        session = MicroSession(path, 1, {})
        ours = np.concatenate([session.run(image[None]) for image in pixels])
        needs = measure(path, CLASSIFICATION)
        theirs = np.concatenate([by_litert(path.read_bytes(), image[None], delegate=False) for image in pixels])
    assert needs.arena_bytes is not None
    assert needs.arena_bytes >= (needs.activation_bytes or 0) + (needs.persistent_bytes or 0)
    assert set(needs.operators) <= set(METHODS.values())
    assert np.isfinite(ours).all()
    return difference(ours, theirs), difference(theirs, expected)


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    layers=st.lists(st.sampled_from(sorted(LAYERS)), max_size=6),
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(["minmax", "percentile"]),
    share=st.sampled_from([0.0, 0.0, 0.3]),
)
def test_a_random_network_runs_as_the_reference_kernels_do_or_is_refused(
    layers: list[str], seed: int, method: str, share: float
) -> None:
    found = hold(layers, seed, method, share)
    if found is not None:
        apart, quantized = found
        # Kernels round borders differently, and a few layers later that is a few steps; a wrong scale is worse than INT8 itself.
        assert apart <= 0.1 + quantized
