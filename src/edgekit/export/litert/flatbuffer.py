"""A graph as the bytes of a `.tflite`: the FlatBuffers schema of TensorFlow Lite, version 3, as `ai-edge-litert` and `tflite-micro` ship it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from edgekit.errors import RuntimeMissing
from edgekit.export.litert.graph import Graph, LiteTensor, Operator

IDENTIFIER = b"TFL3"
_ALIGNED = 16  # bytes: what kernels and TFLite Micro expect of constants
_TYPES = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "bool": "BOOL",
}
# The table that holds an operator's options, where it is not called after the operator.
_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "FULLY_CONNECTED": "FullyConnectedOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions", "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions", "BATCH_MATMUL": "BatchMatMulOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions", "PADV2": "PadV2Options",
    "LEAKY_RELU": "LeakyReluOptions",
}  # fmt: skip
# The version of an operator is the oldest that knows what is asked of it (tensorflow/lite/tools/versioning/op_version.cc).
_INT8_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 12, "LEAKY_RELU": 2, "SPLIT": 2, "STRIDED_SLICE": 2,
    "DEQUANTIZE": 2, "BATCH_MATMUL": 2, "DEPTH_TO_SPACE": 2, "SPACE_TO_DEPTH": 2, "TRANSPOSE": 2, "GATHER": 2,
    "RESIZE_BILINEAR": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "REDUCE_MAX": 2, "SOFTMAX": 2, "TANH": 2, "LOGISTIC": 2,
    "CONCATENATION": 2, "MEAN": 2, "PAD": 2, "PADV2": 2, "ADD": 2, "SUB": 2, "MUL": 2, "RELU": 2, "RELU6": 2,
    "AVERAGE_POOL_2D": 2, "MAX_POOL_2D": 2, "MAXIMUM": 2, "MINIMUM": 2, "TILE": 2,
}  # fmt: skip


def schema() -> Any:
    """The module of the schema.

    Raises:
        RuntimeMissing: no package that has it is installed.
    """
    for package in ("ai_edge_litert", "tflite_micro.tensorflow.lite.micro.python"):
        try:
            return importlib.import_module(f"{package}.schema_py_generated")
        except ImportError:
            continue
    raise RuntimeMissing(
        "ai-edge-litert is not installed",
        "install edgekit's wheel with the extra [litert], or leave --target litert out",
    )


def serialize(graph: Graph) -> bytes:
    """The bytes of a graph.

    Args:
        graph: whole; its outputs become tensors of their names, all others get names that differ.

    Raises:
        RuntimeMissing: no package that has it is installed.
    """
    fb = schema()
    import flatbuffers

    writer = _Writer(fb, graph)
    model = writer.model()
    builder = flatbuffers.Builder(writer.size + (1 << 20))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class _Writer:
    def __init__(self, fb: Any, graph: Graph) -> None:
        self.fb, self.graph = fb, graph
        self.tensors = graph.tensors()
        self.index = {id(tensor): i for i, tensor in enumerate(self.tensors)}
        self.size = sum(t.data.nbytes for t in self.tensors if t.data is not None)
        self.buffers = [self._buffer(None)]  # the first is the empty one, by the schema
        self.codes: dict[tuple[str, int], int] = {}

    def model(self) -> Any:
        fb, graph = self.fb, self.graph
        names = _names(graph, self.tensors)
        sub = fb.SubGraphT()
        sub.name = "main"
        sub.tensors = [self._tensor(tensor, names[id(tensor)]) for tensor in self.tensors]
        sub.inputs = np.array([self.index[id(t)] for t in graph.inputs], np.int32)
        sub.outputs = np.array([self.index[id(t)] for t in graph.outputs.values()], np.int32)
        sub.operators = [self._operator(operator) for operator in graph.operators]
        model = fb.ModelT()
        model.version, model.description = 3, "edgekit"
        model.subgraphs = [sub]
        model.operatorCodes = [self._code(kind, version) for kind, version in self.codes]
        model.signatureDefs = [self._signature()]
        model.metadata = [self._metadata(name, content) for name, content in graph.metadata.items()]
        model.buffers = self.buffers
        return model

    def _buffer(self, data: bytes | np.ndarray[Any, Any] | None) -> Any:
        fb = self.fb

        class Buffer(fb.BufferT):  # type: ignore[misc, name-defined]  # the schema's own Pack aligns to 4 bytes, and copies byte by byte
            def Pack(self, builder: Any) -> Any:
                placed = None
                if self.data is not None:
                    raw = (
                        np.frombuffer(self.data, np.uint8) if isinstance(self.data, bytes) else self.data.view(np.uint8)
                    )
                    builder.StartVector(1, len(raw), _ALIGNED)
                    head = builder.Head() - len(raw)
                    builder.head = head
                    builder.Bytes[head : head + len(raw)] = raw.tobytes()
                    placed = builder.EndVector()
                fb.BufferStart(builder)
                if placed is not None:
                    fb.BufferAddData(builder, placed)
                return fb.BufferEnd(builder)

        buffer = Buffer()
        buffer.data = data if data is None or isinstance(data, bytes) else data.reshape(-1)
        return buffer

    def _store(self, data: bytes | np.ndarray[Any, Any]) -> int:
        self.buffers.append(self._buffer(data))
        return len(self.buffers) - 1

    def _tensor(self, tensor: LiteTensor, name: str) -> Any:
        found = self.fb.TensorT()
        found.name, found.hasRank = name, True
        found.type = getattr(self.fb.TensorType, _TYPES[tensor.dtype.name])
        found.shape = np.array(tensor.shape, np.int32)
        if any(a != b for a, b in tensor.sides):
            found.shapeSignature = np.array([a if a == b else -1 for a, b in tensor.sides], np.int32)
        found.buffer = 0 if tensor.data is None else self._store(tensor.data)
        if tensor.scale is not None:
            found.quantization = self.fb.QuantizationParametersT()
            found.quantization.scale = tensor.scale.scale.astype(np.float32)
            found.quantization.zeroPoint = tensor.scale.zero.astype(np.int64)
            found.quantization.quantizedDimension = tensor.scale.axis
        return found

    def _operator(self, operator: Operator) -> Any:
        found = self.fb.OperatorT()
        key = operator.kind, version_of(operator)
        found.opcodeIndex = self.codes.setdefault(key, len(self.codes))
        found.inputs = np.array([-1 if t is None else self.index[id(t)] for t in operator.inputs], np.int32)
        found.outputs = np.array([self.index[id(t)] for t in operator.outputs], np.int32)
        name = _OPTIONS.get(operator.kind) or _camel(operator.kind) + "Options"
        kind = getattr(self.fb.BuiltinOptions, name, None)
        if kind is None:
            return found
        found.builtinOptionsType = kind
        found.builtinOptions = getattr(self.fb, f"{name}T")()
        for option, value in operator.options.items():
            assert hasattr(found.builtinOptions, option), (operator.kind, option)
            setattr(found.builtinOptions, option, value)
        return found

    def _code(self, kind: str, version: int) -> Any:
        found = self.fb.OperatorCodeT()
        found.builtinCode = getattr(self.fb.BuiltinOperator, kind)
        found.deprecatedBuiltinCode = min(found.builtinCode, 127)
        found.version = version
        return found

    def _signature(self) -> Any:
        found = self.fb.SignatureDefT()
        found.signatureKey = "serving_default"
        found.inputs = [self._mapped(tensor.name, tensor) for tensor in self.graph.inputs]
        found.outputs = [self._mapped(name, tensor) for name, tensor in self.graph.outputs.items()]
        return found

    def _mapped(self, name: str, tensor: LiteTensor) -> Any:
        found = self.fb.TensorMapT()
        found.name, found.tensorIndex = name, self.index[id(tensor)]
        return found

    def _metadata(self, name: str, content: bytes) -> Any:
        found = self.fb.MetadataT()
        found.name, found.buffer = name, self._store(content)
        return found


def version_of(operator: Operator) -> int:
    """The version of an operator."""
    kind, options = operator.kind, operator.options
    inputs = [tensor for tensor in operator.inputs if tensor is not None]
    rank = max((len(tensor.sides) for tensor in inputs), default=0)
    of_int8 = bool(inputs) and inputs[0].dtype == np.int8
    if kind == "DEQUANTIZE" and inputs[0].dtype == np.float16:
        return 3
    if kind == "QUANTIZE":
        return 2 if of_int8 else 1
    version = _INT8_VERSIONS.get(kind, 1) if of_int8 else 1
    if kind == "FULLY_CONNECTED" and inputs[1].dtype == np.int8:
        return _INT8_VERSIONS[kind]  # floats by weights in INT8 with a scale for each channel, too
    if kind == "FULLY_CONNECTED" and not of_int8:
        version = 6 if len(inputs) < 3 else 5 if options.get("keepNumDims") else 1
    if kind == "TRANSPOSE" and rank > 4:
        version = 4 if rank == 5 else 6
    if kind.startswith("RESIZE") and (options.get("halfPixelCenters") or options.get("alignCorners")):
        version = 3
    if kind in {"CONV_2D", "DEPTHWISE_CONV_2D"} and not of_int8:
        dilated = options["dilationHFactor"] > 1 or options["dilationWFactor"] > 1
        version = 2 if dilated and kind == "DEPTHWISE_CONV_2D" else 1
    return version


def _names(graph: Graph, tensors: list[LiteTensor]) -> dict[int, str]:
    """A name for every tensor: inputs and outputs have theirs, the others what they have as far as it is not taken."""
    names = {id(tensor): name for name, tensor in graph.outputs.items()}
    names |= {id(tensor): tensor.name for tensor in graph.inputs}
    taken = set(names.values())
    for tensor in tensors:
        if id(tensor) in names:
            continue
        candidate, i = tensor.source or tensor.name, 1
        while candidate in taken:
            candidate, i = f"{tensor.name}_{i}" if i < 3 else f"{tensor.name}_{len(taken)}_{i}", i + 1
        taken.add(candidate)
        names[id(tensor)] = candidate
    return names


def _camel(kind: str) -> str:
    special = {"MATMUL": "MatMul", "LP": "LP"}
    return "".join(special.get(part, part.capitalize()) for part in kind.split("_"))
