"""Objects that the variants of an export share, and its options."""

from __future__ import annotations

import pickle

import pytest

from edgekit import targets
from edgekit.export.inputs import ExportOptions, Shared


def test_what_is_shared_is_made_once_for_each_type_and_key() -> None:
    shared, made = Shared(), []

    def make(value: int) -> list[int]:
        made.append(value)
        return [value]

    first = shared.once(list, lambda: make(1), "fp32")
    assert shared.once(list, lambda: make(2), "fp32") is first
    assert shared.once(list, lambda: make(3), "int8") == [3]
    assert shared.once(dict, dict, "fp32") == {}, "another type under the same key is another object"
    assert made == [1, 3]


def test_another_process_begins_with_nothing_shared() -> None:
    assert vars(pickle.loads(pickle.dumps(Shared()))) == vars(Shared())


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="max_dorp"):
        ExportOptions(max_dorp=1.0)  # type: ignore[call-arg]  # codespell:ignore


def test_a_variant_is_known_by_the_options_that_it_depends_on() -> None:
    options = ExportOptions(recover=True, search_minutes=3.0)
    assert set(options.of(targets.find("onnx"), "fp32")) == {"max_drop", "min_agreement"}
    assert set(options.of(targets.find("onnx"), "int8")) == {"max_drop", "min_agreement", "recover"}
    assert set(options.of(targets.find("trt-rtx"), "fp16")) == {"max_drop", "min_agreement", "compute_capabilities"}
