"""What `mobile_table.py` measures of the files of a network: how near they are to PyTorch, and their times in turns."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.parity import compare_outputs
from edgekit.runtimes import open_session
from edgekit.runtimes.litert import executed
from peers import ratio

BASE = "onnx-fp32"  # what the ratios are of
OFFICIAL = {"fp32": "litert-fp32", "int8": "litert-int8", "int8-float-io": "litert-int8"}  # edgekit's files beside them
ROUNDS, FRESH, TURN_SECONDS = 15, 5, 0.2


class OfficialSession:
    """A file of the official converter in LiteRT, one image at a time; integers that it gives become logits."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        (image,), (output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._image, self._output, self._scale = image["index"], output["index"], output["quantization"]

    def run(self, images: Any) -> Any:
        self._interpreter.set_tensor(self._image, images)
        self._interpreter.invoke()
        found = self._interpreter.get_tensor(self._output)
        scale, zero = self._scale
        return (found.astype("float32") - zero) * scale if scale else found

    def close(self) -> None:
        del self._interpreter


def opened(entry: dict[str, Any], folder: Path) -> Any:
    """A session of a file, on one thread."""
    path = folder / entry["file"]
    if entry["runtime"] == "official":
        return OfficialSession(path)
    return open_session(entry["runtime"], path, threads=1, settings=entry["settings"])


def compare(folder: Path, files: dict[str, Any]) -> dict[str, Any]:
    """How near each file is to PyTorch."""
    images, expected, labels = np.load(folder / "evaluation.npy"), np.load(folder / "logits.npy"), folder / "labels.npy"
    found = {}
    for name, entry in files.items():
        session = opened(entry, folder)
        got = np.concatenate([session.run(np.ascontiguousarray(image[None])) for image in images])
        row = {
            "sqnr_db": compare_outputs(got, expected).sqnr_db,
            "agreement": float((got.argmax(1) == expected.argmax(1)).mean()),
        }
        if labels.exists():
            right = np.load(labels)
            row["drop"] = 100 * float((expected.argmax(1) == right).mean() - (got.argmax(1) == right).mean())
        if isinstance(session, OfficialSession):
            row["partitions"] = executed(session._interpreter)[0]
        elif "xnnpack_partitions" in session.settings:
            row["partitions"] = int(session.settings["xnnpack_partitions"])
        session.close()
        found[name] = row
    return found


def measure(folder: Path, files: dict[str, Any], rounds: int = ROUNDS) -> dict[str, Any]:
    """Time the files in turns; sessions are opened again every `FRESH` rounds, of fewer than `ROUNDS` only once."""
    fresh = FRESH if rounds >= ROUNDS else rounds
    image = np.ascontiguousarray(np.load(folder / "evaluation.npy")[:1])
    order = random.Random(0)
    sessions: dict[str, Any] = {}
    wall: dict[str, list[float]] = {name: [] for name in files}
    cpu: dict[str, list[list[float]]] = {name: [] for name in files}
    for i in range(rounds):
        if i % fresh == 0:
            for session in sessions.values():
                session.close()
            sessions = {name: opened(files[name], folder) for name in order.sample(sorted(files), len(files))}
        for name in order.sample(sorted(files), len(files)):
            for _ in range(3):
                sessions[name].run(image)
            cpu[name].append([])
            ends = time.monotonic() + TURN_SECONDS
            while time.monotonic() < ends or len(cpu[name][-1]) < 5:
                began, spent = time.perf_counter_ns(), time.process_time_ns()
                sessions[name].run(image)
                cpu[name][-1].append((time.process_time_ns() - spent) / 1e6)
                wall[name].append((time.perf_counter_ns() - began) / 1e6)
    medians = {name: [float(np.median(turn)) for turn in turns] for name, turns in cpu.items()}
    found: dict[str, Any] = {
        name: {
            "p50_ms": float(np.median(wall[name])),
            "cpu_ms": float(np.median(np.concatenate(cpu[name]))),
            "runs": len(wall[name]),
            "rounds": rounds,
            "ratio": ratio(medians[name], medians[BASE]),
        }
        for name in files
    }
    for name, ours in OFFICIAL.items():
        if f"official-{name}" in files and ours in files:
            found[f"official-{name}"]["against_official"] = ratio(medians[ours], medians[f"official-{name}"])
    return found
