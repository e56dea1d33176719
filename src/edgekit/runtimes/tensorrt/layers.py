"""Parse the layers of an engine from TensorRT's output.

Deserializing an engine, and the engine inspector, need a GPU. But with the profiling verbosity DETAILED, TensorRT for RTX lists the
compiled layers in its verbose build log, on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from edgekit.foreign import parse_json, understood
from edgekit.runtimes.tensorrt.options import EngineLayer

LOG_HEAD = "Layers:"
_INSPECTOR = "the engine inspector's output"
_LINE = re.compile(
    r"^Name: .*?, LayerType: (?P<kind>[^,]*), Inputs: (?P<inputs>.*), Constants: (?P<weights>.*), "
    r"Outputs: (?P<outputs>.*), TacticName: .*?, Metadata: (?P<nodes>.*)$"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
_KNOWN = ("int8", "uint8", "int4", "fp8", "bf16", "fp16", "fp32", "half", "float", "int32", "int64", "bool")


def from_log(message: str) -> tuple[EngineLayer, ...]:
    """Return the layers in the builder's message that begins with `LOG_HEAD`."""
    return tuple(
        EngineLayer(
            kind=found["kind"],
            inputs=_types(found["inputs"]),
            weights=_types(found["weights"]),
            outputs=_types(found["outputs"]),
            nodes=tuple(_NODE.findall(found["nodes"])),
        )
        for line in message.splitlines()
        if (found := _LINE.match(line))
    )


def from_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers in the engine inspector's JSON (of an engine built with the verbosity DETAILED; otherwise it has only names).

    Raises:
        Unreadable: it is not JSON, or has another format, which differs between releases.
    """
    with understood(_INSPECTOR, "a list of layers"):
        return _layers(parse_json(text, _INSPECTOR))


def _layers(content: dict[str, Any]) -> tuple[EngineLayer, ...]:
    return tuple(
        EngineLayer(
            kind=str(layer.get("LayerType", "")),
            inputs=tuple(_type(t) for t in layer.get("Inputs", [])),
            weights=tuple(
                [str(w["Type"]).lower() for w in [layer.get("Weights")] if isinstance(w, dict) and "Type" in w]
                or [_type(t) for t in layer.get("Constants", [])]
            ),
            outputs=tuple(_type(t) for t in layer.get("Outputs", [])),
            nodes=tuple(_NODE.findall(str(layer.get("Metadata", "")))),
        )
        for layer in content.get("Layers", [])
        if isinstance(layer, dict)
    )


def computed_in_int8(layers: Sequence[EngineLayer], nodes: Iterable[str]) -> tuple[str, ...]:
    """Return those of the ONNX nodes that a layer computes from INT8 inputs and INT8 weights."""
    done = {node for layer in layers if "int8" in layer.inputs and "int8" in layer.weights for node in layer.nodes}
    return tuple(node for node in nodes if node in done)


def _types(text: str) -> tuple[str, ...]:
    return tuple(name.lower() for name in _TYPE.findall(text))


def _type(tensor: Any) -> str:
    """Return the type in a format's description: `Channel major INT8 format …` -> int8."""
    text = (
        str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "").lower() if isinstance(tensor, dict) else ""
    )
    words = set(re.findall(r"\w+", text))
    return next((name for name in _KNOWN if name in words), text)
