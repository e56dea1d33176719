"""The record of how INT8 was made: older bundles stay readable, and what is damaged in it makes no bundle unreadable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from edgekit.bundle import Manifest
from edgekit.export.judged import notes
from edgekit.quantization import (
    FLOAT_LAYERS,
    Attempt,
    CalibrationRecord,
    EngineLayers,
    Quantization,
    Record,
    SearchRecord,
)
from edgekit.quantize.budget import cut_short
from edgekit.spelling import translated


def test_no_version_of_pydantic_warns_about_a_field() -> None:
    """Before 2.10 it did about every name that begins with `model_`, on each start of a command."""
    import edgekit.board
    import edgekit.result

    def every(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
        for child in kind.__subclasses__():
            yield child
            yield from every(child)

    ours = [kind for kind in every(BaseModel) if kind.__module__.startswith("edgekit.")]
    assert {edgekit.board.BoardNeeds, edgekit.result.Result} <= {*ours}
    named = [f"{k.__name__}.{name}" for k in ours for name in k.__annotations__ if re.match("model_(?!config)", name)
             and k.model_config.get("protected_namespaces") != ()]  # fmt: skip
    assert named == []


# Written before the record had a type: its first variant by `edgekit export`, the second completed with the keys that only an
# engine of TensorRT, distilled weights and blocks of layers bring.
OLD = Path(__file__).parent / "fixtures" / "bundles" / "version-0.1.0.json"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-100, 100)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def old_variants() -> dict[str, tuple[Quantization, dict[str, Any]]]:
    """Of the older bundle: id -> the record as it is read, and as it was written."""
    content = json.loads(OLD.read_text())
    manifest = Manifest.model_validate(content)
    found = {}
    for variant, written in zip(manifest.variants, content["variants"], strict=True):
        if variant.quantization is not None:
            found[variant.id] = variant.quantization, written["quantization"]
    return found


def records(record: Record) -> Iterator[Record]:
    yield record
    for name in type(record).model_fields:
        value = getattr(record, name)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Record):
                yield from records(part)


_NEW = {"top1": "score"}  # what a field of an attempt is called now


def test_every_field_of_an_older_bundle_is_typed_and_written_again_as_it_was() -> None:
    variants = old_variants()
    assert set(variants) == {"onnx-int8", "trt-rtx-int8"}
    for quantization, written in variants.values():
        renamed = {
            **translated(written),
            "tried": [{_NEW.get(key, key): value for key, value in t.items()} for t in translated(written)["tried"]],
        }
        assert json.loads(quantization.model_dump_json()) == renamed
        assert all(not record.model_extra for record in records(quantization))
    assert {key for _, written in variants.values() for key in translated(written)} == set(Quantization.model_fields)


def test_an_older_bundles_record_is_read_by_its_names() -> None:
    (onnx, written), (tensorrt, _) = old_variants().values()
    assert onnx.strategy is None
    assert onnx.calibration is not None
    assert (onnx.calibration.images, onnx.calibration.drawn) == (20, "all")
    assert [(t.strategy, t.configuration, t.status, t.drop) for t in onnx.tried] == [
        (t["strategy"], t["configuration"], t["status"], t.get("drop")) for t in translated(written)["tried"]
    ]
    assert [s.gain_db for s in onnx.sensitivity] == [s["gain_db"] for s in written["sensitivity"]]
    assert tensorrt.strategy == FLOAT_LAYERS
    assert tensorrt.engine_layers == EngineLayers(quantized=7, computed_in_int8=6, according_to="log")
    assert tensorrt.tried[1].unlabeled is not None
    assert tensorrt.tried[1].unlabeled.sqnr_db is None
    assert (cut_short(tensorrt, 10), cut_short(tensorrt, 11), cut_short(onnx, 11)) == (False, True, False)
    variants = Manifest.model_validate(json.loads(OLD.read_text())).variants
    assert any("calibrated with only 20 images" in note for note in notes(variants))


def test_a_damaged_field_counts_as_absent_and_an_unknown_one_is_kept() -> None:
    read = Quantization.model_validate(
        {
            "configuration": "8-bit",
            "strategy": "a later one",
            "tried": [3],
            "calibration": {"images": "many", "seed": 1},
            "later": [1],
        }
    )
    assert (read.configuration, read.strategy, read.tried) == ("8-bit", None, [])
    assert read.calibration == CalibrationRecord(images=None, seed=1)
    assert read.model_dump()["later"] == [1]
    assert Quantization.model_validate({"sensitivity": [{"layer": "without a gain"}]}).sensitivity == []


def test_what_was_never_set_is_not_written() -> None:
    entry = Attempt(strategy="calibration", configuration="8-bit", status="not chosen")
    assert entry.model_dump() == {"strategy": "calibration", "configuration": "8-bit", "status": "not chosen"}
    entry.status, entry.score = "rejected", None
    assert entry.model_dump() == {
        "strategy": "calibration",
        "configuration": "8-bit",
        "status": "rejected",
        "score": None,
    }
    whole = Quantization().model_copy(update={"search": SearchRecord(cut=True)})
    assert json.loads(whole.model_dump_json()) == {"search": {"cut": True}}


@given(st.dictionaries(st.sampled_from(list(Quantization.model_fields)) | st.text(max_size=5), JSON))
def test_any_record_is_read_and_reads_the_same_again(content: dict[str, Any]) -> None:
    read = Quantization.model_validate(content)
    assert Quantization.model_validate_json(read.model_dump_json()) == read
