"""The task `anomaly`: each method from normal images to the answer, in every precision of ONNX Runtime and OpenVINO."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image

import edgekit as package
from edgekit.bench.golden import prove
from edgekit.bundle import MANIFEST, Bundle
from edgekit.data import anomaly_sets
from edgekit.data.anomaly_layouts import AnomalyImages, list_images
from edgekit.data.anomaly_sets import load_anomaly_sets
from edgekit.data.splits import load_splits
from edgekit.errors import BundleError, ExportError, RecipeError
from edgekit.export.alarms import AlarmRequest, with_alarms
from edgekit.export.half import to_half
from edgekit.export.importers.detectors import detector_from_run
from edgekit.gallery.recognizer import require_embedding
from edgekit.models.store import load_detector
from edgekit.onnx_graph.files import read_onnx
from edgekit.onnx_graph.tail import tail_of
from edgekit.quantize.qdq_lint import lint
from edgekit.recipe import DataConfig, dump, parse
from edgekit.run import Run
from edgekit.runtimes import load
from edgekit.search.rounds import check_trainable
from edgekit.tasks.anomaly import ANOMALY_DETECTION, MAP, SCORE, Verdict
from edgekit.train.ablate import ablate, plan_values
from edgekit.train.analysis.transfer import open_target
from edgekit.train.detect import coreset
from edgekit.train.detect.evaluate import evaluate_detector
from edgekit.train.records.inputs import require_current
from edgekit.train.stages.pipeline import train
from tests.helpers import anomalies

Command = Callable[..., tuple[int, str, str]]
EPOCHS = 80  # of the student, of one step each
METHODS = ["patchcore", "padim", pytest.param("stfpm", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anomalies.write_set(tmp_path_factory.mktemp("parts") / "parts")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anomalies.write_weights(tmp_path_factory.mktemp("weights") / "encoder.safetensors")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, images: Path, weights: Path) -> Callable[[str], Bundle]:
    made: dict[str, Bundle] = {}

    def bundle(method: str) -> Bundle:
        if method not in made:
            folder = tmp_path_factory.mktemp(method)
            run = package.train(anomalies.recipe(images, weights, method=method, epochs=EPOCHS), run=folder / "run")
            made[method] = package.export(run, timing=False, jobs=1, calibration_images=20)
        return made[method]

    return bundle


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_verified_in_every_precision(method: str, bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles(method)
    written = json.loads((bundle.path / MANIFEST).read_text())
    assert (written["task"], written["classes"], written["provenance"]["method"]) == ("anomaly", [], method)
    assert [(o["name"], o["layout"], o["shape"]) for o in written["outputs"]] == [
        ("score", "N", [None]), ("map", "NHW", [None, anomalies.SIDE, anomalies.SIDE]),
    ]  # fmt: skip
    manifest = bundle.manifest
    assert [(v.id, v.status) for v in manifest.variants] == [
        ("onnx-fp32", "verified"), ("onnx-int8", "verified"), ("openvino-fp16", "verified"), ("openvino-int8", "verified"),
    ]  # fmt: skip
    assert manifest.accuracy is not None
    assert set(manifest.accuracy.figures) == {"auroc", "pixel_auroc", "pro"}
    assert manifest.accuracy.figures["auroc"] > (0.85 if method == "stfpm" else 0.95), "dark squares on light stripes"
    for variant in manifest.variants:
        assert variant.alarm is not None
        assert (variant.alarm.rule, variant.alarm.images, variant.alarm.false_alarms) == ("normal", 20, 0.05)
        assert variant.alarm.quality is not None
        assert (variant.alarm.quality.normal, variant.alarm.quality.anomalous) == (12, 12)
        assert variant.parity is not None
        assert variant.parity.figures["map_cosine"] > 0.9
    images, trained = bundle.golden_outputs()["images"], bundle.golden_outputs()
    trained.pop("images")
    for variant in manifest.variants:
        session = load(bundle, variant)
        assert prove(session, variant, {"images": images, **trained}, 3, bundle.task).agreement > 0.9
        session.close()


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_computes_what_the_detector_of_the_run_computes(
    method: str, bundles: Callable[[str], Bundle]
) -> None:
    bundle = bundles(method)
    detector = load_detector(bundle.path.parent / "anomaly")
    pixels, golden = bundle.golden_outputs()["images"], bundle.golden_outputs()
    with torch.inference_mode():
        score, heat = detector((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    for name, values in ((SCORE, score), (MAP, heat)):
        largest = float(values.abs().max())
        np.testing.assert_allclose(golden[name], values.numpy(), atol=1e-3 * largest)
        session = load(bundle, bundle.variant("onnx-fp32"))
        np.testing.assert_allclose(session.run_all(pixels)[name], values.numpy(), atol=1e-3 * largest)
        session.close()


def test_distances_stay_in_float_in_int8_and_in_half_precision(bundles: Callable[[str], Bundle]) -> None:
    bundle = bundles("patchcore")
    graph = read_onnx(bundle.path / "model.onnx")
    tail = tail_of(graph)
    products = [node for node in tail if node.op_type == "MatMul"]
    assert len(products) >= 2 * 2 + 1 + 2, "two for each level, the distances, and the heat map"
    assert {node.op_type for node in graph.graph.node if node not in tail} >= {"Conv", "Relu"}
    assert all(node.op_type != "Conv" for node in tail)
    int8 = read_onnx(bundle.path / bundle.variant("onnx-int8").files[0].path)
    makers = {name: node for node in int8.graph.node for name in node.output}
    inside = {node.name for node in tail}
    assert inside <= {node.name for node in int8.graph.node}
    for node in int8.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in makers:
            assert makers[node.input[0]].name not in inside, f"what {makers[node.input[0]].name} gives is quantized"
    assert sum(node.op_type == "QuantizeLinear" for node in int8.graph.node) > 3
    half = to_half(graph)
    assert not lint(graph)
    assert not lint(half)
    types = {t.name: t.data_type for t in half.graph.initializer}
    for node in half.graph.node:
        for name in node.input:
            if node.name in inside and types.get(name) == onnx.TensorProto.FLOAT16:
                pytest.fail(f"{node.name} reads {name} in half precision")
    assert onnx.TensorProto.FLOAT16 in types.values()


def test_predict_says_anomalous_and_draws_where(
    bundles: Callable[[str], Bundle], images: Path, tmp_path: Path, edgekit: Command
) -> None:
    bundle = bundles("patchcore")
    wide = Image.open(images / "test/dark/000.png").resize((90, 60))
    (tmp_path / "in").mkdir()
    wide.save(tmp_path / "in" / "wide.png")
    Image.open(images / "test/good/000.png").save(tmp_path / "in" / "good.png")
    code, out, _ = edgekit(
        "predict", bundle.path, tmp_path / "in", "--json", "--heatmap", tmp_path / "maps", "--threads", 1
    )
    assert code == 0
    good, bad = (json.loads(line) for line in out.splitlines())
    assert (good["answer"], bad["answer"]) == ("normal", "anomalous")
    assert bad["score"] > bad["threshold"] > good["score"]
    drawn = {path.name: Image.open(path) for path in sorted((tmp_path / "maps").iterdir())}
    assert {name: image.size for name, image in drawn.items()} == {"good.png": (32, 32), "wide.png": (90, 60)}
    assert np.abs(np.asarray(drawn["wide.png"]).astype(int) - np.asarray(wide)).max() > 50
    code, out, _ = edgekit("predict", bundle.path, tmp_path / "in", "--threshold", bad["score"] + 1, "--threads", 1)
    assert out.count("normal") == 2
    code, out, _ = edgekit("predict", bundle.path, tmp_path / "in" / "wide.png", "--threads", 1)
    assert "anomalous" in out
    before = (tmp_path / "in" / "wide.png").read_bytes()
    code, _, errors = edgekit("predict", bundle.path, tmp_path / "in", "--heatmap", tmp_path / "in", "--threads", 1)
    assert code == 2
    assert "good.png is there already, and is not a heat map of edgekit" in errors
    assert (tmp_path / "in" / "wide.png").read_bytes() == before, "a user's image is never replaced"
    assert edgekit("predict", bundle.path, tmp_path / "in", "--heatmap", tmp_path / "maps", "--threads", 1)[0] == 0
    with package.load(bundle) as model:
        answer = model.predict(wide)
        assert isinstance(answer, Verdict)
        assert answer.anomalous
        assert answer.heat_map.shape == (anomalies.SIDE, anomalies.SIDE)
    shown = edgekit("doctor", bundle.path)
    assert shown[0] == 0, shown


def test_what_needs_classes_says_so(
    bundles: Callable[[str], Bundle], images: Path, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="a bundle of the task anomaly has no embedding"):
        require_embedding(bundles("patchcore"))
    recipe = anomalies.recipe(images, weights)
    for name in ("a", "b"):
        for i in range(6):
            folder = tmp_path / "classes" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.open(images / f"train/good/{i + 6 * (name == 'b'):03}.png").save(folder / f"{i}.png")
    target = open_target(str(tmp_path / "classes"), recipe, 0.2)
    assert target.splits.classes == ["a", "b"], "the encoder of a detector transfers like any other"
    with pytest.raises(RecipeError, match="task: anomaly: a search distills a student"):
        check_trainable(recipe, load_splits(recipe.data))
    (tmp_path / "r.yaml").write_text(dump(recipe))
    with pytest.raises(RecipeError, match="task: anomaly: an ablation scores each cell"):
        ablate(plan_values(tmp_path / "r.yaml", [], ["seed=0,1"]), tmp_path / "ablation")


def test_the_device_side_answers_without_torch(bundles: Callable[[str], Bundle], images: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'lightning', 'onnx', 'sklearn', 'safetensors', 'nncf', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from edgekit.cli.main import main\n"
        "main()\n"
    )
    arguments = [
        "predict",
        str(bundles("patchcore").path),
        str(images / "test/dark/000.png"),
        "--heatmap",
        str(tmp_path),
        "--variant",
        "onnx-int8",
    ]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, f"1 heat map in {tmp_path}\n"), done
    assert "anomalous" in done.stdout
    assert (tmp_path / "000.png").exists()


def test_a_run_is_evaluated(bundles: Callable[[str], Bundle], edgekit: Command) -> None:
    run = bundles("patchcore").path.parent
    code, out, _ = edgekit("evaluate", run, "--json")
    assert code == 0
    scores = {score["metric"]: score for score in json.loads(out)["measurement"]["scores"]}
    assert set(scores) == {"auroc", "pixel_auroc", "pro", "f1"}
    assert set(scores["f1"]["per_class"]) == {"good", "dark"}
    recorded = bundles("patchcore").manifest.accuracy
    assert recorded is not None
    assert scores["auroc"]["value"] == pytest.approx(recorded.value, abs=0.01)
    assert (run / "evaluate" / "anomaly.npz").exists()
    code, out, _ = edgekit("evaluate", run)
    assert code == 0
    assert "decided rightly" in out
    assert edgekit("report", run)[0] == 0


def test_a_command_lists_and_decodes_the_images_of_a_run_once(
    images: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []

    def counted(data: DataConfig) -> AnomalyImages:
        listed.append(data)
        return list_images(data)

    monkeypatch.setattr(anomaly_sets, "list_images", counted)
    recipe, run = anomalies.recipe(images, weights, method="padim"), Run(tmp_path / "run")
    train(recipe, run)
    assert len(listed) == 1
    evaluate_detector(run)
    assert len(listed) == 2
    detector_from_run(run, 8, require_current)
    assert len(listed) == 3


def test_the_same_recipe_is_skipped_and_another_one_refused(
    bundles: Callable[[str], Bundle], images: Path, weights: Path
) -> None:
    run = bundles("patchcore").path.parent
    before = (run / "anomaly" / "stage.json").read_bytes()
    outcomes: list[str] = []
    package.train(
        anomalies.recipe(images, weights, epochs=EPOCHS, false_alarms=0.1),
        run=run,
        on_stage=lambda report, draw: outcomes.append(report.outcome),
    )
    assert outcomes == ["skipped", "skipped"], "the threshold is of the export"
    assert (run / "anomaly" / "stage.json").read_bytes() == before
    again = package.export(run, timing=False, jobs=1, calibration_images=20)
    alarm = again.variant("onnx-fp32").alarm
    assert alarm is not None
    assert alarm.false_alarms == 0.1
    (run / "recipe.yaml").write_text(dump(anomalies.recipe(images, weights, coreset=0.05)))
    with pytest.raises(package.EdgekitError, match="the stage anomaly was made from another recipe"):
        package.export(run, timing=False)
    (run / "recipe.yaml").write_text(dump(anomalies.recipe(images, weights, epochs=EPOCHS)))


def test_a_contaminated_pool_is_met_by_trimming(tmp_path: Path, weights: Path) -> None:
    """Two of forty training images hold the defect of the test set: the bank without trimming holds it, too."""
    images = anomalies.write_set(tmp_path / "parts", contaminated=2)
    detected = {}
    for trim in (0.0, 0.1):
        run = package.train(anomalies.recipe(images, weights, trim=trim), run=tmp_path / f"run-{trim}")
        result = package.evaluate(run).measurement
        detected[trim] = result.value("detector", "auroc")  # type: ignore[union-attr]
    assert detected[0.1] >= detected[0.0]
    assert detected[0.1] > 0.95
    listed = (tmp_path / "run-0.1" / "anomaly" / "trimmed.csv").read_text().splitlines()
    held_out = {Path(name).name for name in load_anomaly_sets(anomalies.recipe(images, weights).data).held_out.names}
    odd = [f"{i:03}.png" for i in range(2) if f"{i:03}.png" not in held_out]
    assert {Path(line.split(",")[0]).name for line in listed[1 : 1 + len(odd)]} == set(odd)


def test_a_folder_of_good_images_alone_is_enough(images: Path, weights: Path, tmp_path: Path, edgekit: Command) -> None:
    """No test set: nothing is scored, INT8 is judged by the order of the trained model's scores, and the threshold is set."""
    run = package.train(anomalies.recipe(images / "train/good", weights), run=tmp_path / "run")
    bundle = package.export(run, target="onnx", timing=False, jobs=1, calibration_images=20, max_drop=5)
    assert bundle.manifest.accuracy is None
    for variant in bundle.manifest.variants:
        assert (variant.status, variant.drop_is) == ("verified", "expected")
        assert variant.alarm is not None
        assert variant.alarm.quality is None
    code, out, _ = edgekit("predict", bundle.path, images / "test/dark/000.png", "--threads", 1)
    assert (code, "anomalous" in out) == (0, True)
    code, _, errors = edgekit("evaluate", run.path)
    assert (code, "has 0 normal and 0 anomalous images" in errors) == (2, True)


def test_a_threshold_from_two_labeled_images_is_refused(weights: Path, tmp_path: Path, edgekit: Command) -> None:
    images = anomalies.write_set(tmp_path / "parts", train=8, each=2)
    run = package.train(anomalies.recipe(images, weights, threshold="labeled"), run=tmp_path / "run")
    code, _, errors = edgekit("export", run.path, "--target", "onnx", "--precision", "fp32", "--no-timing")
    assert code == 2
    assert errors.splitlines()[-1] == (
        f"error: {run.path}: anomaly.threshold labeled needs 6 normal and as many anomalous test images, and there are 2 and 2 "
        "(add test images, or set anomaly.threshold to normal)"
    )
    assert not (run.path / "export").exists()


def test_a_bank_that_does_not_fit_is_refused_before_the_training(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(dump(anomalies.recipe(images, tmp_path / "none")))
    content["anomaly"] |= {"encoder": None, "coreset": 0.5}
    content["pretrain"] = {"encoder": anomalies.ENCODER, "epochs": 1, "batch_size": 16}
    monkeypatch.setattr(coreset, "memory_bytes", lambda key: 200_000)
    with pytest.raises(RecipeError, match=r"anomaly.coreset is 0.5: a bank of .* fit") as refused:
        package.train(parse(content), run=tmp_path / "run")
    assert "patches), or take coarser levels" in str(refused.value.hint)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_wrong_inputs_are_one_line(
    bundles: Callable[[str], Bundle], images: Path, weights: Path, tmp_path: Path, edgekit: Command
) -> None:
    run = bundles("patchcore").path.parent
    content: dict[str, Any] = yaml.safe_load(dump(anomalies.recipe(images, weights)))
    for change, message in (
        ({"task": "classification"}, "task anomaly and data.normal belong together"),
        ({"data": {"labeled": "digits"}}, "task anomaly and data.normal belong together"),
        ({"anomaly": {"encoder": {"name": "resnet10"}}}, "encoder.weights is missing"),
        ({"anomaly": {"levels": [2, 2]}}, "names a level twice"),
        ({"anomaly": {"trim": 0.6}}, "trim"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse({**content, **change})
    with pytest.raises(RecipeError, match=r"^anomaly.levels is \[9\]"):
        package.train(anomalies.recipe(images, weights, levels=[9]), run=tmp_path / "nine")
    for options, message in (
        ({"which": "student"}, "has one model, its detector"),
        ({"embedding": True}, "has one model, its detector"),
        ({"image_size": 64}, "built for images of its own recipe"),
        ({"task": "recognition"}, "its recipe has task: anomaly"),
    ):
        with pytest.raises(ExportError, match=message):
            package.export(run, **options)
    with pytest.raises(ExportError, match="is no run"):
        package.export("timm:resnet18", task="anomaly")
    code, _, errors = edgekit("evaluate", run, "--few-shot", "1")
    assert (code, "a detector learns from no labels" in errors) == (2, True)
    code, _, errors = edgekit("gallery", "create", bundles("patchcore").path, images / "test")
    assert (code, errors.endswith("which a gallery needs (use a bundle of task classification or recognition)\n")) == (
        2,
        True,
    )
    code, _, errors = edgekit("predict", bundles("patchcore").path, images, "--gallery", tmp_path / "x.gallery")
    assert (code, "Traceback" in errors) == (2, False)


def test_the_threshold_of_labeled_images_is_measured_on_the_other_half(
    bundles: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = bundles("patchcore")
    sets = load_anomaly_sets(Run(bundle.path.parent).recipe.data)
    labeled = np.asarray(sets.test.images), sets.labels
    request = AlarmRequest(np.asarray(sets.held_out.images), "labeled")
    found = with_alarms(
        [bundle.variant("onnx-int8")], bundle.path, bundle.path / "model.onnx", request, labeled, ANOMALY_DETECTION
    )
    alarm = found.variants[0].alarm
    assert alarm is not None
    assert alarm.rule == "labeled"
    assert alarm.interval is not None
    assert alarm.interval[0] <= alarm.threshold <= alarm.interval[1]
    assert alarm.quality is not None
    assert (alarm.images, alarm.quality.normal, alarm.quality.anomalous) == (12, 6, 6)
    few = with_alarms(
        [bundle.variant("onnx-int8")], bundle.path, bundle.path / "model.onnx", request, None, ANOMALY_DETECTION
    )
    assert few.trained is None
    assert "needs 6 normal and as many anomalous test images" in few.notes[0]
    none = AlarmRequest(np.asarray(sets.held_out.images)[:0])
    assert (
        "no normal image was held out"
        in with_alarms(
            [bundle.variant("onnx-int8")], bundle.path, bundle.path / "model.onnx", none, labeled, ANOMALY_DETECTION
        ).notes[0]
    )
