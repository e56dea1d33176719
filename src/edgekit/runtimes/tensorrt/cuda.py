"""The few CUDA functions that a session needs, through ctypes and the driver's library.

Every NVIDIA driver and every JetPack has `libcuda.so.1` under this name, unlike the CUDA runtime, so no toolkit and no Python package is
needed. Names, types and numbers are from the CUDA Driver API reference.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, RuntimeMissing

LIBRARY = "libcuda.so.1"
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_SIGNATURES: dict[str, list[Any]] = {
    "cuInit": [c_uint],
    "cuDriverGetVersion": [POINTER(c_int)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDeviceTotalMem_v2": [POINTER(c_size_t), c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
    "cuDevicePrimaryCtxRelease_v2": [c_int],
    "cuCtxSetCurrent": [c_void_p],
    "cuMemAlloc_v2": [POINTER(c_ulonglong), c_size_t],
    "cuMemFree_v2": [c_ulonglong],
    "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cuMemFreeHost": [c_void_p],
    "cuMemcpyHtoDAsync_v2": [c_ulonglong, c_void_p, c_size_t, c_void_p],
    "cuMemcpyDtoHAsync_v2": [c_void_p, c_ulonglong, c_size_t, c_void_p],
    "cuStreamCreate": [POINTER(c_void_p), c_uint],
    "cuStreamSynchronize": [c_void_p],
    "cuStreamDestroy_v2": [c_void_p],
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, POINTER(c_void_p)],
    "cuGraphInstantiateWithFlags": [POINTER(c_void_p), c_void_p, c_ulonglong],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphDestroy": [c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuGetErrorString": [c_int, POINTER(c_char_p)],
}


class CudaError(EdgekitError):
    """A call of the CUDA driver failed."""


@dataclass(frozen=True)
class CudaGpu:
    """An NVIDIA GPU of this machine.

    Attributes:
        capability: its compute capability, as "8.7".
    """

    name: str
    capability: str
    memory_bytes: int


class Driver:
    """The CUDA driver, initialized.

    Raises:
        RuntimeMissing: there is no driver, or it finds no GPU.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise RuntimeMissing(
                f"no NVIDIA GPU: the driver's library {library} is not on this machine",
                "use a variant for onnxruntime or openvino",
            ) from error
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, c_int
        try:
            self.call("cuInit", 0)
            count = c_int()
            self.call("cuDeviceGetCount", byref(count))
        except CudaError as error:
            raise RuntimeMissing(
                f"no usable NVIDIA GPU: {error.message}", "check that `nvidia-smi` (on a Jetson `tegrastats`) works"
            ) from error
        self.count = count.value

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver API.

        Raises:
            CudaError: it did not return CUDA_SUCCESS.
        """
        status = getattr(self._library, name)(*arguments)
        if status:
            text = c_char_p()
            self._library.cuGetErrorString(status, byref(text))
            raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} (CUDA error {status})")

    def gpu(self, index: int) -> CudaGpu:
        """Return the driver's facts about a GPU."""
        device, memory, name = c_int(), c_size_t(), ctypes.create_string_buffer(256)
        self.call("cuDeviceGet", byref(device), index)
        self.call("cuDeviceGetName", name, len(name), device)
        self.call("cuDeviceTotalMem_v2", byref(memory), device)
        numbers = []
        for attribute in _CAPABILITY:
            value = c_int()
            self.call("cuDeviceGetAttribute", byref(value), attribute, device)
            numbers.append(str(value.value))
        return CudaGpu(name.value.decode(errors="replace"), ".".join(numbers), memory.value)

    def version(self) -> str:
        """Return the newest CUDA version that the driver supports, such as 12.6."""
        number = c_int()
        self.call("cuDriverGetVersion", byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"


@cache
def driver() -> Driver:
    """Return the process's driver (see `Driver`); on a machine without one, each call tries again."""
    return Driver()


def driver_release(root: Path = Path("/")) -> str:
    """Return the driver's release, or an empty string: the first line of NVIDIA's /proc file, or a Jetson's L4T release."""
    for place in ("proc/driver/nvidia/version", "etc/nv_tegra_release"):
        try:
            return (root / place).read_text(errors="replace").splitlines()[0].strip()
        except (OSError, IndexError):
            continue
    return ""


class Stream:
    """A stream of one GPU, with the memory and the CUDA graph of a session; `close` frees them.

    Args:
        index: number of the GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = driver()
        if not 0 <= index < self._driver.count:
            raise RuntimeMissing(f"no GPU {index}: this machine has {self._driver.count}", "count GPUs from 0")
        self.gpu = self._driver.gpu(index)
        self._device = c_int()
        self._context, self._stream = c_void_p(), c_void_p()
        self._graph: c_void_p | None = None
        self._device_memory: list[c_ulonglong] = []
        self._host_memory: list[c_void_p] = []
        self._call("cuDeviceGet", byref(self._device), index)
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)  # the context that TensorRT uses
        self.enter()
        self._call("cuStreamCreate", byref(self._stream), _NON_BLOCKING)

    @property
    def handle(self) -> int:
        """The stream's address, as TensorRT takes it."""
        return self._stream.value or 0

    def enter(self) -> None:
        """Make the GPU's context current in the calling thread; needed once in each thread that uses the stream."""
        self._call("cuCtxSetCurrent", self._context)

    def device(self, size: int) -> int:
        """Allocate `size` bytes on the GPU and return their address."""
        pointer = c_ulonglong()
        self._call("cuMemAlloc_v2", byref(pointer), max(1, size))
        self._device_memory.append(pointer)
        return pointer.value

    def pinned(self, size: int) -> int:
        """Allocate `size` bytes of page-locked host memory, which the GPU can copy directly, and return their address."""
        pointer = c_void_p()
        self._call("cuMemHostAlloc", byref(pointer), max(1, size), 0)
        self._host_memory.append(pointer)
        return pointer.value or 0

    def to_device(self, target: int, source: int, size: int) -> None:
        self._call("cuMemcpyHtoDAsync_v2", target, source, size, self._stream)

    def to_host(self, target: int, source: int, size: int) -> None:
        self._call("cuMemcpyDtoHAsync_v2", target, source, size, self._stream)

    def wait(self) -> None:
        """Wait until everything on the stream is done."""
        self._call("cuStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        """Start recording: calls on the stream are recorded instead of run."""
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)

    def end_capture(self) -> None:
        """Stop recording, and make the recording the graph that `launch` runs; it replaces an earlier one."""
        graph, executable = c_void_p(), c_void_p()
        self._call("cuStreamEndCapture", self._stream, byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self.drop_graph()
        self._graph = executable

    def abandon_capture(self) -> None:
        """Stop recording after an error; the driver discards the recording."""
        graph = c_void_p()
        try:
            self._call("cuStreamEndCapture", self._stream, byref(graph))
        except CudaError:
            return
        if graph:
            self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Run the graph."""
        self._call("cuGraphLaunch", self._graph, self._stream)

    def drop_graph(self) -> None:
        if self._graph is not None:
            self._call("cuGraphExecDestroy", self._graph)
            self._graph = None

    def close(self) -> None:
        """Free everything."""
        if not self._context:
            return
        self.enter()
        self.drop_graph()
        for address in self._device_memory:
            self._call("cuMemFree_v2", address)
        for pointer in self._host_memory:
            self._call("cuMemFreeHost", pointer)
        self._call("cuStreamDestroy_v2", self._stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)
        self._context = c_void_p()
        self._device_memory, self._host_memory = [], []

    def _call(self, name: str, *arguments: Any) -> None:
        self._driver.call(name, *arguments)
