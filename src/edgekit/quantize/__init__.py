"""Quantization to INT8, for whatever runtime.

Which images (`selection`) give which ranges (`calibration`, `ranges`); how a graph is quantized for CPUs (`quantize`) and for TensorRT
(`signed`, `qdq_lint`); what can be done where it loses accuracy (`equalize`, `correct`, `sensitivity`, `recover`); how a file is compared
with the trained model without labels (`fidelity`); and who tries what in which order (`ways`, `ladder`; a runtime is a `family`).
"""
