"""Linear layers of floats in LiteRT's INT8: each row of what they read has a scale of its own, found as the layer runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgekit.export.litert.convert import lower
from edgekit.export.litert.flatbuffer import serialize
from edgekit.export.litert.graph import Graph
from edgekit.export.litert.int8 import describe
from edgekit.export.litert.quantize import MICRO, OperatorCounts, quantize
from edgekit.onnx_graph.simplify import simplify
from edgekit.quantize.qdq import kept_in_float
from edgekit.quantize.ranges import collect, select
from tests.helpers.litert_networks import Network, build, images

HEIGHT, WIDTH, OUTS = 6, 24, 10


def rows() -> tuple[ModelProto, NDArray[np.float32]]:
    """A linear layer over the rows of an image, the third of them in hundreds; what it reads besides its weights (width, outs) is the pixels."""
    net = Network(np.random.default_rng(0), (HEIGHT, WIDTH))
    del net.nodes[1:]
    pixels = net.add("Transpose", [net.nodes[0].output[0]], perm=[0, 3, 1, 2])
    factors = np.ones((1, HEIGHT, 1), np.float32) / 255
    factors[0, 2] = 4
    weight = net.weight_in(WIDTH, OUTS)
    value = net.add("MatMul", [net.add("Mul", [pixels, net.number(factors)]), weight])
    net.nodes[-1].output[0] = "rows"
    assert value
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", HEIGHT, WIDTH, 3])
    output = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 3, HEIGHT, OUTS])
    graph = helper.make_graph(net.nodes, "rows", [image], [output], net.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (stored,) = (t for t in model.graph.initializer if t.name == weight)
    return simplify(model), onnx.numpy_helper.to_array(stored)


def run(content: bytes, image: NDArray[np.uint8], delegate: bool) -> NDArray[np.float32]:
    kind = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    found: NDArray[np.float32] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return found


@pytest.mark.parametrize("delegate", [True, False])
def test_a_row_is_off_by_no_more_than_its_own_step(delegate: bool) -> None:
    """The third row reaches a thousand times further than the others. With one scale for all they would be nothing but error."""
    model, weight = rows()
    graph, counts = quantize(lower(model), {}, [])
    assert (counts.int8, counts.by_row) == (1, 1)
    image = np.random.default_rng(1).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = run(serialize(graph), image, delegate)
    read = image.astype(np.float64).transpose(0, 3, 1, 2) / 255
    read[:, :, 2] *= 4 * 255
    steps = np.abs(weight).max(0) / 127
    integers = np.rint(weight / steps) * steps
    step = (np.maximum(read.max(-1), 0) - np.minimum(read.min(-1), 0))[..., None] / 255
    bound = step * np.abs(integers).sum(0) * 1.01  # each number of a row is at most one step off
    assert (np.abs(found.reshape(1, 3, HEIGHT, OUTS) - read @ integers) <= bound).all()
    assert (bound[:, :, 0] * 100 < bound[:, :, 2]).all()


def quantized(names: list[str], seed: int, folder: Path, **options: object) -> tuple[Graph, OperatorCounts]:
    model = simplify(build(names, seed))
    onnx.save(model, folder / "model.onnx")
    ranges = select(collect(folder / "model.onnx", images(model, 4), lambda *_: None), "minmax")
    return quantize(lower(model), ranges, kept_in_float(model), **options)  # type: ignore[arg-type]


def layers(graph: Graph) -> list[tuple[str, str]]:
    """What each linear layer reads, and of which type its weights are."""
    found = []
    for operator in graph.operators:
        if operator.kind == "FULLY_CONNECTED":
            read, weight = operator.inputs[:2]
            assert read is not None
            assert weight is not None
            found.append((read.dtype.name, weight.dtype.name))
    return found


def test_attention_reads_floats_by_weights_in_int8(tmp_path: Path) -> None:
    graph, counts = quantized(["attention"], 0, tmp_path)
    *inner, classifier = layers(graph)
    assert inner
    assert set(inner) == {("float32", "int8")}
    assert classifier == ("float32", "float32")
    assert counts.by_row == len(inner)
    assert f"({len(inner)} of them linear layers that read floats)" in describe(counts)
    model = schema.ModelT.InitFromPackedBuf(serialize(graph))
    versions = [c.version for c in model.operatorCodes if c.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED]
    assert max(versions) == 12  # the first with a scale for each channel


def test_a_linear_layer_of_integers_stays_one(tmp_path: Path) -> None:
    graph, counts = quantized(["convolution", "squeeze_and_excite"], 0, tmp_path)
    assert counts.by_row == 0
    assert not [kinds for kinds in layers(graph) if kinds == ("float32", "int8")]


def test_tflite_micro_has_no_rows(tmp_path: Path) -> None:
    graph, counts = quantized(["attention"], 0, tmp_path, kernels=MICRO)
    assert counts.by_row == 0
    assert not [kinds for kinds in layers(graph) if kinds == ("float32", "int8")]
