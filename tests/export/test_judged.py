"""INT8 is not evaluated on its calibration images, and the number of images is reported; too few calibration images give a warning or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.errors import ExportError, GateFailed
from edgekit.export.gate import gate
from edgekit.export.judged import Judged, shared
from edgekit.export.verify import AccuracyBounds
from edgekit.quantize.selection import ADVISED, FEWEST, MOST_HELD_BACK, CalibrationPool, digest_of_arrays
from tests.helpers import exported
from tests.helpers.tiny_bundle import make_bundle

Run = Callable[..., tuple[int, str, str]]


def pool(count: int) -> np.ndarray:
    return exported.splits().pool.center_crop(16).images[:count]


def numbered(total: int, count: int = 300, seed: int = 0) -> CalibrationPool:
    """Images that encode their own index."""
    images = np.arange(total * 3, dtype=np.int64).reshape(total, 1, 1, 3)
    return CalibrationPool(total, lambda rows: images[rows], "numbers", count, seed=seed)


@given(st.integers(2, 3000), st.integers(1, 400), st.integers(0, 3))
def test_what_is_held_back_never_calibrates(total: int, count: int, seed: int) -> None:
    whole = numbered(total, count, seed)
    rest, held = whole.held_back()
    assert rest.total + len(held) == total
    assert 1 <= len(held) <= MOST_HELD_BACK
    assert len(held) >= min(16, total // 2)
    every = rest.read(np.arange(rest.total))[:, 0, 0, 0] // 3
    assert sorted([*every.tolist(), *held.tolist()]) == list(range(total))
    again, same = numbered(total, count + 1, seed).held_back()  # however many calibrate
    assert (same == held).all()
    assert again.key != rest.key
    assert rest.key != whole.key


def test_a_pool_of_one_image_is_all_that_there_is() -> None:
    judged = Judged.of(None, numbered(1))
    assert (len(judged.images), judged.held_back, judged.calibration.total) == (1, False, 1)
    assert judged.describe()["are"] == "calibration images themselves"
    with pytest.raises(ExportError, match="no calibration images"):
        Judged.of(None, numbered(0))


@pytest.mark.parametrize(("total", "enough"), [(13, False), (15, True), (16, True), (30, True)])
def test_fewer_than_eight_are_refused_unless_asked_for(total: int, enough: bool) -> None:
    judged = Judged.of(None, numbered(total))
    judged.require_enough(few_images=True)
    if enough:
        assert judged.calibration.drawn >= FEWEST
        return judged.require_enough(few_images=False)
    with pytest.raises(
        ExportError, match=rf"only 7 images to calibrate INT8 \({total - 7} more are held back"
    ) as caught:
        judged.require_enough(few_images=False)
    assert "--few-images" in str(caught.value.hint)


def test_int8_of_a_bundle_without_labels_is_judged_on_what_did_not_calibrate_it(tmp_path: Path) -> None:
    bundle = exported.export(tmp_path / "export", calibration=pool(60), evaluation=None, targets=["onnx"])
    calibration = exported.quantization(bundle).calibration
    assert calibration is not None
    assert (calibration.images, calibration.also_judged_on) == (40, 0)
    assert bundle.manifest.provenance["judged_on"] == {
        "images": 20, "labels": False, "held_back": True, "are": "images held back from calibration",
    }  # fmt: skip
    rest, held = CalibrationPool.of_images(pool(60)).held_back()
    used = rest.read(np.arange(rest.total))
    assert digest_of_arrays(used) == calibration.images_sha256
    golden, _ = bundle.golden()
    assert len(golden) == 16
    assert shared(golden, used) == 0
    assert shared(golden, pool(60)[held]) == 16
    (note,) = bundle.manifest.provenance["notes"]
    assert note.startswith(f"INT8 is calibrated with only 40 images ({ADVISED} or more are advised)")
    # Other variants, and other numbers of calibration images, are judged on the same images and stand in the same bundle.
    more = exported.export(
        tmp_path / "export", calibration=pool(60), evaluation=None, targets=["openvino"], precisions=["fp16"]
    )
    assert [v.id for v in more.manifest.variants] == ["onnx-fp32", "onnx-int8", "openvino-fp16"]
    assert more.manifest.provenance["judged_on"] == bundle.manifest.provenance["judged_on"]
    assert more.manifest.provenance["notes"] == [note]


def test_the_same_images_in_both_give_a_note(tmp_path: Path) -> None:
    """The same folder is given as --calibrate and --evaluate."""
    test = exported.splits().test
    bundle = exported.export(
        tmp_path / "export",
        calibration=np.concatenate([test.images[:30], pool(120)]),
        targets=["onnx"],
        precisions=["int8"],
    )
    assert exported.quantization(bundle).calibration.also_judged_on >= 30
    (note,) = bundle.manifest.provenance["notes"]
    assert "of the calibration images of INT8 are also evaluation images" in note
    assert bundle.manifest.provenance["judged_on"]["are"] == "test images"


def test_few_images_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    options: dict[str, Any] = {"calibration": pool(9), "evaluation": None, "targets": ["onnx"]}
    with pytest.raises(ExportError, match="fewer than 8"):
        exported.export(tmp_path / "export", **options)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportError, match="fewer than 8"):  # also beside an evaluation set
        exported.export(tmp_path / "export", calibration=pool(7), targets=["onnx"])
    only_float = exported.export(tmp_path / "export", precisions=["fp32"], **options)
    assert only_float.manifest.provenance["judged_on"]["images"] == 4
    allowed = exported.export(tmp_path / "export", few_images=True, **options)
    assert exported.quantization(allowed).calibration.images == 5
    assert allowed.variant("onnx-fp32") == only_float.variant("onnx-fp32")


def test_the_command_says_what_it_was_judged_on(edgekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exported.export(tmp_path / "made", targets=["onnx"], precisions=["fp32"])
    for i, image in enumerate(pool(24)):
        Path("photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(f"photos/{i}.png")
    common = ("export", "made/model.onnx", "--calibrate", "photos", "--target", "onnx", "--output", "out")
    code, out, err = edgekit(*common)
    assert code in {0, 1}, err  # INT8 of so few images need not pass
    text = " ".join(out.split())
    assert "measured on 12 images held back from calibration" in text
    assert "agrees: on 12 images held back from calibration" in text
    assert "INT8 is calibrated with only 12 images" in text
    code, out, err = edgekit(*common, "--json")
    assert json.loads(out)["judged_on"]["images"] == 12
    assert Bundle.open("out").manifest.provenance["judged_on"]["held_back"] is True
    for i in range(10, 24):
        Path(f"photos/{i}.png").unlink()
    code, out, err = edgekit(*common)
    assert code == 2
    assert "only 5 images to calibrate INT8 (5 more are held back for evaluation)" in err
    assert "--few-images" in err
    assert "Traceback" not in err
    code, out, err = edgekit(*common, "--few-images", "--search-minutes", "0")
    assert code in {0, 1}, err
    assert "calibrated with only 5 images" in " ".join(out.split())


@pytest.mark.parametrize(
    ("precision", "found", "helps", "does_not"),
    [
        (
            "int8",
            {"drop": 0.03, "agreement": 0.95},
            "more --calibration-images or a larger --max-drop",
            "--min-agreement",
        ),
        ("fp32", {"drop": 0.03, "agreement": 0.95}, "a larger --max-drop", "--calibration-images"),
        (
            "int8",
            {"drop": 0.0, "agreement": 0.8},
            "more --calibration-images or a smaller --min-agreement",
            "--max-drop",
        ),
        ("fp32", {"drop": None, "agreement": 0.8}, "a smaller --min-agreement", "--max-drop"),
        ("fp32", {"drop": 0.0, "agreement": 1.0}, "no option makes up for what is wrong with onnx-fp32", "--max-drop"),
    ],
)
def test_a_failed_gate_names_the_options_that_may_help(
    tmp_path: Path, precision: str, found: dict[str, Any], helps: str, does_not: str
) -> None:
    bundle = make_bundle(tmp_path / "export", openvino=False)
    id_ = f"onnx-{precision}"
    variant = bundle.variant("onnx-fp32").model_copy(
        update={"id": id_, "precision": precision, "status": "rejected", **found}
    )
    bundle.manifest.variants[:] = [variant]
    with pytest.raises(GateFailed) as failed:
        gate(bundle, [id_], AccuracyBounds(max_drop=1.0, min_agreement=0.9))
    assert helps in failed.value.hint
    assert does_not not in failed.value.hint
    gate(bundle, ["openvino-int8"], AccuracyBounds())  # not what was asked for
