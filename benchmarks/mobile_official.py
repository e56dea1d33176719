"""The files of the official toolchain, litert-torch and litert-quantizer: run by `mobile_table.py --peer` in their own environment.

    PEER/bin/python benchmarks/mobile_official.py FOLDER NETWORK_AS_JSON

Reads `weights.pt` and `calibration.npy` in FOLDER, and writes there

- `official-fp32.tflite`: `litert_torch.convert` of the network, which takes one image, uint8 (1, s, s, 3);
- `official-fp32-as-is.tflite`, where that file does not compute what the network does: litert-torch 0.10 caches constants by the address of
  their bytes, of copies that it frees, so a layer can get the weights of an earlier one of the same shape (`lost_weights` names such layers).
  The network is then converted again with these copies kept (`keep_constants`), and the other files are made of that;
- `official-int8.tflite`: litert-quantizer's recipe `static_wi8_ai8` as it is, which also quantizes the outputs;
- `official-int8-float-io.tflite`: the same with inputs and outputs left alone;

and prints the seconds of each as JSON: those of the process until the file is there, without a conversion that lost weights; both INT8 files
share one calibration.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

CLOCKS = {"wall_seconds": time.monotonic, "cpu_seconds": time.process_time}


def computes_the_same(path: Path, model: Any, images: Any) -> bool:
    """Whether a float .tflite gives the logits of the network for these images, uint8 (n, s, s, 3), one by one."""
    import torch
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    for pixels, logits in zip(images, expected, strict=True):
        interpreter.set_tensor(image["index"], pixels[None])
        interpreter.invoke()
        if not np.allclose(interpreter.get_tensor(output["index"])[0], logits, atol=1e-3 * np.ptp(expected)):
            return False
    return True


def lost_weights(path: Path, model: Any) -> list[str]:
    """The layers of a network whose weights no layer of a float .tflite has.

    Weights are compared by the direction of each output channel, since a folded BatchNorm scales channels. Grouped convolutions, which
    a converter may split, are not looked at.

    Returns:
        Names of `Conv2d` (depthwise ones, too) and `Linear` modules.
    """
    from ai_edge_litert.interpreter import Interpreter
    from torch import nn

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    there = []
    for operator in interpreter._get_ops_details():
        if operator["op_name"] in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
            weights = interpreter.get_tensor(operator["inputs"][1])
            there.append(_directions(np.moveaxis(weights, -1, 0) if operator["op_name"].startswith("D") else weights))
    lost = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and _groups(module) != "several"):
            weights = module.weight.detach().numpy()
            wanted = _directions(np.moveaxis(weights, 1, -1))
            same = [np.abs((wanted * found).sum(1)) for found in there if found.shape == wanted.shape]
            if not any((cosines > 0.999).all() for cosines in same):
                lost.append(name)
    return lost


def _groups(convolution: Any) -> str:
    depthwise = convolution.groups == convolution.in_channels == convolution.out_channels
    return "one" if convolution.groups == 1 else "depthwise" if depthwise else "several"


def _directions(weights: Any) -> Any:
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)


@contextmanager
def keep_constants() -> Iterator[None]:
    """Keep every constant that litert-torch takes the address of, so that no two have the same."""
    from litert_torch.backend import inline_consts

    of_tensor = inline_consts._ConstantFingerprint.from_tensor
    kept = []

    def from_tensor(tensor: Any) -> Any:
        kept.append(tensor)
        return of_tensor(tensor)

    with mock.patch.object(inline_consts._ConstantFingerprint, "from_tensor", staticmethod(from_tensor)):
        yield


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
    example = (torch.from_numpy(images[:1]),)
    litert_torch.convert(model, example).export(str(floating))
    spent = {name: clock() - began[name] for name, clock in CLOCKS.items()}
    found: dict[str, dict[str, Any]] = {"fp32": dict(spent)}
    if not computes_the_same(floating, model, images[:8]):
        found["fp32-as-is"] = {**spent, "lost_weights": lost_weights(floating, model)}
        floating.rename(folder / "official-fp32-as-is.tflite")
        with keep_constants():
            litert_torch.convert(model, example).export(str(floating))
        if not computes_the_same(floating, model, images[:8]):
            raise SystemExit(
                f"wrong with its constants kept, too; weights that are lost: {lost_weights(floating, model)}"
            )
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
