"""The files of the official toolchain, litert-torch and litert-quantizer: run by `mobile_table.py --peer` in their own environment.

    PEER/bin/python benchmarks/mobile_official.py FOLDER NETWORK_AS_JSON

Reads `weights.pt` and `calibration.npy` in FOLDER, and writes there

- `official-fp32.tflite`: `litert_torch.convert` of the network, which takes one image, uint8 (1, s, s, 3);
- `official-int8.tflite`: litert-quantizer's recipe `static_wi8_ai8` as it is, which also quantizes the outputs;
- `official-int8-float-io.tflite`: the same with inputs and outputs left alone;

and prints the seconds of each as JSON: those of the process until the file is there; both INT8 files share one calibration.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

CLOCKS = {"wall_seconds": time.monotonic, "cpu_seconds": time.process_time}


def main() -> None:
    """Convert, calibrate, quantize."""
    began = {name: clock() for name, clock in CLOCKS.items()}
    began["cpu_seconds"] = 0.0  # the process itself
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter
    from litert_quantizer import quantizer, recipe
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.qtyping import TFLOperationName

    from mobile_networks import Network, network

    imported = time.process_time()
    folder, entry = Path(sys.argv[1]), Network(**json.loads(sys.argv[2]))
    images = np.load(folder / "calibration.npy")
    model = network(entry, folder / "weights.pt")
    floating = folder / "official-fp32.tflite"
    litert_torch.convert(model, (torch.from_numpy(images[:1]),)).export(str(floating))
    spent = {name: clock() - began[name] for name, clock in CLOCKS.items()}
    found = {"fp32": dict(spent)}
    ranges: dict[str, object] = {}
    for name in ("int8", "int8-float-io"):
        start = {clock: read() for clock, read in CLOCKS.items()}
        quantizing = quantizer.Quantizer(str(floating), recipe.static_wi8_ai8())
        if not ranges:
            (signature,) = Interpreter(model_path=str(floating)).get_signature_list()
            ranges = quantizing.calibrate({signature: [{"args_0": image[None]} for image in images]}, num_threads=1)
            calibrated = {clock: read() - start[clock] for clock, read in CLOCKS.items()}
            spent = {clock: spent[clock] + calibrated[clock] for clock in CLOCKS}
            start = {clock: read() for clock, read in CLOCKS.items()}
        if name == "int8-float-io":
            for operation in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
                quantizing.update_quantization_recipe(".*", operation, algorithm_key=AlgorithmName.NO_QUANTIZE)
        result = quantizing.quantize(ranges, enable_progress_report=False)
        result.export_model(str(folder / f"official-{name}.tflite"), overwrite=True)
        found[name] = {clock: spent[clock] + read() - start[clock] for clock, read in CLOCKS.items()}
    print(json.dumps({name: {"import_cpu_seconds": imported, **row} for name, row in found.items()}))


if __name__ == "__main__":
    main()
