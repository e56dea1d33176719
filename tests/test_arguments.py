"""What the Python interface says about arguments of a wrong type or out of bounds: one line, before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.arguments import Count, Positive, checked
from edgekit.gallery import Gallery

RECIPE = {"data": {"labeled": "digits"}}


@pytest.mark.parametrize(
    ("function", "given", "options", "said"),
    [
        (edgekit.load, ["x.zip"], {"threads": "2"}, "load: threads cannot be '2' (give a whole number of at least 0)"),
        (edgekit.load, ["x.zip"], {"threads": True}, "load: threads cannot be True"),
        (edgekit.load, ["x.zip"], {"max_pixels": 0}, "load: max_pixels cannot be 0 (give a whole number of at least 1)"),
        (edgekit.load, ["x.zip"], {"abstain": "yes"}, "load: abstain cannot be 'yes' (give True or False)"),
        (edgekit.load, [np.zeros((3, 3))], {}, "load: bundle cannot be of type ndarray (give Bundle, a path or text)"),
        (edgekit.bench, ["x.zip"], {"batch": [1, 0]}, "bench: batch cannot be of type list"),
        (edgekit.bench, ["x.zip"], {"batch": np.int64(0)}, "bench: batch cannot be"),
        (edgekit.bench, ["x.zip"], {"scenario": "sever"}, "bench: scenario cannot be 'sever' (did you mean server?)"),
        (edgekit.bench, ["x.zip"], {"seconds": float("nan")}, "bench: seconds cannot be nan (give a number above 0 or None)"),
        (edgekit.bench, ["x.zip"], {"cpus": [0.5]}, "bench: cpus cannot be of type list (give text, a list or None)"),
        (edgekit.report, [5], {}, "report: run cannot be 5"),
        (edgekit.train, [RECIPE], {"devices": 0}, "train: devices cannot be 0 (give a whole number of at least 1 or None)"),
        (edgekit.train, [RECIPE], {"draws": 0}, "train: draws cannot be 0 (give a whole number from 1 to 100)"),
        (edgekit.train, [RECIPE], {"on_stage": 5}, "train: on_stage cannot be 5 (give a function)"),
        (edgekit.train, [RECIPE], {"overrides": 5}, "train: overrides cannot be 5 (give text, a list or a dictionary)"),
        (edgekit.evaluate, ["x"], {"few_shot": 5}, "evaluate: few_shot cannot be 5 (give a list)"),
        (edgekit.embed, ["x", "y"], {"k": 0}, "embed: k cannot be 0"),
        (edgekit.search, [RECIPE], {"budget": 5}, "search: budget cannot be 5 (give text or a list)"),
        (edgekit.export, ["x"], {"fit": "crup"}, "export: fit cannot be 'crup' (did you mean crop?)"),
        (edgekit.export, ["x"], {"std": {}}, "export: std cannot be of type dict (give text, a number, a list or None)"),
        (edgekit.export, ["x"], {"pixel_range": 5}, "export: pixel_range cannot be 5 (give text, 2 numbers or None)"),
        (edgekit.export, ["x"], {"task": 5}, "export: task cannot be 5 (give text or None)"),
        (edgekit.Run, [5], {}, "RunFolder: path cannot be 5 (give a path or text)"),
        (edgekit.Bundle.open, [None], {}, "Bundle.open: path cannot be None"),
        (edgekit.Result.read, [5], {}, "Result.read: path cannot be 5"),
        (edgekit.Recipe.read, [RECIPE], {"overrides": [5]}, "Recipe.read: overrides cannot be of type list"),
        (Gallery.open, [5], {}, "Gallery.open: path cannot be 5"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line(function: Callable[..., Any], given: Any, options: Any, said: str) -> None:
    with pytest.raises(edgekit.EdgekitError) as refused:
        function(*given, **options)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_and_sets_are_as_good_and_python_names_a_missing_argument() -> None:
    @checked()
    def function(count: Count, share: Positive = 1.0, names: Any = (), where: Path | str | None = None) -> Any:
        """Return them."""
        return count, share, names, where

    assert function(np.int64(3), np.float32(0.5), {"a"}, "x") == (3, 0.5, {"a"}, "x")
    assert function.__doc__ == "Return them."
    assert list(inspect.signature(function).parameters) == ["count", "share", "names", "where"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'count'"):
        function()
    with pytest.raises(edgekit.EdgekitError, match=r"share cannot be 0 \(give a number above 0\)"):
        function(1, 0)
