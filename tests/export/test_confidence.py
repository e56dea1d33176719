"""The confidence of a real export: each variant's own, from images that no model learned from, and none where there are too few."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit as package
from edgekit.abstention import DISTANCE
from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.export.confidence import ConfidenceImages, ConfidenceRequest
from edgekit.export.judged import Judged
from edgekit.intervals import of_order_statistic
from edgekit.quantize.selection import CalibrationPool
from edgekit.runtimes import load
from edgekit.tasks.calibration import negative_log_likelihood, temperature_for
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported

VARIANTS: dict[str, Any] = {
    "targets": ["onnx"], "precisions": ["fp32", "int8"], "embedding": True, "search_minutes": 0.0, "max_drop": 100.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    probe = exported.splits().probe
    assert probe.labels is not None
    request = ConfidenceRequest((np.asarray(probe.images), probe.labels))
    return exported.export(
        tmp_path_factory.mktemp("digits") / "export", confidence=request, calibration=pool(), **VARIANTS
    )


def pool() -> CalibrationPool:
    """Fifty of its images calibrate INT8; where known images lie is estimated from more."""
    images = exported.splits().pool.center_crop(16).images
    return CalibrationPool(len(images), lambda rows: np.asarray(images[rows]), "digits", count=50)


def test_every_variant_has_its_own_threshold_and_keeps_the_rate(bundle: Bundle) -> None:
    probe, manifest = exported.splits().probe, bundle.manifest
    assert manifest.bundle_schema == 3
    assert manifest.geometry is not None
    assert {v.id for v in manifest.variants if v.confidence} == {"onnx-fp32", "onnx-int8"}
    for variant in manifest.variants:
        confidence, known = variant.confidence, bundle.known(variant)
        assert confidence is not None
        assert known is not None
        assert known.geometry is not None
        session = load(bundle, variant)
        outputs = session.run_all(np.asarray(probe.images))
        session.close()
        # On the images that it was set on, as many fall below it as were asked for: of this variant's own outputs.
        k = int(0.05 * (len(probe) + 1) + 1e-9)
        assert (bundle.task.decisions(outputs, known) == -1).sum() == k - 1
        assert confidence.temperature == pytest.approx(temperature_for(outputs["logits"], probe.labels), rel=1e-3)
        assert confidence.interval == pytest.approx(of_order_statistic(k, len(probe)))
        assert (confidence.images, confidence.are, confidence.rule) == (len(probe), "probe images", DISTANCE)
    float_one, int8 = (v.confidence for v in manifest.variants)
    assert float_one is not None
    assert int8 is not None
    assert float_one.threshold != int8.threshold


def test_what_it_does_is_measured_on_the_test_images(bundle: Bundle) -> None:
    test, trained = exported.splits().test, bundle.manifest.confidence
    assert test.labels is not None
    assert trained is not None
    assert trained.quality is not None
    quality = trained.quality
    assert (quality.images, quality.are, quality.agreement) == (len(test), "test images", None)
    session = load(bundle, bundle.variant("onnx-fp32"))
    logits = session.run(np.asarray(test.images))
    session.close()
    assert quality.nll[0] == pytest.approx(negative_log_likelihood(logits, test.labels), rel=1e-3)
    assert quality.nll[1] == pytest.approx(negative_log_likelihood(logits, test.labels, trained.temperature), rel=1e-3)
    assert sum(found.images for found in quality.bins) == len(test)
    low, high = quality.unknown_interval
    assert low <= quality.unknown <= high
    assert trained.interval[0] < 0.05 < trained.interval[1]
    for variant in bundle.manifest.variants:
        assert variant.confidence is not None
        assert variant.confidence.quality is not None
        agreement = variant.confidence.quality.agreement
        assert agreement is not None
        assert agreement >= (1.0 if variant.precision == "fp32" else 0.9)


def test_what_was_never_seen_is_unknown(bundle: Bundle) -> None:
    """Negatives of digits and noise: most of them, where 5 % of the digits are."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)
    far = np.concatenate([255 - np.asarray(exported.splits().test.images[:50]), noise])
    for variant in ("onnx-fp32", "onnx-int8"):
        with package.load(bundle, variant) as model:
            answers = model.predict_pixels(far)
        assert sum(a.unknown for a in answers) > 50
    with package.load(bundle, abstain=False) as model:
        assert not any(a.unknown for a in model.predict_pixels(far))


def test_another_request_makes_no_variant_again(bundle: Bundle) -> None:
    """Only the confidence is set again; asked for the same, nothing is written. Without the request, nothing of it is left."""
    probe, path = exported.splits().probe, bundle.path
    assert probe.labels is not None
    held_out = (np.asarray(probe.images), probe.labels)
    files = {file.path: file.sha256 for variant in bundle.manifest.variants for file in variant.files}
    same = exported.export(path, calibration=pool(), confidence=ConfidenceRequest(held_out), **VARIANTS)
    assert same.digest == bundle.digest
    wider = exported.export(
        path, calibration=pool(), confidence=ConfidenceRequest(held_out, "probability", 0.2), **VARIANTS
    )
    assert wider.manifest.confidence is not None
    assert wider.manifest.geometry is None
    assert (wider.manifest.confidence.rule, wider.manifest.confidence.false_abstain) == ("probability", 0.2)
    bare = exported.export(path, calibration=pool(), confidence=None, **VARIANTS)
    assert bare.manifest.bundle_schema == 2
    assert bare.manifest.confidence is None
    assert not any(v.confidence for v in bare.manifest.variants)
    for again in (wider, bare):
        assert {file.path: file.sha256 for variant in again.manifest.variants for file in variant.files} == files


@pytest.mark.parametrize(
    ("images", "share", "needed"),
    [(0, 0.05, 20), (19, 0.05, 20), (60, 0.01, 99)],
    ids=["none", "few", "few for the rate"],
)
def test_too_few_images_set_nothing_and_the_bundle_says_so(
    tmp_path: Path, images: int, share: float, needed: int
) -> None:
    probe = exported.splits().probe
    assert probe.labels is not None
    request = ConfidenceRequest((np.asarray(probe.images[:images]), probe.labels[:images]), false_abstain=share)
    bundle = exported.export(tmp_path / "export", confidence=request, targets=["onnx"], precisions=["fp32"])
    assert bundle.manifest.confidence is None
    assert bundle.manifest.bundle_schema == 2
    notes = [note for note in bundle.manifest.provenance["notes"] if "no answer unknown" in note]
    assert len(notes) == 1
    assert f"{f'only {images}' if images else 'no'} probe images" in notes[0]
    assert f"of at least {needed} (" in notes[0]


def test_a_model_from_elsewhere_takes_half_of_its_test_images() -> None:
    labels = np.repeat(np.arange(5), 20)
    images = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    judged = Judged(images, labels, CalibrationPool.of_images(images[:30]), held_back=False)
    chosen = ConfidenceImages.of(ConfidenceRequest(), judged, CLASSIFICATION)
    assert chosen is not None
    first, second = (set(part[0][:, 0, 0, 0].tolist()) for part in (chosen.setting, chosen.testing))
    assert first | second == set(range(100))
    assert not first & second
    for part in (chosen.setting, chosen.testing):
        assert (np.bincount(part[1]) >= 9).all()  # of every class
        assert (labels[part[0][:, 0, 0, 0]] == part[1]).all()
    assert (
        ConfidenceImages.of(
            ConfidenceRequest(), Judged(images, None, judged.calibration, held_back=True), CLASSIFICATION
        )
        is None
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"abstain": "sometimes"}, "abstain: 'sometimes' is no score"),
        ({"false_abstain": 0.0}, "false_abstain: 0 is not above 0 and at most 0.5"),
        ({"false_abstain": 0.7}, "false_abstain: 0.7 is not above 0 and at most 0.5"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        package.export("runs/none", **options)
