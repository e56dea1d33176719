"""Quantization to INT8, for every runtime.

- Calibration: which images (`selection`) give which ranges (`calibration`, `ranges`).
- The quantized graph: Q/DQ nodes for CPUs (`qdq`) and for TensorRT (`signed`), and a check of them (`qdq_lint`).
- Accuracy: equalization (`equalize`), bias correction (`correct`), layers in float (`sensitivity`, `mixed_precision`, `blocks`), and
  quantization-aware distillation (`recover`).
- Comparison with the trained model, without labels (`fidelity`).
- The search: a `QuantizationConfig` says how one file is quantized and a `Quantizer` does it (`quantizer`); the accuracy search tries
  configurations in a fixed order (`search`) within its time (`budget`), and a runtime takes part in it as a `Backend` (`backend`).
"""
