"""`edgekit predict --heatmap` of a classifier: a planted signal is colored where it is, at the image's own size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgekit.bundle import Bundle, BundleFile, Tensor, write_manifest
from edgekit.errors import BundleError, DataError
from edgekit.gallery import Recognizer
from edgekit.gallery.building import create
from edgekit.preprocess import Preprocessing
from edgekit.runtimes.predictor import Predictor
from edgekit.tasks.heat_maps import overlay
from edgekit.tasks.occlusion import run_count
from tests.helpers.tiny_bundle import make_bundle

Command = Callable[..., tuple[int, str, str]]
HEIGHT, WIDTH = 24, 40
CLASSES = ["dark", "bright"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A classifier whose answer depends on the lower right quadrant alone: its mean, above or below the middle."""
    folder = tmp_path_factory.mktemp("planted") / "export"
    manifest = make_bundle(folder, openvino=False).manifest
    constants = {
        "from": np.array([HEIGHT // 2, WIDTH // 2]), "to": np.array([HEIGHT, WIDTH]), "axes": np.array([1, 2]),
        "weight": np.array([[-0.1, 0.1]], np.float32), "bias": np.array([12.75, -12.75], np.float32), "row": np.array([-1, 1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["float", "from", "to", "axes"], ["quadrant"]),
        helper.make_node("ReduceMean", ["quadrant"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "row"], ["column"]),
        helper.make_node("MatMul", ["column", "weight"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", HEIGHT, WIDTH, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "planted", [images], [logits], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    golden = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    np.savez(folder / "golden.npz", images=golden, logits=np.tile(np.float32([12.75, -12.75]), (2, 1)))
    [variant] = manifest.variants
    changed = {
        "classes": CLASSES,
        "preprocessing": Preprocessing(image_size=[HEIGHT, WIDTH], resize_to=HEIGHT),
        "input": Tensor(name="images", dtype="uint8", layout="NHWC", shape=[None, HEIGHT, WIDTH, 3]),
        "outputs": [Tensor(name="logits", dtype="float32", layout="NC", shape=[None, 2])],
        "golden": BundleFile.of(folder, "golden.npz"),
        "variants": [variant.model_copy(update={"files": [BundleFile.of(folder, "model.onnx")]})],
    }
    write_manifest(folder, manifest.model_copy(update=changed))
    return Bundle.open(folder)


def bright_corner(size: tuple[int, int]) -> np.ndarray:
    """An image (height, width, 3), gray, its lower right quadrant bright."""
    pixels = np.full((*size, 3), 90, np.uint8)
    pixels[size[0] // 2 :, size[1] // 2 :] = 250
    return pixels


def test_the_map_lies_on_the_image_where_the_signal_is(planted: Bundle, tmp_path: Path, edgekit: Command) -> None:
    """120 x 300 pixels: the model sees the middle 200 columns, its quadrant begins at row 60 and column 150."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    pixels = bright_corner((120, 300))
    for name in ("in/a.png", "in/deep/a.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    code, out, err = edgekit("predict", planted.path, tmp_path / "in", "--heatmap", tmp_path / "maps", "--top", 1)
    assert (code, out.count("bright 100.0%"), "b.png: not an image" in err) == (1, 2, True)
    assert err.splitlines()[-1] == f"2 heat maps in {tmp_path / 'maps'}"
    assert sorted(path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.png")) == [
        "a.png",
        "deep/a.png",
    ]
    drawn = np.asarray(Image.open(tmp_path / "maps" / "a.png"))
    assert drawn.shape == pixels.shape
    seen = (drawn != pixels).any(axis=2)
    assert seen[:, :50].all()  # dark: cut off
    colored = seen[:, 50:250]
    side = 120 // 4
    assert not colored[: 60 - side].any()
    assert not colored[:, : 100 - 3 * side // 2].any()  # its border lies within a cell
    assert colored[62:, 102:].all()
    with Predictor(planted) as predictor:
        found = predictor.explain(pixels)
        assert (found.name, found.heat.shape) == ("bright", (HEIGHT, WIDTH))
        assert (drawn == overlay(pixels, found.heat, predictor.preprocessing, span=found.span)).all()


def test_a_map_replaces_another_map_and_nothing_else(planted: Bundle, tmp_path: Path, edgekit: Command) -> None:
    photo = tmp_path / "a.png"
    Image.fromarray(bright_corner((48, 80))).save(photo)
    before = photo.read_bytes()
    code, _, err = edgekit("predict", planted.path, photo, "--heatmap", tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "a.png is there already, and is not a heat map" in err
    assert photo.read_bytes() == before
    for _ in range(2):
        code, _, err = edgekit("predict", planted.path, photo, "--heatmap", tmp_path / "maps")
        assert (code, err.splitlines()[-1]) == (0, f"1 heat map in {tmp_path / 'maps'}")


def test_another_class_can_be_asked_for_and_what_speaks_for_it_is_the_opposite(planted: Bundle) -> None:
    runs: list[int] = []
    with Predictor(planted) as predictor:
        first = predictor.explain(bright_corner((48, 80)), advance=runs.append)
        other = predictor.explain(bright_corner((48, 80)), of="dark")
        assert sum(runs) == run_count((HEIGHT, WIDTH))
        assert np.allclose(other.heat, -first.heat, atol=1e-4)
        assert first.heat.max() > 1
        with pytest.raises(DataError, match=r"has no class brigt \(did you mean bright\?\)"):
            predictor.explain(bright_corner((48, 80)), of="brigt")


def test_a_gallery_explains_the_class_that_it_names(tmp_path: Path, edgekit: Command) -> None:
    bundle = make_bundle(tmp_path / "export", openvino=False, embedding=True)
    random = np.random.default_rng(0)
    for name, color in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        (tmp_path / "shop" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.clip(np.array(color) + random.normal(0, 20, (20, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "shop" / name / f"{i}.png")
    gallery = create(bundle, tmp_path / "shop").gallery
    gallery.write(tmp_path / "shop.gallery")
    photo = tmp_path / "shop" / "red" / "0.png"
    with Recognizer(bundle, gallery) as model:
        assert model.explain(photo).name == model.predict(photo).nearest[0][0] == "red"
        assert model.explain(photo, of="blue").heat == pytest.approx(-model.explain(photo).heat, abs=1e-3)
    code, out, _ = edgekit(
        "predict", bundle.path, "--gallery", tmp_path / "shop.gallery", photo, "--heatmap", tmp_path / "maps"
    )
    assert (code, len(out.splitlines())) == (0, 1)
    assert Image.open(tmp_path / "maps" / "0.png").size == (30, 20)


def test_embeddings_alone_have_no_map(tmp_path: Path, edgekit: Command) -> None:
    folder = tmp_path / "export"
    manifest = make_bundle(folder, openvino=False, embedding=True).manifest
    outputs = [output for output in manifest.outputs if output.name == "embedding"]
    write_manifest(folder, manifest.model_copy(update={"task": "recognition", "classes": [], "outputs": outputs}))
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    code, out, err = edgekit("predict", folder, tmp_path / "a.png", "--heatmap", tmp_path / "maps")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "gives no heat maps" in err
    assert "--gallery" in err
    assert not (tmp_path / "maps").exists()
    with Predictor(Bundle.open(folder)) as predictor, pytest.raises(BundleError, match="no choice among classes"):
        predictor.explain(tmp_path / "a.png")
