"""The normalization of LiteRT files: one number for each channel lies in rows, and everything else stays as it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgekit.export.litert.convert import lower
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.litert.graph import Graph
from edgekit.export.litert.normalization import by_rows
from edgekit.onnx_graph.simplify import simplify
from edgekit.runtimes import open_session
from tests.helpers.litert_networks import Network

SIZE = (6, 10)


def network(*statistics: tuple[int, ...], batch: int | None = None, read_twice: bool = False) -> Graph:
    """A convolution behind a Mul, a Sub and so on in turns, with constants of these shapes."""
    rng = np.random.default_rng(0)
    network = Network(rng, SIZE, batch)
    del network.nodes[1:]  # its own normalization; the Cast stays
    network.value = network.add("Transpose", [network.nodes[0].output[0]], perm=[0, 3, 1, 2])
    for i, shape in enumerate(statistics):
        number = network.number(rng.uniform(0.5, 2, shape))
        before, network.value = network.value, network.add(("Mul", "Sub")[i % 2], [network.value, number])
        if read_twice and i == 1:
            network.value = network.add("Add", [network.value, network.add("Relu", [before])])
    network.value = network.add("Conv", [network.value, network.weight(4, 3, 3, 3)], kernel_shape=[3, 3])
    network.shape = (4, SIZE[0] - 2, SIZE[1] - 2)
    return lower(simplify(network.model()))


def run(graph: Graph, path: Path, count: int) -> np.ndarray:
    path.write_bytes(serialize(graph))
    session = open_session("litert", path, threads=1)
    assert (session.settings["xnnpack_partitions"], session.settings["outside_xnnpack"]) == ("1", "nothing")
    images = np.random.default_rng(1).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)
    return session.run(images)


@pytest.mark.parametrize(
    "statistics", [[(3, 1, 1)], [(3, 1, 1), (3, 1, 1)], [(1,), (3, 1, 1)], [(3, 1, 1), (1,), (3, 1, 1)]]
)
@pytest.mark.parametrize("batch", [None, 2])
def test_numbers_of_channels_lie_in_rows(statistics: list[tuple[int, ...]], batch: int | None, tmp_path: Path) -> None:
    plain = network(*statistics, batch=batch)
    before = [(op.kind, op.inputs, op.outputs) for op in plain.operators]
    rows = by_rows(plain)
    assert [(op.kind, op.inputs, op.outputs) for op in plain.operators] == before  # is left as it is
    kinds = [op.kind for op in rows.operators]
    assert kinds[: len(statistics) + 3] == [
        "DEQUANTIZE",
        "RESHAPE",
        *("MUL", "SUB", "MUL")[: len(statistics)],
        "RESHAPE",
    ]
    for operator, shape in zip(rows.operators[2:], statistics, strict=False):
        constant = operator.inputs[1]
        assert constant is not None
        assert constant.shape[-1:] == ((3 * SIZE[1],) if shape == (3, 1, 1) else (1,))
    sources = {op.outputs[0].source for op in plain.operators}
    assert sources <= {op.outputs[0].source for op in rows.operators}  # calibration still knows every value
    np.testing.assert_allclose(
        run(rows, tmp_path / "rows.tflite", 2), run(plain, tmp_path / "plain.tflite", 2), rtol=1e-6, atol=1e-6
    )


def test_one_number_for_all_channels_is_left_as_it_is() -> None:
    plain = network((1,), (1,))
    assert by_rows(plain) is plain


def test_what_something_else_reads_is_not_moved(tmp_path: Path) -> None:
    plain = network((3, 1, 1), (3, 1, 1), read_twice=True)
    rows = by_rows(plain)
    assert (
        Counter(op.kind for op in rows.operators)["RESHAPE"]
        == Counter(op.kind for op in plain.operators)["RESHAPE"] + 2
    )
    np.testing.assert_allclose(
        run(rows, tmp_path / "rows.tflite", 3), run(plain, tmp_path / "plain.tflite", 3), rtol=1e-6, atol=1e-6
    )


def test_an_image_that_is_not_normalized_is_left_as_it_is() -> None:
    plain = network()
    assert by_rows(plain) is plain
