"""A deserialized engine and its runs, with names that are the same in every release from 8.5 on (see `adapter`)."""

from __future__ import annotations

from typing import Any

from edgekit.runtimes.tensorrt import adapter
from edgekit.runtimes.tensorrt.options import Flavor

_DTYPES = {"UINT8": "uint8", "FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT8": "int8", "BOOL": "bool"}
# The first bytes of a serialized engine: classic TensorRT's tag as trtexec reads it, and that of TensorRT for RTX as 1.7.1 writes it.
_TAGS = {b"ftrt", b"vtrt"}


def release_of(plan: bytes) -> tuple[int, ...] | None:
    """Return the release in a serialized engine's header, such as (1, 7, 1); None if the header has another format.

    After the tag come four bytes of the serialization version, 0, and from byte 24 on major, minor and patch (NVIDIA's trtexec,
    `--getPlanVersionOnly`).
    """
    if len(plan) < 28 or plan[:4] not in _TAGS or plan[4:8] != bytes(4):
        return None
    return tuple(plan[24:27])


class Engine:
    """An engine with one execution context.

    Attributes:
        inputs, outputs: name, dtype (NumPy's name) and shape of each; None is the free batch axis.
    """

    def __init__(self, trt: Any, runtime: Any, engine: Any) -> None:
        self._trt = trt
        self._runtime = runtime  # must outlive the engine
        self._engine: Any = engine
        context = engine.create_execution_context()
        if context is None:
            raise MemoryError(
                "TensorRT cannot create an execution context for the engine: too little memory on the GPU"
            )
        self._context: Any = context
        self.inputs: list[tuple[str, str, list[int | None]]] = []
        self.outputs: list[tuple[str, str, list[int | None]]] = []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            kind = _DTYPES.get(engine.get_tensor_dtype(name).name, engine.get_tensor_dtype(name).name.lower())
            shape = [None if side < 0 else int(side) for side in engine.get_tensor_shape(name)]
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs).append((name, kind, shape))

    @classmethod
    def load(cls, flavor: Flavor, plan: bytes) -> Engine | None:
        """Deserialize an engine; None if this machine's TensorRT does not accept it (another version, another GPU, damage).

        Raises:
            RuntimeMissing: this flavor is not installed.
        """
        trt = adapter.load(flavor)
        runtime = trt.Runtime(adapter.logger(trt))
        engine = runtime.deserialize_cuda_engine(plan)
        return None if engine is None else cls(trt, runtime, engine)

    def batches(self, name: str) -> tuple[int, int, int]:
        """Return the smallest, optimal and largest batch size of an input, from its optimization profile or its fixed shape."""
        engine = self._engine
        shapes = engine.get_tensor_profile_shape(name, 0)
        low, best, high = (int(shape[0]) for shape in shapes)
        return low, best, high

    def bind(self, name: str, address: int) -> None:
        """Set a tensor's address; once for each, before the first run."""
        context = self._context
        context.set_tensor_address(name, address)

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape for the next runs.

        Raises:
            ValueError: the profile does not include it.
        """
        context = self._context
        if not context.set_input_shape(name, shape):
            raise ValueError(f"the engine does not accept {name} of shape {shape}")

    def enqueue(self, stream: int) -> None:
        """Put one run on a stream.

        Raises:
            RuntimeError: TensorRT refused.
        """
        context = self._context
        if not context.execute_async_v3(stream):
            raise RuntimeError("TensorRT could not run the engine")

    def capturable(self, stream: int) -> bool:
        """Whether a run can be recorded in a CUDA graph: TensorRT for RTX reports it; classic TensorRT can for our graphs."""
        context = self._context
        return bool(context.is_stream_capturable(stream)) if hasattr(context, "is_stream_capturable") else True

    def time_layers(self, times: list[tuple[str, float]] | None) -> None:
        """Append (layer, milliseconds) of every following run to a list; None stops it."""
        context = self._context
        if times is None:
            context.profiler = None
            return
        context.enqueue_emits_profile = True
        context.profiler = adapter.profiler(self._trt, times)

    def close(self) -> None:
        """Free the context, then the engine."""
        self._context = None
        self._engine = None
        self._runtime = None
