"""What a runtime may compute with: the words that `--provider` and a session's `provider` setting take. Imports no runtime."""

from __future__ import annotations

from edgekit.bundle import RuntimeName

# The setting's name, for every runtime: ONNX Runtime calls it an execution provider, OpenVINO a device.
PROVIDER = "provider"
# ONNX Runtime: word -> the provider, the package that has it, and where its tensors live (None: in main memory).
ONNXRUNTIME: dict[str, tuple[str, str, str | None]] = {
    "cpu": ("CPUExecutionProvider", "onnxruntime", None),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu", "cuda"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu, with TensorRT", "cuda"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino", None),
}
OPENVINO = ("cpu", "gpu", "npu")
# The first is the one that is taken where none is named.
PROVIDERS: dict[RuntimeName, tuple[str, ...]] = {"onnxruntime": tuple(ONNXRUNTIME), "openvino": OPENVINO}
