"""Candidates with random weights: networks that tell images apart, exported as trained ones would be."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgekit.data.splits import Splits, load_splits
from edgekit.recipe import parse
from edgekit.search.candidates import Candidate, chosen_candidates
from edgekit.search.untrained import export_untrained, untrained

RECIPE = parse({"data": {"image_size": 16, "labels": 10}})


def splits() -> Splits:
    return load_splits(RECIPE.data)


def candidate(text: str) -> Candidate:
    [found] = chosen_candidates(RECIPE, [text])
    return found


def test_no_branch_is_zero_and_the_outputs_differ_from_image_to_image() -> None:
    images = splits()
    network = untrained(candidate("{name: resnet10, width: 0.125}"), RECIPE, images)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(bool(norm.weight.any()) and norm.weight.min() > 0 for norm in norms)
    pixels = torch.from_numpy(images.test.images[:32].copy())
    with torch.no_grad():
        logits = network(pixels)
    assert logits.std(dim=0).min() > 0
    assert not network.training
    again = untrained(candidate("{name: resnet10, width: 0.125}"), RECIPE, images)
    with torch.no_grad():
        assert torch.equal(again(pixels), logits), "the same weights every time"


def test_an_export_says_that_its_weights_are_random_and_is_kept(tmp_path: Path) -> None:
    images, small = splits(), candidate("{name: resnet10, width: 0.125}")
    made = export_untrained(small, RECIPE, images, tmp_path / "bundle", ("onnx",), ("int8",))
    [variant] = made.manifest.variants
    assert variant.quantization is not None
    assert variant.quantization.strategy == "calibration"
    assert made.manifest.provenance["random_weights"]
    assert made.manifest.accuracy is None
    before = (tmp_path / "bundle" / "bundle.json").read_bytes()
    export_untrained(small, RECIPE, images, tmp_path / "bundle", ("onnx",), ("int8",))
    assert (tmp_path / "bundle" / "bundle.json").read_bytes() == before
