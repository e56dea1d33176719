"""Probe TensorRT for `edgekit doctor`, in its own process: whether it loads, and which GPUs there are."""

from __future__ import annotations

import ctypes

from edgekit.runtimes.tensorrt.adapter import load


def classic() -> list[str]:
    """Return the GPUs that classic TensorRT can use.

    Raises:
        RuntimeMissing: it does not load.
    """
    load("trt")
    return _cuda_devices()


def rtx() -> list[str]:
    """Return the GPUs that TensorRT for RTX can use.

    Raises:
        RuntimeMissing: it does not load.
    """
    load("trt-rtx")
    return _cuda_devices()


def _cuda_devices() -> list[str]:
    """Return the names of the GPUs that NVIDIA's driver reports (CUDA Driver API, device management)."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for ordinal in range(count.value):
        device = ctypes.c_int()
        if not cuda.cuDeviceGet(ctypes.byref(device), ordinal) and not cuda.cuDeviceGetName(name, len(name), device):
            names.append(name.value.decode(errors="replace"))
    return names
