"""From a trained network to verified files for each runtime.

`pipeline` is the whole of it: `sources` (whatever the user has) become one float graph (`graph`), `make` makes each variant from that by its
target's maker (`served` and `openvino` for CPUs, `tensorrt` and `half` for NVIDIA; INT8 in `int8`), `verify` holds it against the trained model,
`speed` against float, `pack` writes the bundle. `jobs` and `staging` make variants side by side and go on after an interruption.

It can be called, too: `edgekit.export(…)` is `edgekit.api.exporting.export`, which its signature shows.
"""
