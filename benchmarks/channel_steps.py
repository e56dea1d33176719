"""How long a network runs by the number of its channels: kernels compute channels in blocks, so latency is a staircase.

    python benchmarks/channel_steps.py

A stack of eight 3 x 3 convolutions on 16 x 16 images, float32, batch 1, one thread, in ONNX Runtime. All numbers of channels take
turns, so that other work on the machine meets them alike; the 0.1 quantile counts, which it disturbs least. Written to
results/channel_steps.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgekit.machine import this_machine
from edgekit.result import now
from result_files import write_rows

CHANNELS = (16, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64)
SIDE, LAYERS, ROUNDS = 16, 8, 150


def stack(channels: int) -> bytes:
    """Return the network as ONNX, with random weights."""
    draws = np.random.default_rng(0)
    nodes, weights, given, wide = [], [], "image", 3
    for layer in range(LAYERS):
        kernel = (draws.normal(size=(channels, wide, 3, 3)) / np.sqrt(9 * wide)).astype(np.float32)
        weights += [
            numpy_helper.from_array(kernel, f"kernel{layer}"),
            numpy_helper.from_array(np.zeros(channels, np.float32), f"bias{layer}"),
        ]
        nodes += [
            helper.make_node("Conv", [given, f"kernel{layer}", f"bias{layer}"], [f"sums{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"sums{layer}"], [f"features{layer}"]),
        ]
        given, wide = f"features{layer}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [given], ["mean"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, channels, 1, 1])
    graph = helper.make_graph(nodes, "stack", [image], [mean], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def measure() -> dict[int, float]:
    """Return the 0.1 quantile of the latency by the number of channels, ms."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    built = {
        channels: onnxruntime.InferenceSession(stack(channels), options, providers=["CPUExecutionProvider"])
        for channels in CHANNELS
    }
    image = np.random.default_rng(1).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    seconds: dict[int, list[float]] = {channels: [] for channels in CHANNELS}
    for _ in range(ROUNDS):
        for channels, session in built.items():
            began = time.perf_counter()
            session.run(None, {"image": image})
            seconds[channels].append(time.perf_counter() - began)
    return {channels: 1e3 * float(np.quantile(values, 0.1)) for channels, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "channel_steps.json")
    arguments = parser.parse_args()
    found = measure()
    content: dict[str, Any] = {
        "created": now(),
        "machine": this_machine().model_dump(),
        "command": "python benchmarks/channel_steps.py",
        "protocol": f"{LAYERS} convolutions of 3 x 3 on {SIDE} x {SIDE} images, float32, batch 1, one thread; 0.1 quantile of {ROUNDS} runs, ms",
        "milliseconds": {str(channels): round(value, 4) for channels, value in found.items()},
        "as_a_multiple_of_16_channels": {
            str(channels): round(value / found[16], 3) for channels, value in found.items()
        },
    }
    write_rows(arguments.output, content)
    print(f"written to {arguments.output}: {content['as_a_multiple_of_16_channels']}")


if __name__ == "__main__":
    main()
