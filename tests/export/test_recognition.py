"""The task `recognition`: exported from a run, verified, proved and answered in every precision; its rules against their definitions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import edgekit as package
from edgekit.bench.golden import prove
from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import BundleError, ExportError
from edgekit.export.recognition import without_head
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, verify
from edgekit.files import write_text
from edgekit.gallery.building import create
from edgekit.gallery.recognizer import LEAST_AGREEMENT
from edgekit.models.pixels import PixelClassifier
from edgekit.parity import TOLERANCE
from edgekit.recipe import dump
from edgekit.run import Run
from edgekit.runtimes import open_session
from edgekit.tasks import EMBEDDING, find
from edgekit.tasks.recognition import RECOGNITION, TEMPERATURE, Embedded
from tests.helpers import exported

Command = Callable[..., tuple[int, str, str]]
HELD_OUT = (7, 8, 9)  # digits that the gallery of the known ones does not hold


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return exported.write_run(tmp_path_factory.mktemp("run") / "digits")


@pytest.fixture(scope="module")
def bundle(run: Run) -> Bundle:
    return package.export(run, task="recognition", timing=False, jobs=1, calibration_images=50)


def write_digits(folder: Path, digits: tuple[int, ...], first: int, count: int) -> Path:
    """Test images of some digits, one sub-folder each."""
    test = exported.splits().test
    assert test.labels is not None
    for digit in digits:
        (folder / str(digit)).mkdir(parents=True)
        for row in np.flatnonzero(test.labels == digit)[first : first + count]:
            Image.fromarray(test.images[row]).save(folder / str(digit) / f"{row}.png")
    return folder


def test_it_is_verified_in_every_precision(run: Run, bundle: Bundle) -> None:
    assert bundle.path == run.path / "export-recognition"
    written = json.loads((bundle.path / MANIFEST).read_text())
    assert (written["task"], written["classes"]) == ("recognition", [])
    assert [(o["name"], o["layout"], o["shape"]) for o in written["outputs"]] == [("embedding", "NC", [None, 64])]
    manifest = bundle.manifest
    assert [(v.id, v.status) for v in manifest.variants] == [
        ("onnx-fp32", "verified"), ("onnx-int8", "verified"), ("openvino-fp16", "verified"), ("openvino-int8", "verified"),
    ]  # fmt: skip
    assert manifest.accuracy is not None
    assert manifest.accuracy.metric == "recall1"
    for variant in manifest.variants:
        assert variant.accuracy is not None
        assert variant.parity is not None
        assert variant.parity.figures["embedding_cosine"] > 0.9
    images, golden = bundle.golden()
    with torch.inference_mode():
        expected = exported.classifier().embed((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    np.testing.assert_allclose(golden, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_a_wrong_embedding_is_refused_at_export_and_on_the_device(bundle: Bundle) -> None:
    test = exported.splits().test
    images, labels = np.asarray(test.images[:64]), test.labels[:64]
    session = open_session("onnxruntime", bundle.path / "model.onnx", task=bundle.task)
    outputs = session.run_all(images)
    variant = bundle.variant("onnx-fp32")

    def verified(trained: dict[str, np.ndarray]) -> Any:
        reference = ReferenceOutputs(bundle.task, images, labels, trained, np.arange(8))
        return verify(variant, bundle.path, reference, AccuracyBounds(max_drop=100))

    assert verified(outputs).status == "verified"
    worse = {
        EMBEDDING: outputs[EMBEDDING] * (1 + 2 * TOLERANCE["fp32"])
    }  # the same direction, but not the same numbers
    judged = verified(worse)
    assert judged.status == "rejected"
    assert "the golden embedding differs by" in judged.note
    golden = {"images": images[:8], EMBEDDING: outputs[EMBEDDING][:8]}
    assert prove(session, variant, golden, 3, bundle.task).agreement == pytest.approx(1)
    with pytest.raises(BundleError, match="outputs differ from the trained model's"):
        prove(session, variant, {**golden, EMBEDDING: worse[EMBEDDING][:8]}, 3, bundle.task)
    int8 = bundle.variant("onnx-int8")
    turned = {**golden, EMBEDDING: np.roll(outputs[EMBEDDING][:8], 1, axis=1)}
    with pytest.raises(BundleError, match="its cosine is"):
        prove(
            open_session("onnxruntime", bundle.path / int8.files[0].path, task=bundle.task),
            int8,
            turned,
            3,
            bundle.task,
        )


def test_a_gallery_of_the_float_variant_recognizes_with_int8_on_every_runtime(
    bundle: Bundle, tmp_path: Path, edgekit: Command
) -> None:
    """Digits held out of the gallery should be unknown, the others named; INT8 answers as the float variant does."""
    shop = write_digits(tmp_path / "shop", tuple(d for d in range(10) if d not in HELD_OUT), 0, 5)
    made = create(bundle, shop, variant="onnx-fp32")
    assert made.notes == []
    assert {name: found.share >= LEAST_AGREEMENT for name, found in made.gallery.record.agreement.items()} == {
        "onnx-int8": True, "openvino-fp16": True, "openvino-int8": True,
    }  # fmt: skip
    path = tmp_path / "digits.gallery"
    made.gallery.write(path)
    asked = write_digits(tmp_path / "asked", tuple(range(10)), 5, 8)
    scores = {}
    for variant in ("onnx-fp32", "onnx-int8", "openvino-fp16", "openvino-int8"):
        code, out, err = edgekit("gallery", "test", bundle.path, path, asked, "--variant", variant, "--json")
        assert (code, err) == (0, "")
        scores[variant] = json.loads(out)
    for found in scores.values():
        assert (found["known"]["images"], found["unknown"]["images"]) == (56, 24)
        assert found["known"]["top1"]["share"] > 0.9
        assert found["auroc"] > 0.8
        assert abs(found["known"]["top1"]["share"] - scores["onnx-fp32"]["known"]["top1"]["share"]) <= 3 / 56


def test_every_command_answers_in_the_tasks_words(bundle: Bundle, run: Run, tmp_path: Path, edgekit: Command) -> None:
    code, out, err = edgekit("doctor", bundle.path, "--json")
    assert code == 0, err
    assert {row["outcome"] for row in json.loads(out)["variants"]} == {"proved"}
    code, out, err = edgekit(
        "bench",
        bundle.path,
        "--variant",
        "onnx-fp32",
        "--quick",
        "--seconds",
        0.05,
        "--output",
        tmp_path / "out",
        "--json",
    )
    assert code == 0, err
    (row,) = json.loads(out)["results"]
    assert row["accuracy_metric"] == "recall1"
    assert row["golden_agreement"] == pytest.approx(1)
    photo = write_digits(tmp_path / "asked", (3,), 0, 1) / "3"
    code, out, err = edgekit("predict", bundle.path, photo, "--variant", "onnx-fp32", "--json", "--embedding", "-")
    assert code == 0, err
    line = json.loads(out)
    assert (line["features"], len(line["embedding"])) == (64, 64)
    code, out, err = edgekit("predict", bundle.path, photo)
    assert "64 features" in out
    with package.load(bundle, "onnx-fp32") as model:
        assert repr(model) == "<Predictor digits: onnx-fp32, recognition, 16 x 16 pixels>"
        (answer,) = model.predict([next(photo.iterdir())])
    assert isinstance(answer, Embedded)
    np.testing.assert_allclose(answer.embedding, line["embedding"], rtol=1e-5, atol=1e-6)


def test_an_encoder_is_exported_for_recognition_alone(run: Run, edgekit: Command) -> None:
    options = ("--target", "onnx", "--precision", "fp32", "--no-timing", "--json")
    code, _, err = edgekit("export", run.path, "--task", "recognition", "--model", "encoder", *options)
    assert code == 0, err
    encoder = Bundle.open(run.path / "export-encoder-recognition")
    images, golden = encoder.golden()
    with torch.inference_mode():
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        expected = package.Run(run.path).encoder()(pixels).numpy()
    np.testing.assert_allclose(golden, expected, atol=1e-4 * float(np.abs(expected).max()))
    code, _, err = edgekit("export", run.path, "--model", "encoder", *options)
    assert (code, "add --task recognition" in err) == (2, True)
    code, _, err = edgekit("export", run.path, "--task", "recognition", "--embedding", *options)
    assert (code, "leave --embedding out" in err) == (2, True)


def test_the_recipe_says_what_is_exported(run: Run, tmp_path: Path, edgekit: Command) -> None:
    """`task: recognition`, and a run without labels, which has an encoder alone."""
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("export*", "distill", "finetune"))
    write_text(folder / "recipe.yaml", dump(exported.RECIPE.model_copy(update={"task": "recognition"})))
    options = ("--target", "onnx", "--precision", "fp32", "--no-timing", "--json")
    code, _, err = edgekit("export", folder, *options)
    assert code == 0, err
    assert "there is no student, so that the pretrained encoder is exported" in err
    assert Bundle.open(folder / "export-encoder-recognition").manifest.task == "recognition"
    code, _, err = edgekit("export", folder, "--task", "classification", *options)
    assert (code, "distill" in err) == (2, True)
    with pytest.raises(ExportError, match=r"no such task to export: recogniton \(did you mean recognition\?\)"):
        package.export(run, task="recogniton")


class _TwoHeads(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 6))
        self.head = nn.Linear(6, 6 if kind == "twice" else 4)
        self.other = nn.Conv2d(3, 4, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.kind == "convolution":
            return self.other(images).flatten(1)
        found = self.head(self.body(images))
        return self.head(found) if self.kind == "twice" else found.softmax(1) if self.kind == "softmax" else found


def test_the_head_is_taken_off_and_the_network_stays() -> None:
    model = PixelClassifier(_TwoHeads("plain"), 0.5, 0.25).eval()
    images = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    headless = without_head(model, 8)
    with torch.inference_mode():
        embedded, logits = headless(images), model(images)
        torch.testing.assert_close(model.model.head(embedded), logits)
    assert embedded.shape == (3, 6)


@pytest.mark.parametrize("kind", ["convolution", "softmax", "twice"])
def test_a_network_without_an_embedding_is_refused(kind: str) -> None:
    with pytest.raises(ExportError, match=r"no embedding to give|in more than one place"):
        without_head(PixelClassifier(_TwoHeads(kind), 0.5, 0.25).eval(), 8)


# The task's rules, one image at a time


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 99), st.floats(0, 2))
def test_scores_and_comparisons_are_what_their_definitions_say(labels: list[int], seed: int, noise: float) -> None:
    task, n = RECOGNITION, len(labels)
    trained = vectors(n, seed)
    got = trained + np.float32(noise) * vectors(n, seed + 1000)
    own = {EMBEDDING: trained}

    def others(i: int) -> list[int]:
        return [j for j in range(n) if j != i]

    with_company = [i for i in range(n) if labels.count(labels[i]) > 1]
    assert bool(task.labels_fault(np.array(labels), n, [])) == (not with_company)
    if with_company:
        right = [
            labels[max(others(i), key=lambda j: cosine(trained[i], trained[j]))] == labels[i] for i in with_company
        ]
        assert task.score(own, np.array(labels)) == {"recall1": pytest.approx(sum(right) / len(right))}
    agreement = task.agreement({EMBEDDING: got}, own)
    assert agreement == pytest.approx([max(0, cosine(a, b)) for a, b in zip(got, trained, strict=True)], abs=1e-6)
    lost = 0.0
    for i in range(n):
        weights = {j: np.exp(cosine(trained[i], trained[j]) / TEMPERATURE) for j in others(i)}
        best, chosen = (max(others(i), key=lambda j: cosine(v[i], trained[j])) for v in (trained, got))
        lost += (weights[best] - weights[chosen]) / sum(weights.values())
    assert task.expected_drop({EMBEDDING: got}, own) == pytest.approx(lost / n, abs=1e-6)
    assert task.groups(own, None).shape == (n,)


def test_one_direction_for_all_is_doubted() -> None:
    same = np.tile(vectors(1, 0), (9, 1)) * np.arange(1, 10, dtype=np.float32)[:, None]
    (doubt,) = RECOGNITION.doubts({EMBEDDING: same}, None, [])
    assert "tells nothing apart" in doubt
    assert RECOGNITION.doubts({EMBEDDING: vectors(9, 0)}, None, []) == []


def test_what_a_bundle_of_it_may_hold() -> None:
    task = find("recognition")
    assert task.fault([], {EMBEDDING: (64,)}) == ""
    assert "no classes" in task.fault(["a", "b"], {EMBEDDING: (64,)})
    assert "axes" in task.fault([], {EMBEDDING: (64, 2)})
    assert "are not 3 whole numbers" in task.labels_fault(np.zeros(2, np.int64), 3, [])


def test_many_images_are_compared_with_some_of_them() -> None:
    """More than 2,048: each image is found by those that are left, and its own row is never its neighbor."""
    centers = vectors(7, 1)
    labels = np.arange(2500) % 7
    values = centers[labels] + 0.01 * vectors(2500, 2)
    assert RECOGNITION.score({EMBEDDING: values}, labels) == {"recall1": 1.0}
    assert RECOGNITION.expected_drop({EMBEDDING: values}, {EMBEDDING: values}) == 0
