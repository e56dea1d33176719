"""A bundle with a rule for unknown, as a user asks it: on the command line, in Python, and of a video. No training, no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgekit as package
from edgekit.abstention import RULES
from edgekit.bundle import MANIFEST, Bundle, BundleFile, write_manifest
from edgekit.errors import BundleError, EdgekitError
from edgekit.runtimes import load
from edgekit.tasks import EMBEDDING, UNKNOWN
from edgekit.tasks.calibration import scaled_softmax
from edgekit.tasks.unknown import Known
from tests.helpers.tiny_bundle import make_bundle, some_images

Command = Callable[..., tuple[int, str, str]]
KNOWN = some_images(200)
FAR = (
    np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], np.uint8)[:, None, None]
    .repeat(16, 1)
    .repeat(16, 2)
)  # plain
TYPICAL: list[int] = []


def calibrated(folder: Path, rule: str = "distance", *, embedding: bool = False) -> Bundle:
    """The tiny bundle with a rule for unknown that was set on what its own model says of smooth images."""
    bundle = make_bundle(folder, openvino=False, embedding=embedding)
    session = load(bundle, bundle.variant("onnx-fp32"))
    outputs = session.run_all(KNOWN)
    session.close()
    labels = outputs["logits"].argmax(1)
    geometry = bundle.task.geometry(outputs) if rule == "distance" else None
    manifest = bundle.manifest
    manifest.confidence = bundle.task.calibrated(outputs, labels, rule, 0.05, geometry, "probe images")  # type: ignore[arg-type]
    assert manifest.confidence is not None
    manifest.variants[0].confidence = manifest.confidence.model_copy()
    manifest.bundle_schema = 3
    if geometry is not None:
        assert geometry.output == (EMBEDDING if embedding else "logits")
        np.savez(folder / "geometry.npz", means=geometry.means, whitening=geometry.whitening)
        manifest.geometry = BundleFile.of(folder, "geometry.npz")
    write_manifest(folder, manifest)
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = calibrated(tmp_path_factory.mktemp("bundle") / "export")
    with package.load(bundle) as model:  # of the images, those that the rule knows best, and such that it does not know
        TYPICAL[:] = np.argsort([-a.score for a in model.predict_pixels(KNOWN)])[:4].tolist()
        assert all(answer.unknown for answer in model.predict_pixels(FAR))
    return bundle


@pytest.fixture
def photos(bundle: Bundle, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(KNOWN[TYPICAL[i]]).save(folder / f"known-{i}.png")
        Image.fromarray(FAR[i]).save(folder / f"far-{i}.png")
    return folder


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("embedding", [False, True])
def test_answers_are_by_the_score_and_the_temperature(tmp_path: Path, rule: str, embedding: bool) -> None:
    bundle = calibrated(tmp_path / "export", rule, embedding=embedding)
    with package.load(bundle) as model:
        answers = model.predict_pixels(KNOWN, top=1)
        known, plain = model.known, model._session.run_all(KNOWN)
    assert known is not None
    decided = bundle.task.decisions(plain, known)
    assert [a.unknown for a in answers] == (decided == -1).tolist() == [a.score < a.threshold for a in answers]
    assert sum(a.unknown for a in answers) == math.floor(0.05 * 201) - 1
    assert [a.answer for a in answers] == [UNKNOWN if d < 0 else bundle.manifest.classes[d] for d in decided]
    temperature = known.confidence.temperature
    assert temperature < 0.99  # the labels are its own answers
    expected = scaled_softmax(plain["logits"], temperature).max(1)
    assert [a.classes[0][1] for a in answers] == pytest.approx(expected.tolist())
    assert (answers[0].embedding is None) != embedding


def test_the_command_says_unknown(bundle: Bundle, photos: Path, edgekit: Command) -> None:
    code, out, err = edgekit("predict", bundle.path, photos, "--top", "1")
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    far = [text for name, text in lines.items() if "far" in name]
    assert code == 0
    assert len(lines) == 8
    assert all(text.startswith("unknown (") and text.endswith("%)") for text in far), lines
    assert sum(text.startswith("unknown") for text in lines.values()) == 4
    assert ", 4 unknown, " in err
    code, out, err = edgekit("predict", bundle.path, photos, "--no-abstain")
    assert code == 0
    assert "  unknown" not in out
    assert " unknown, " not in err


def test_json_has_answer_probability_score_and_threshold(bundle: Bundle, photos: Path, edgekit: Command) -> None:
    _, out, _ = edgekit("predict", bundle.path, photos / "far-0.png", photos / "known-0.png", "--json")
    far, near = map(json.loads, out.splitlines())
    assert (far["answer"], far["unknown"], near["unknown"]) == (UNKNOWN, True, False)
    assert near["answer"] == near["classes"][0]["class"]
    assert 0 < near["classes"][0]["probability"] < 1
    assert far["score"] < far["threshold"] == near["threshold"] <= near["score"]
    _, out, _ = edgekit("predict", bundle.path, photos / "far-0.png", "--json", "--no-abstain")
    scored = json.loads(out)
    assert (scored["unknown"], scored["threshold"], scored["score"]) == (False, None, far["score"])
    assert scored["answer"] == far["classes"][0]["class"]
    _, out, _ = edgekit("predict", bundle.path, photos / "known-0.png", "--json", "--abstain-below", "-1e-9")
    assert json.loads(out)["unknown"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--abstain-below", "1"),
            "the threshold for unknown: 1 is above 0, and the score is minus a squared distance",
        ),
        (("--abstain-below", "nan"), "--abstain-below: 'nan' is not a number"),
        (("--abstain-below", "-4", "--no-abstain"), "--abstain-below cannot be combined with --no-abstain"),
    ],
)
def test_a_wrong_threshold_is_one_line(
    bundle: Bundle, photos: Path, edgekit: Command, options: tuple[str, ...], message: str
) -> None:
    code, out, err = edgekit("predict", bundle.path, photos, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_bundle_without_a_rule_answers_as_before(tmp_path: Path, photos: Path, edgekit: Command) -> None:
    plain = make_bundle(tmp_path / "plain", openvino=False)
    written = json.loads((plain.path / MANIFEST).read_text())
    assert written["schema"] == 2
    assert not {"confidence", "geometry"} & (written.keys() | written["variants"][0].keys())
    code, out, _ = edgekit("predict", plain.path, photos / "far-0.png", "--json")
    assert code == 0
    assert json.loads(out).keys() == {"file", "classes", "variant"}
    assert edgekit("predict", plain.path, photos / "far-0.png", "--no-abstain")[0] == 0
    code, out, err = edgekit("predict", plain.path, photos / "far-0.png", "--abstain-below", "0.5")
    assert (code, out) == (2, "")
    assert "has no rule for unknown" in err
    assert "Traceback" not in err
    with pytest.raises(EdgekitError, match="exclude each other"):
        package.load(plain, abstain=False, abstain_below=0.5)


def test_a_variant_without_its_own_goes_by_the_trained_model(tmp_path: Path) -> None:
    bundle = calibrated(tmp_path / "export")
    bundle.manifest.variants[0].confidence = None
    write_manifest(bundle.path, bundle.manifest)
    with package.load(bundle.path) as model:
        assert model.predict_pixels(FAR)[0].unknown
        assert any("by the trained model's calibration" in note for note in model.notes("the input"))


@pytest.mark.parametrize(
    ("means", "whitening"),
    [
        (np.zeros((6, 5), np.float32), np.eye(5, dtype=np.float32)),
        (np.zeros((6, 6), np.float32), np.eye(6)),
        (np.full((6, 6), np.nan, np.float32), np.eye(6, dtype=np.float32)),
        (np.zeros((0, 6), np.float32), np.eye(6, dtype=np.float32)),
        (np.zeros(6, np.float32), np.eye(6, dtype=np.float32)),
    ],
)
def test_a_geometry_of_another_bundle_is_refused(tmp_path: Path, means: Any, whitening: Any) -> None:
    bundle = calibrated(tmp_path / "export")
    np.savez(bundle.path / "geometry.npz", means=means, whitening=whitening)
    bundle.manifest.geometry = BundleFile.of(bundle.path, "geometry.npz")
    write_manifest(bundle.path, bundle.manifest)
    with pytest.raises(BundleError, match="not where known images lie in the logits"):
        package.load(bundle.path)


def test_a_manifest_whose_rule_lacks_its_file_is_refused(tmp_path: Path) -> None:
    bundle = calibrated(tmp_path / "export")
    bundle.manifest.geometry = None
    write_manifest(bundle.path, bundle.manifest)
    with pytest.raises(BundleError, match="the rule for unknown is a distance, and the bundle lists no geometry"):
        Bundle.open(bundle.path)


def test_what_the_bundle_lists_is_checked_and_read_back(bundle: Bundle) -> None:
    assert "geometry.npz" in {file.path for file in bundle.manifest.files}
    again = Bundle.open(bundle.path)
    assert again.manifest.bundle_schema == 3
    assert again.manifest.variants[0].confidence == bundle.manifest.confidence
    assert isinstance(again.known(again.variant("onnx-fp32")), Known)


def test_the_frames_of_a_video_may_be_unknown(
    bundle: Bundle, tmp_path: Path, edgekit: Command, require_module: Callable[[str, str], None]
) -> None:
    require_module("cv2", "writes and reads a video")
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 5, (16, 16))
    for frame in (KNOWN[TYPICAL[0]], FAR[0]):
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    code, out, _ = edgekit("predict", bundle.path, "--video", tmp_path / "v.avi", "--json")
    assert code == 0
    assert [json.loads(line)["answer"] == UNKNOWN for line in out.splitlines()] == [False, True]
