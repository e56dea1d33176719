"""Metadata inside model files, for use without the bundle: in ONNX's `metadata_props` and in the `rt_info` of OpenVINO's IR.

TensorRT engines carry no metadata: other tools refuse an engine with a foreign header. It is in the record beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from edgekit import __version__
from edgekit.bundle import Precision
from edgekit.onnx_graph.files import read_onnx
from edgekit.preprocess import Preprocessing

KEYS = ("edgekit", "name", "classes", "preprocessing", "precision")


def label(path: Path, *, name: str, classes: Sequence[str], preprocessing: Preprocessing) -> None:
    """Write a model's metadata into a float ONNX file; every file made from it inherits them.

    Args:
        path: the file; other keys of its metadata are kept.
        name: of the model.
        classes: names, in the order of the logits.
        preprocessing: how an image becomes its input.
    """
    model = read_onnx(path)
    _set(model, {
        "edgekit": __version__,
        "name": name,
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "preprocessing": preprocessing.model_dump_json(),
        "precision": "fp32",
    })  # fmt: skip
    onnx.save(model, path)


def set_precision(model: ModelProto, precision: Precision) -> None:
    """Correct the precision that a model inherited; changes `model`."""
    _set(model, {"precision": precision})


def inherit(source: Path, path: Path) -> None:
    """Copy the metadata of an ONNX file to the one that replaces it."""
    model = read_onnx(path)
    _set(model, of_onnx(source))
    onnx.save(model, path)


def of_onnx(path: Path) -> dict[str, str]:
    """edgekit's metadata in an ONNX file: the keys that it has."""
    props = read_onnx(path, external=False).metadata_props
    return {prop.key: prop.value for prop in props if prop.key in KEYS}


def into_ir(model: Any, facts: Mapping[str, str]) -> None:
    """Write metadata into an OpenVINO model, below `edgekit` in its `rt_info`; changes `model`."""
    for key, value in facts.items():
        model.set_rt_info(value, ["edgekit", "version" if key == "edgekit" else key])


def _set(model: ModelProto, facts: Mapping[str, str]) -> None:
    onnx.helper.set_model_props(model, {**{prop.key: prop.value for prop in model.metadata_props}, **facts})
