"""The tasks: bundles that say which they are of, older ones that do not; and a task that a package of its own adds, which every command
uses without a change to edgekit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import edgekit
from edgekit import tasks
from edgekit.bench.golden import prove
from edgekit.bundle import MANIFEST, Accuracy, Bundle, BundleFile, Manifest, Parity, Variant, write_manifest
from edgekit.errors import BundleError, EdgekitError, ExportError
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs, judge, verify
from edgekit.parity import TOLERANCE
from edgekit.preprocess import Preprocessing
from edgekit.recipe import dump, parse
from edgekit.runtimes import load, open_session
from edgekit.runtimes.predictor import Predictor
from edgekit.task_names import TASK_NAMES
from edgekit.tasks import Answer, Outputs, Task
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers.packages import installing, write_package
from tests.helpers.tiny_bundle import make_bundle

Command = Callable[..., tuple[int, str, str]]
ADDED = Path(__file__).parent / "added_task"
OLD = Path(__file__).parent / "fixtures" / "bundles" / "version-0.1.0.json"
SIZE = 16


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install packages for this process and those that it starts."""
    yield from installing(monkeypatch, tasks._added.cache_clear)


def package(folder: Path, code: str, name: str = "theirs") -> Path:
    """A folder that holds an installed package of one module and one entry point."""
    return write_package(folder, code, "edgekit.tasks", "TASK", name=name)


def write_reconstruction(path: Path) -> None:
    """A graph that draws every pixel from its neighbors, and says how far off that is: `map` (n, h, w), `score` (n,), its mean."""
    random = np.random.default_rng(0)
    smooth = np.zeros((6, 3, 3, 3), np.float32)
    for channel in range(3):
        smooth[channel, channel] = smooth[channel + 3, channel] = 1 / 9
    smooth += random.normal(0, 1e-3, smooth.shape).astype(np.float32)
    back = np.zeros((3, 6, 1, 1), np.float32)
    back[:, :3, 0, 0] = back[:, 3:, 0, 0] = np.eye(3) / 2
    weights = [
        numpy_helper.from_array(np.float32(1 / 255), "scale"),
        numpy_helper.from_array(smooth, "smooth"),
        numpy_helper.from_array(back, "back"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], ["scaled"], "mul"),
        helper.make_node("Conv", ["scaled", "smooth"], ["features"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["active"], "relu"),
        helper.make_node("Conv", ["active", "back"], ["drawn"], "back", kernel_shape=[1, 1]),
        helper.make_node("Sub", ["scaled", "drawn"], ["error"], "sub"),
        helper.make_node("Mul", ["error", "error"], ["squared"], "square"),
        helper.make_node("ReduceMean", ["squared"], ["map"], "map", axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["map"], ["score"], "score", axes=[1, 2], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    outputs = [  # the main one last: whoever takes the first finds out
        helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", SIZE, SIZE]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "reconstruction", [image], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def smooth_and_noisy(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of soft spots, every second one of noise of its own strength: usual and unusual ones."""
    random = np.random.default_rng(seed)
    soft = np.kron(random.integers(40, 200, (count, 2, 2, 3)), np.ones((1, SIZE // 2, SIZE // 2, 1)))
    labels = np.arange(count) % 2
    strength = labels * random.uniform(20, 60, count) + (1 - labels) * random.uniform(0, 8, count)
    noise = random.normal(size=soft.shape) * strength[:, None, None, None]
    return np.clip(soft + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a bundle of the task `novelty`, exported where its package is installed."""
    from edgekit.export.pipeline import export_classifier

    folder = tmp_path_factory.mktemp("novelty")
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text(dump(parse({"name": "odd", "data": {"image_size": SIZE}})))
    write_reconstruction(folder / "float.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ADDED))
        tasks._added.cache_clear()
        export_classifier(
            folder / "float.onnx",
            task="novelty",
            classes=[],
            preprocessing=Preprocessing(image_size=SIZE, resize_to=SIZE),
            calibration=smooth_and_noisy(24, 1)[0],
            evaluation=smooth_and_noisy(40, 2),
            output=folder / "run" / "export",
            targets=["onnx", "openvino"],
            name="odd",
            jobs=1,
        )
    tasks._added.cache_clear()
    return folder / "run"


def test_a_task_of_another_package_is_verified_in_every_precision(run: Path, installed: Callable[..., None]) -> None:
    installed(ADDED)
    manifest = Bundle.open(run / "export").manifest
    written = json.loads((run / "export" / MANIFEST).read_text())
    assert (written["schema"], written["task"], written["classes"]) == (2, "novelty", [])
    assert [(o.name, o.layout, o.shape) for o in manifest.outputs] == [
        ("score", "N", [None]), ("map", "NHW", [None, SIZE, SIZE]),
    ]  # fmt: skip
    assert [(v.id, v.status) for v in manifest.variants] == [
        ("onnx-fp32", "verified"), ("onnx-int8", "verified"), ("openvino-fp16", "verified"), ("openvino-int8", "verified"),
    ]  # fmt: skip
    assert manifest.accuracy is not None
    assert (manifest.accuracy.metric, manifest.accuracy.value) == ("auroc", 1.0)
    for variant in manifest.variants:
        assert variant.accuracy is not None
        assert variant.accuracy.figures == {"auroc": variant.accuracy.value}
        assert variant.drop == 1 - variant.accuracy.value
        assert variant.parity is not None
        assert variant.parity.batches, "no two batch sizes were compared"
        assert set(variant.parity.figures) == {"map_max_abs_diff", "map_cosine"}
        assert variant.parity.figures["map_cosine"] > 0.9
    int8 = manifest.variants[1]
    assert int8.quantization is not None
    assert {"verified"} == {t.status for t in int8.quantization.tried if t.status != "not chosen"}
    assert all(t.unlabeled is not None and t.unlabeled.sqnr_db for t in int8.quantization.tried)
    assert int8.speed is not None


@pytest.mark.parametrize("output", ["score", "map"])
def test_a_wrong_output_of_another_packages_task_is_refused_at_export_and_on_the_device(
    run: Path, installed: Callable[..., None], output: str
) -> None:
    installed(ADDED)
    bundle = Bundle.open(run / "export")
    images, labels = smooth_and_noisy(40, 2)
    session = open_session("onnxruntime", bundle.path / "model.onnx", task=bundle.task)
    outputs = session.run_all(images)
    variant = bundle.variant("onnx-fp32")
    reference = ReferenceOutputs(bundle.task, images, labels, outputs, np.arange(8))
    assert verify(variant, bundle.path, reference, AccuracyBounds()).status == "verified"
    worse = {**outputs, output: outputs[output] + np.float32(2 * TOLERANCE["fp32"]) * np.abs(outputs[output]).max()}
    judged = verify(
        variant,
        bundle.path,
        ReferenceOutputs(bundle.task, images, labels, worse, np.arange(8)),
        AccuracyBounds(max_drop=100),
    )
    assert judged.status == "rejected"
    assert f"a golden {'map value' if output == 'map' else 'score'} differs by" in judged.note
    golden = {"images": images[:8], **{name: values[:8] for name, values in outputs.items()}}
    assert prove(session, variant, golden, 3, bundle.task).agreement == 1
    wrong = {**golden, output: worse[output][:8]}
    with pytest.raises(BundleError, match="outputs differ from the trained model's"):
        prove(session, variant, wrong, 3, bundle.task)


def test_every_command_answers_in_the_words_of_another_packages_task(
    run: Path, installed: Callable[..., None], edgekit: Command, tmp_path: Path
) -> None:
    installed(ADDED)
    bundle = run / "export"
    code, out, err = edgekit("doctor", bundle, "--json")
    assert code == 0, err
    proofs = {row["variant"]: row for row in json.loads(out)["variants"]}
    assert {row["outcome"] for row in proofs.values()} == {"proved"}
    assert proofs["onnx-fp32"]["agreement"] == 1
    assert proofs["onnx-fp32"]["map_cosine"] > 0.999
    code, out, err = edgekit("doctor", bundle)
    assert code == 0, err
    assert "decision agrees" in out
    assert "max |Δ score|" in out
    code, out, err = edgekit("bench", bundle, "--variant", "onnx-fp32", "--quick", "--seconds", 0.05, "--json")
    assert code == 0, err
    (row,) = json.loads(out)["results"]
    assert row["auroc"] == row["accuracy"] == 1
    assert (row["accuracy_metric"], row["golden_agreement"]) == ("auroc", 1)
    assert row["golden_figures"]["map_cosine"] > 0.999
    assert row["stages_ms"]["postprocess"] > 0
    code, out, err = edgekit("compare", bundle, bundle, "--fail-if", "accuracy < -0.5pt", "--json")
    assert code == 0, err
    images, _ = smooth_and_noisy(2, 3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    code, out, err = edgekit("predict", bundle, tmp_path, "--variant", "onnx-fp32", "--json")
    assert code == 0, err
    usual, unusual = map(json.loads, out.splitlines())
    assert set(usual) == {"file", "unusual", "place", "variant"}
    assert unusual["unusual"] > 2 * usual["unusual"]
    code, out, err = edgekit("predict", bundle, tmp_path, "--variant", "onnx-fp32")
    assert code == 0, err
    assert out.splitlines()[0].endswith(f"unusual {usual['unusual']:.3f} at {usual['place'][0]},{usual['place'][1]}")
    code, _, err = edgekit("report", run)
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert "AUROC by precision and runtime" in page
    assert "Max |Δ score|" in page
    assert "top-1" not in page.lower()
    assert "logit" not in page.lower()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_session_gives_the_main_output_wherever_it_stands(
    run: Path, installed: Callable[..., None], runtime: str
) -> None:
    installed(ADDED)
    model, images = run.parent / "float.onnx", smooth_and_noisy(4, 5)[0]
    session = open_session(runtime, model, task=tasks.find("novelty"))
    assert session.outputs == ["map", "score"]
    np.testing.assert_array_equal(session.run(images), session.run_all(images)["score"])
    with pytest.raises(BundleError, match="no output named logits, only map, score"):
        open_session(runtime, model)


def test_another_process_starts_from_the_same_outputs(
    run: Path, installed: Callable[..., None], tmp_path: Path
) -> None:
    import pickle

    from edgekit.export.inputs import ExportOptions, Sources
    from edgekit.export.jobs import _Stored
    from edgekit.quantize.calibration import Calibration

    installed(ADDED)
    model, (images, labels) = run.parent / "float.onnx", smooth_and_noisy(8, 5)
    task = tasks.find("novelty")
    outputs = open_session("onnxruntime", model, task=task).run_all(images)
    reference = ReferenceOutputs(task, images, labels, outputs, np.arange(4), {"extra": outputs["score"][:4]})
    calibration = Calibration(model, images, tmp_path)
    sources = Sources(model, calibration, reference, ExportOptions(), tmp_path, tmp_path)
    found = pickle.loads(pickle.dumps(_Stored.of(sources, pickle.dumps(None)))).load()
    assert found.unlabeled is None
    assert type(found.reference.task) is type(task)
    for name in ("images", "labels", "golden"):
        np.testing.assert_array_equal(getattr(found.reference, name), getattr(reference, name))
    for got, expected in ((found.reference.outputs, outputs), (found.reference.further, reference.further)):
        assert set(got) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])


def test_python_answers_as_the_graph_does(run: Path, installed: Callable[..., None]) -> None:
    installed(ADDED)
    images, _ = smooth_and_noisy(4, 4)
    expected = open_session("onnxruntime", run / "export" / "model.onnx", task=tasks.find("novelty")).run_all(images)
    with edgekit.load(run / "export", "onnx-fp32") as model:
        assert repr(model) == f"<Predictor odd: onnx-fp32, novelty, {SIZE} x {SIZE} pixels>"
        found = model.predict(list(images), batch=2)
    assert [answer.score for answer in found] == pytest.approx(expected["score"].tolist(), rel=1e-5)
    assert [answer.place for answer in found] == [divmod(int(places.argmax()), SIZE) for places in expected["map"]]


@pytest.mark.parametrize("command", ["predict", "bench", "doctor", "compare"])
def test_without_its_package_a_bundle_says_what_it_lacks(
    run: Path, edgekit: Command, tmp_path: Path, command: str
) -> None:
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "photo.png")
    more = {"predict": [tmp_path / "photo.png"], "compare": [run / "export"]}.get(command, [])
    code, out, err = edgekit(command, run / "export", *more)
    assert code == 2
    assert out == ""
    assert err.splitlines()[-1] == (
        f"error: {run / 'export' / MANIFEST}: this edgekit does not know the task novelty "
        "(update edgekit, or install the package that adds it)"
    )


def test_a_report_of_a_run_with_a_bundle_of_an_unknown_task_names_the_gap(run: Path, edgekit: Command) -> None:
    code, _, err = edgekit("report", run)
    assert code == 0, err
    assert "does not know the task novelty" in (run / "report.html").read_text()


@pytest.mark.parametrize("command", ["init", "export"])
def test_a_command_with_a_task_offers_every_task(command: str) -> None:
    [option] = [p for p in import_module(f"edgekit.cli.{command}").command.params if p.name == "task"]
    assert tuple(option.type.choices) == TASK_NAMES
    assert tuple(tasks.find(name).name for name in TASK_NAMES) == TASK_NAMES


@pytest.mark.parametrize("task", [None, 5, "", "Novelty", "../novelty", "x" * 41, ["classification"]])
def test_what_is_no_name_of_a_task_is_refused(tmp_path: Path, task: Any) -> None:
    bundle = make_bundle(tmp_path, openvino=False)
    content = {**json.loads((bundle.path / MANIFEST).read_text()), "task": task}
    (bundle.path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="is not the name of a task") as caught:
        Bundle.open(bundle.path)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": ["one"]}, "a classification needs two classes or more"),
        ({"classes": ["a", "b", "c"]}, "its logits have the shape (n, 6) for 3 classes"),
        ({"outputs": []}, "outputs"),
    ],
)
def test_a_bundle_that_cannot_be_of_its_task_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    bundle = make_bundle(tmp_path, openvino=False)
    content = {**json.loads((bundle.path / MANIFEST).read_text()), **change}
    (bundle.path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle.path)
    assert reason in str(caught.value)


def test_a_manifest_of_schema_1_reads_as_classification() -> None:
    content = json.loads(OLD.read_text())
    assert (content["schema"], "task" in content) == (1, False)
    manifest = Manifest.model_validate(content)
    assert manifest.task == "classification"
    assert manifest.accuracy is not None
    assert (manifest.accuracy.metric, manifest.accuracy.value) == ("top1", content["accuracy"]["top1"])
    for variant, was in zip(manifest.variants, content["variants"], strict=True):
        if was["parity"] is not None:
            assert variant.parity is not None
            assert variant.parity.agreement == was["parity"]["top1_agreement"]
            assert variant.parity.figures == {}  # null in the file: it has no embedding
        if was["accuracy"] is not None:
            assert variant.accuracy is not None
            assert variant.accuracy.figures == {name: was["accuracy"][name] for name in ("top1", "top5")}
    again = Manifest.model_validate_json(manifest.model_dump_json(by_alias=True))
    assert again == manifest


def test_a_bundle_of_schema_1_proves_and_predicts(tmp_path: Path, edgekit: Command) -> None:
    """The same files with a manifest as version 0.1.0 wrote it, and as it writes one today."""
    bundle = make_bundle(tmp_path / "bundle", embedding=True)
    today = json.loads((bundle.path / MANIFEST).read_text())
    before = {key: value for key, value in today.items() if key != "task"} | {"schema": 1}
    for variant in before["variants"]:
        variant["accuracy"] = {"top1": 0.9, "top5": None, "samples": 100, "agreement": None}
        variant["parity"] = {
            "samples": 12, "top1_agreement": 1.0, "max_abs_diff": 0.0, "sqnr_db": None, "batches": [], "batches_sqnr_db": None,
            "embedding_max_abs_diff": 0.0, "embedding_cosine": 1.0,
        }  # fmt: skip
    (bundle.path / MANIFEST).write_text(json.dumps(before))
    old = Bundle.open(bundle.path)
    assert old.task is CLASSIFICATION
    golden = old.golden_outputs()
    proof = prove(load(old, old.variant("onnx-fp32")), old.variant("onnx-fp32"), golden, 4, old.task)
    assert (proof.agreement, proof.warning) == (1, "")
    assert proof.figures["embedding_cosine"] > 0.999
    with Predictor(old, "onnx-fp32") as model:
        names = [answer.classes[0][0] for answer in model.predict_pixels(golden["images"])]
    assert names == [old.manifest.classes[k] for k in golden["logits"].argmax(1)]
    code, out, err = edgekit("doctor", bundle.path, "--json")
    assert code == 0, err
    assert {row["outcome"] for row in json.loads(out)["variants"]} == {"proved"}
    write_manifest(bundle.path, old.manifest)
    assert Bundle.open(bundle.path).manifest == old.manifest


def test_figures_are_numbers_and_metrics_are_shares() -> None:
    for wrong in ("high", True, float("nan"), [1]):
        with pytest.raises(ValueError, match="is not a finite number"):
            Parity.model_validate(
                {"samples": 1, "agreement": 1, "max_abs_diff": 0, "sqnr_db": None, "map_cosine": wrong}
            )
    with pytest.raises(ValueError, match="not from 0 to 1"):
        Accuracy.model_validate({"samples": 1, "top1": 1.5})
    with pytest.raises(ValueError, match="it holds no auroc"):
        Accuracy.model_validate({"samples": 1, "metric": "auroc", "top1": 1.0})


def test_numbers_that_are_not_finite_beside_the_golden_images_are_a_fault() -> None:
    """The golden images alone would let them pass."""
    images, trained = np.zeros((6, 4, 4, 3), np.uint8), np.eye(6, dtype=np.float32)
    reference = ReferenceOutputs(CLASSIFICATION, images, np.arange(6), {"logits": trained}, np.arange(2))
    got = trained.copy()
    got[4, 4] = np.inf
    file = BundleFile(path="model.onnx", bytes=1, sha256="0" * 64)
    variant = Variant(
        id="onnx-int8", runtime="onnxruntime", precision="int8", files=[file], executed=False, status="unexecuted"
    )
    judged = judge(variant, {"logits": got}, {}, reference, AccuracyBounds(max_drop=100))
    assert (judged.status, judged.note) == ("rejected", "rejected: its logits are not finite numbers")
    assert (judged.accuracy, judged.drop, judged.parity, judged.agreement) == (None, None, None, 0)
    json.loads(judged.model_dump_json(), parse_constant=pytest.fail)


class Vectors(Task):
    """Recognition in small: nothing but an embedding, float32 (n, d)."""

    name, main, optional, unit = "vectors", "embedding", (), "component"
    metrics = {"nearest": "nearest neighbor"}  # noqa: RUF012

    def fault(self, classes: Sequence[str], shapes: Mapping[str, Sequence[int | None]]) -> str:
        return ""

    def labels_fault(self, labels: NDArray[Any], images: int, classes: Sequence[str]) -> str:
        return ""

    def answers(self, outputs: Outputs, classes: Sequence[str], top: int, threshold: float) -> list[Answer]:
        return []

    def score(self, outputs: Outputs, labels: NDArray[Any]) -> dict[str, float]:
        return {"nearest": float((labels[self._nearest(outputs)] == labels).mean())}

    def agreement(self, got: Outputs, trained: Outputs) -> NDArray[np.float64]:
        return (self._nearest(got) == self._nearest(trained)).astype(np.float64)

    def expected_drop(self, got: Outputs, trained: Outputs) -> float:
        return 1 - float(self.agreement(got, trained).mean())

    def groups(self, outputs: Outputs, labels: NDArray[Any] | None) -> NDArray[np.int64]:
        return np.arange(len(outputs["embedding"])) if labels is None else labels

    @staticmethod
    def _nearest(outputs: Outputs) -> NDArray[np.int64]:
        vectors = outputs["embedding"] / np.linalg.norm(outputs["embedding"], axis=1, keepdims=True)
        return (vectors @ vectors.T - 2 * np.eye(len(vectors))).argmax(1)


def test_a_main_output_may_be_a_direction() -> None:
    """Of INT8 the golden rule asks for the vector's direction then, and of float for its values."""
    task = Vectors()
    trained = {"embedding": np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)}
    assert task.golden_fault(task.compare(trained, trained), "int8", exporting=True) == []
    longer = {"embedding": 2 * trained["embedding"]}
    assert task.golden_fault(task.compare(longer, trained), "int8", exporting=True) == []
    assert task.figures(task.compare(longer, trained)) == {"embedding_cosine": pytest.approx(1)}
    (fault,) = task.golden_fault(task.compare(longer, trained), "fp32")
    assert fault.startswith("the golden embedding differs by")
    turned = {"embedding": np.roll(trained["embedding"], 1, axis=0)}
    (fault,) = task.golden_fault(task.compare(turned, trained), "int8")
    assert fault.startswith("the golden embedding differs by")
    near = {"embedding": trained["embedding"] + np.float32(0.4)}
    found = task.compare(near, trained)
    assert task.golden_fault(found, "int8") == []
    warning = task.golden_warning(found, found.agreement, {"embedding_cosine": 1.0})
    assert (
        warning
        == f"its embedding's cosine with the trained one is {found.outputs['embedding'].cosine:.3f} here, 1.000 at export"
    )
    broken = {"embedding": np.full_like(trained["embedding"], np.nan)}
    assert task.golden_fault(task.compare(broken, trained), "int8") == ["its embedding is not finite numbers"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("TASK = 1", "is no Task of that name"),
        ("from edgekit.tasks.classification import CLASSIFICATION as TASK", "is no Task of that name"),
        ("raise RuntimeError('a fault of theirs')", "does not load: RuntimeError: a fault of theirs"),
    ],
)
def test_a_package_with_a_broken_task_is_one_line(
    tmp_path: Path, installed: Callable[..., None], code: str, reason: str
) -> None:
    installed(package(tmp_path, code))
    with pytest.raises(EdgekitError, match=reason):
        tasks.find("theirs")
    assert tasks.find("classification") is CLASSIFICATION


def test_two_packages_with_a_task_of_one_name_are_refused(tmp_path: Path, installed: Callable[..., None]) -> None:
    installed(package(tmp_path / "a", "TASK = 1"), package(tmp_path / "b", "TASK = 2"))
    with pytest.raises(EdgekitError, match="several packages add the task theirs"):
        tasks.find("theirs")


def test_a_graph_without_the_tasks_outputs_is_not_exported(tmp_path: Path) -> None:
    from edgekit.export.pipeline import export_classifier

    write_reconstruction(tmp_path / "float.onnx")
    with pytest.raises(
        ExportError, match="the graph has no output named logits, which classification needs, only map, score"
    ):
        export_classifier(
            tmp_path / "float.onnx",
            classes=["a", "b"],
            preprocessing=Preprocessing(image_size=SIZE, resize_to=SIZE),
            calibration=smooth_and_noisy(24, 1)[0],
            evaluation=smooth_and_noisy(8, 2),
            output=tmp_path / "export",
            targets=["onnx"],
            precisions=["fp32"],
        )
    assert not (tmp_path / "export").exists()
