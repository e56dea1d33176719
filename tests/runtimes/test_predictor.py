"""From logits to class names, and from a bundle to the variant that is run unless another is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edgekit.bundle import Bundle, BundleFile, write_manifest
from edgekit.errors import BundleError, DataError, RuntimeMissing
from edgekit.runtimes.predictor import Predictor, default_variant
from edgekit.runtimes.sources import image_files
from edgekit.tasks.classification import likeliest, softmax
from tests.helpers.tiny_bundle import CLASSES, make_bundle, some_images


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export")


def with_variants(bundle: Bundle, *changes: dict[str, str]) -> Bundle:
    """The bundle with copies of its first variant, each changed."""
    first = bundle.manifest.variants[0]
    variants = [first.model_copy(update={"id": f"v{i}", **change}) for i, change in enumerate(changes)]
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"variants": variants}), bundle.digest)


@settings(max_examples=50)
@given(arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_is_a_distribution_for_any_logits(logits: np.ndarray) -> None:
    got = softmax(logits)
    np.testing.assert_allclose(got.sum(axis=1), 1)
    assert (got >= 0).all()
    assert (np.take_along_axis(got, logits.argmax(1)[:, None], 1)[:, 0] == got.max(1)).all()


def test_softmax_by_hand_and_far_out() -> None:
    np.testing.assert_allclose(softmax(np.log(np.float32([1, 2, 5]))), [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)
    np.testing.assert_allclose(softmax(np.float32([1e30, 0, -1e30])), [1, 0, 0])


def test_likeliest_are_in_order_and_ties_go_to_the_first() -> None:
    got = likeliest(np.float32([0, 3, 1, 3]), 3)
    assert [i for i, _ in got] == [1, 3, 2]
    assert got[0][1] == got[1][1]
    assert len(likeliest(np.float32([0, 1]), 5)) == 2


def test_prediction_names_the_golden_class(bundle: Bundle, tmp_path: Path) -> None:
    images, logits = bundle.golden()
    path = tmp_path / "image.png"
    for image, row in zip(images[:4], logits, strict=False):
        Image.fromarray(image).resize((18, 18), Image.Resampling.NEAREST).save(path)
        predictor = Predictor(bundle, "onnx-fp32", threads=1)
        # Through the file: the class by the session itself on the same pixels.
        expected = predictor.predict_image(Image.open(path)).classes
        assert predictor.predict(path).classes == expected
        assert predictor.predict(path.read_bytes()).classes == expected
        # The golden pixels themselves: the class that the trained model gives.
        top = predictor.predict_pixels(image[None], 1)[0].classes[0]
        assert top[0] == CLASSES[int(row.argmax())]
        assert top[1] == pytest.approx(softmax(row).max(), abs=1e-4)


def test_the_default_variant_is_the_one_nearest_to_the_trained_model(bundle: Bundle) -> None:
    fp16, int8, fp32 = ({"precision": name} for name in ("fp16", "int8", "fp32"))
    vino = {"runtime": "openvino", "precision": "fp32"}
    assert default_variant(with_variants(bundle, int8, fp16, vino, fp32)).id == "v3"
    assert default_variant(with_variants(bundle, int8, vino, fp16)).id == "v1"
    assert default_variant(with_variants(bundle, int8, fp16)).id == "v1"
    rejected = {"precision": "fp32", "status": "rejected"}
    unexecuted = {"precision": "fp32", "status": "unexecuted"}
    assert default_variant(with_variants(bundle, rejected, unexecuted, int8)).id == "v2"
    with pytest.raises(BundleError, match="no verified variant"):
        default_variant(with_variants(bundle, rejected, unexecuted))
    with pytest.raises(RuntimeMissing, match="tensorrt"):
        default_variant(with_variants(bundle, {"runtime": "tensorrt"}))
    assert default_variant(with_variants(bundle, {"runtime": "tensorrt"}, int8)).id == "v1"


def test_folders_are_searched_for_images_and_files_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "deep/c.tiff", "notes.txt", ".hidden.png"):
        (tmp_path / "in" / name).write_bytes(b"")
    named = tmp_path / "in" / "notes.txt"
    found = image_files([named, tmp_path / "in"])
    assert [p.relative_to(tmp_path / "in").as_posix() for p in found] == ["notes.txt", "a.png", "b.JPG", "deep/c.tiff"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder"):
        image_files([tmp_path / "empty"])


def test_a_closed_predictor_is_closed(bundle: Bundle) -> None:
    predictor = Predictor(bundle)
    predictor.close()
    with pytest.raises((AttributeError, TypeError)):
        predictor.predict_image(Image.fromarray(some_images(1)[0]))


def test_wrong_input_to_the_api_is_one_line(bundle: Bundle) -> None:
    predictor = Predictor(bundle, "onnx-fp32")
    right = some_images(2)
    assert len(predictor.predict_pixels(right)) == 2
    for pixels, said in (
        (right[:, :8], r"takes uint8 images of shape \(n, 16, 16, 3\), got uint8 of shape \(2, 8, 16, 3\)"),
        (np.full(right.shape, np.nan, np.float32), "got float32"),
        (right[:0], "has no images"),
        (right[0], "got uint8 of shape"),
        ([right], "got list"),
    ):
        with pytest.raises(DataError, match=said) as error:
            predictor.predict_pixels(pixels)
        assert error.value.hint
        assert "\n" not in str(error.value)
    assert predictor.predict_image(right[0]).classes == predictor.predict_image(Image.fromarray(right[0])).classes
    gray = Image.fromarray(right[0]).convert("L")
    assert predictor.predict_image(gray).classes == predictor.predict_image(gray.convert("RGB")).classes


def test_values_that_are_not_finite_are_never_probabilities(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "export", openvino=False)
    model = onnx.load(bundle.path / "model.onnx")
    head = next(weight for weight in model.graph.initializer if weight.name == "head")
    head.CopyFrom(onnx.numpy_helper.from_array(np.full((8, len(CLASSES)), np.nan, np.float32), "head"))
    onnx.save(model, str(bundle.path / "model.onnx"))
    variant = bundle.manifest.variants[0].model_copy(update={"files": [BundleFile.of(bundle.path, "model.onnx")]})
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"variants": [variant]}))
    with pytest.raises(BundleError, match="onnx-fp32: its outputs are not finite"):
        Predictor(Bundle.open(bundle.path)).predict_image(Image.fromarray(some_images(1)[0]))


def test_many_images_keep_their_order_and_each_its_own_error(bundle: Bundle) -> None:
    predictor = Predictor(bundle, "onnx-fp32")
    images = [Image.fromarray(image) for image in some_images(5)]
    items = [*images[:3], b"not an image", *images[3:]]
    for batch in (1, 2, 4, 100):
        got = list(predictor.predict_many(items, batch=batch, top=2, threshold=0.01))
        assert [item for item, _ in got] == items
        assert isinstance(got[3][1], DataError)
        for image, prediction in [*got[:3], *got[4:]]:
            expected = predictor.predict_image(image, top=2, threshold=0.01).classes
            assert [name for name, _ in prediction.classes] == [name for name, _ in expected]
    assert list(predictor.predict_many([])) == []


def test_a_source_that_waits_is_not_read_ahead(bundle: Bundle) -> None:
    asked: list[int] = []

    def camera() -> Iterator[Image.Image]:
        for i, image in enumerate(some_images(3)):
            asked.append(i)
            yield Image.fromarray(image)

    predictor = Predictor(bundle, "onnx-fp32")
    for i, _ in enumerate(predictor.predict_many(camera(), ahead=False)):
        assert asked == list(range(i + 1))


def test_three_lines_are_enough_and_the_package_stays_light() -> None:
    code = "import edgekit, sys; assert not {'numpy', 'typing', 'pydantic'} & set(sys.modules); print(edgekit.Predictor.__name__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path}; {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Predictor\n", done.stderr
    import edgekit

    assert edgekit.Bundle is Bundle
    assert "Predictor" in dir(edgekit)
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        edgekit.Predicter  # noqa: B018
