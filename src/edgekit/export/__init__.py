"""From a trained network to verified files for each runtime.

`pipeline` runs all steps:

- `importers` turn the user's model into one float graph (`edgekit.onnx_graph`).
- `make` makes each variant from it with its target's maker: `served` and `openvino` for CPUs, `tensorrt` and `half` for NVIDIA; INT8 with
  `edgekit.quantize`.
- `verify` compares a variant with the trained model, `speed` with float; `pack` writes the bundle.
- `jobs` makes variants in parallel; `staging` keeps finished work, so that an interrupted export can resume.

The package is also callable: `edgekit.export(…)` is `edgekit.api.exporting.export` and has its signature.
"""
