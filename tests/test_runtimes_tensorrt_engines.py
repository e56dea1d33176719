"""Which engine is which, and which one runs here: what needs neither a GPU nor TensorRT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tensorrt_graphs
from edgekit.errors import ExportError
from edgekit.runtimes.tensorrt import (
    Batch,
    BuildOptions,
    adapter,
    layers,
)
from edgekit.runtimes.tensorrt.cache import key
from edgekit.runtimes.tensorrt.options import parse_capabilities
from edgekit.runtimes.tensorrt.session import why_not_here
from tensorrt_graphs import RTX
from tiny_bundle import write_onnx

model = tensorrt_graphs.model


def test_every_detail_of_a_build_and_a_machine_is_part_of_an_engines_name(model: Path, tmp_path: Path) -> None:
    machine = {"tensorrt": "10.3.0", "gpu": "Orin", "driver": "36.4"}
    other = tmp_path / "other.onnx"
    write_onnx(other, width=4)
    names = {
        key(model, RTX, machine),
        key(other, RTX, machine),
        *(key(model, RTX, {**machine, what: "changed"}) for what in machine),
        *(
            key(model, RTX.model_copy(update=change), machine)
            for change in (
                {"flavour": "trt"},
                {"precision": "fp16"},
                {"batch": Batch(max=16)},
                {"compute_capabilities": ("8.9",)},
                {"flags": ("TF32",)},
            )
        ),
    }
    assert len(names) == 10
    moved = tmp_path / "model.onnx"
    moved.write_bytes(model.read_bytes())
    assert key(moved, RTX, machine) == key(model, RTX, machine)


@pytest.mark.parametrize(
    ("batch", "says"), [({"min": 2, "opt": 1, "max": 4}, "not in order"), ({"min": 2, "opt": 4, "max": 4}, "must be 1")]
)
def test_impossible_batches_are_refused(batch: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Batch(**batch)


def test_compute_capabilities_as_text() -> None:
    assert parse_capabilities("8.6, 12.0") == ("8.6", "12.0")
    assert BuildOptions(
        flavour="trt-rtx", precision="fp32", compute_capabilities=("12.0", "8.6", "8.6")
    ).compute_capabilities == ("8.6", "12.0")
    for wrong in ("", "8", "sm_86", "9.0"):
        with pytest.raises(ExportError, match="does not build for compute capability"):
            parse_capabilities(wrong)


@pytest.mark.parametrize(
    ("built_by", "options", "bound_to", "says"),
    [
        ("1.7.1", RTX, {}, ""),
        ("1.6.0", RTX, {}, "built by TensorRT 1.6.0, here is 1.7.1"),
        ("1.7.1", RTX.model_copy(update={"compute_capabilities": ("8.9", "12.0")}), {}, "for compute capability 8.9, 12.0, this GPU has 8.6"),
        ("1.7.1", RTX.model_copy(update={"compute_capabilities": ()}), {"gpu": "B"}, "built on B, here is A"),
    ],
)  # fmt: skip
def test_why_an_engine_cannot_run_here(
    built_by: str, options: BuildOptions, bound_to: dict[str, str], says: str
) -> None:
    machine = {"tensorrt": "1.7.1", "gpu": "A", "compute_capability": "8.6", "architecture": "x86_64"}
    why = why_not_here(built_by, options, bound_to, machine)
    assert says in why
    assert bool(says) == bool(why)


def test_progress_of_nested_phases() -> None:
    phases = {"all": (None, 4, 1), "graph": ("all", 2, 1), "layer": ("graph", 10, 5)}
    assert adapter.share(phases, "layer") == pytest.approx((1 + (1 + 0.5) / 2) / 4)
    assert adapter.share({"all": (None, 2, 5)}, "all") == 1.0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP32", "fp32"),
        ("Channel major INT8 format where channel % 32 == 0", "int8"),
        ("Half", "half"),
    ],
)
def test_types_in_the_inspectors_words(text: str, kind: str) -> None:
    told = {"Layers": [{"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": text}]}, "b"]}
    (layer,) = layers.from_inspector(json.dumps(told))
    assert (layer.kind, layer.inputs) == ("CaskConvolution", (kind,))
