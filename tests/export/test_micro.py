"""TFLite Micro as a target: what agrees with the trained model, what a board needs, what is written for it, and what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit.api.exporting import export
from edgekit.board import BoardNeeds, NpuCompilation
from edgekit.bundle import Bundle, Variant
from edgekit.errors import ExportError, GateFailed, RuntimeMissing
from edgekit.export.gate import gate
from edgekit.export.litert.convert import lower
from edgekit.export.litert.flatbuffer import schema, serialize
from edgekit.export.litert.graph import Graph
from edgekit.export.micro import npu
from edgekit.export.micro.fitting import Fitting
from edgekit.export.micro.int8 import subset
from edgekit.export.micro.limits import Limits, measure, operators, parse_size
from edgekit.export.micro.rules import METHODS, check_kernels, check_operators, quantize_for_micro
from edgekit.export.micro.students import Students
from edgekit.export.verify import AccuracyBounds, ReferenceOutputs
from edgekit.onnx_graph.simplify import fix_batch, simplify
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.qdq import kept_in_float
from edgekit.quantize.ranges import select
from edgekit.recipe import Architecture
from edgekit.runtimes import load, open_session
from edgekit.tasks.classification import CLASSIFICATION
from tests.export.test_litert import hard_network
from tests.helpers import exported
from tests.helpers.litert_networks import ACTIVATIONS, LAYERS, Network, activation, build, images, shuffle
from tests.helpers.tiny_bundle import some_images

pytest.importorskip("tflite_micro", reason="its wheels are for x86-64 alone")

from edgekit.runtimes.micro import MicroSession
from edgekit.sizes import ImageSize


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A trained ResNet-10, compiled for an NPU too."""
    return exported.export(
        tmp_path_factory.mktemp("micro") / "bundle",
        targets=["micro"],
        max_drop=2.0,
        ethos_u="ethos-u55-128",
        embedding=True,
    )


def micro(bundle: Bundle) -> tuple[Variant, BoardNeeds]:
    variant = bundle.variant("micro-int8")
    assert variant.board is not None
    return variant, variant.board


def reference_kernels(path: Path, pixels: np.ndarray) -> np.ndarray:
    """What LiteRT's own reference kernels give for images, one at a time."""
    interpreter = Interpreter(
        model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1
    )
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    index = next(x["index"] for x in interpreter.get_output_details() if x["name"] == "logits")
    found = []
    for image in pixels:
        interpreter.set_tensor(taken["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(index))
    return np.concatenate(found)


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    """Signal to noise; infinite where there is none."""
    if np.array_equal(found, expected):
        return float("inf")
    return float(10 * np.log10(((expected - expected.mean()) ** 2).sum() / ((found - expected) ** 2).sum()))


def test_a_trained_network_is_verified(bundle: Bundle) -> None:
    variant, _ = micro(bundle)
    assert (variant.status, variant.executed, variant.runtime) == ("verified", True, "tflite-micro")
    assert variant.parity is not None
    assert variant.parity.figures["embedding_cosine"] > 0.99
    assert variant.agreement is not None
    assert variant.agreement > 0.97
    assert bundle.manifest.input.shape[0] is None  # of the bundle: other variants take any batch
    session = load(bundle, variant)
    assert session.batch == 1
    images, logits = bundle.golden()
    found = np.concatenate([session.run(image[None]) for image in images])
    session.close()
    agree = found.argmax(1) == logits.argmax(1)
    assert agree.mean() == variant.parity.agreement >= 0.9
    clear = exported.clear_decisions(logits, 0.03 * np.ptp(logits))
    assert agree[clear].all()
    assert clear.sum() > 8


@pytest.mark.parametrize(
    ("name", "size", "width", "fidelity"),
    [
        ("timm:mobilenetv3_small_050", 32, 1.0, 8),
        pytest.param("timm:mobilenetv3_small_050", 96, 1.0, 8, marks=pytest.mark.slow),
        ("resnet10", 32, 0.25, 20),
    ],
)
def test_networks_agree_with_the_trained_model(
    tmp_path: Path, name: str, size: int, width: float, fidelity: float
) -> None:
    model = exported.untrained(name, size, width)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8).repeat(size // 4, 1).repeat(size // 4, 2)
    made = exported.export(
        tmp_path / "bundle", model=model, classes=[f"class {i}" for i in range(10)], targets=["micro"], max_drop=30.0,
        preprocessing=exported.RECIPE.data.preprocessing().model_copy(update={"image_size": ImageSize(size, size), "resize_to": size}),
        calibration=pixels, evaluation=(pixels, exported_labels(model, pixels)),
    )  # fmt: skip
    variant, needs = micro(made)
    assert variant.status == "verified", variant.note
    assert variant.parity is not None
    assert variant.parity.sqnr_db is not None
    assert variant.parity.sqnr_db > fidelity
    path = made.path / variant.files[0].path
    session = open_session("tflite-micro", path)
    found = np.concatenate([session.run(image[None]) for image in pixels[:4]])
    assert decibels(found, reference_kernels(path, pixels[:4])) > 20
    assert needs.arena_bytes is not None


def exported_labels(model: object, pixels: np.ndarray) -> np.ndarray:
    """The classes that a network itself gives."""
    import torch

    assert isinstance(model, torch.nn.Module)
    with torch.inference_mode():
        return model(torch.from_numpy(pixels)).argmax(1).numpy()


def test_the_bundle_says_what_a_board_needs(bundle: Bundle) -> None:
    variant, needs = micro(bundle)
    path = bundle.path / variant.files[0].path
    session = open_session("tflite-micro", path)
    assert isinstance(session, MicroSession)
    arena = session.arena()
    assert (needs.arena_bytes, needs.activation_bytes, needs.persistent_bytes) == (arena.total, arena.head, arena.tail)
    assert needs.model_bytes == variant.bytes == path.stat().st_size
    assert {"AddConv2D", "AddFullyConnected", "AddQuantize"} <= set(needs.operators)
    assert needs.operators == operators(path)


def lowered(model: onnx.ModelProto, folder: Path) -> tuple[Graph, Graph]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    calibration = Calibration(path, images(model, 40), folder)
    graph = lower(fix_batch(model, 1))
    found, counts = quantize_for_micro(graph, select(calibration.histograms, "minmax"), kept_in_float(model), 8)
    in_float = [op for op in found.operators if op.outputs[0].dtype == np.float32 and op.node != "dequantize"]
    assert sum(counts.in_float.values()) == len(in_float)
    return graph, found


def test_pixels_never_become_floats(tmp_path: Path) -> None:
    model = hard_network()  # a factor for all channels, and a summand for each
    graph, found = lowered(model, tmp_path)
    kinds = [operator.kind for operator in found.operators]
    assert kinds[:2] == ["QUANTIZE", "DEPTHWISE_CONV_2D"]
    assert [op.kind for op in found.operators if op.outputs[0].dtype == np.float32] == ["DEQUANTIZE", "FULLY_CONNECTED"]
    assert "HARD_SWISH" in kinds  # which TFLite Micro has in INT8
    assert "AVERAGE_POOL_2D" in kinds
    check_operators(found)
    answers = []
    for one, name in ((graph, "float"), (found, "int8")):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(serialize(one))
        session = open_session("tflite-micro", path)
        answers.append(np.concatenate([session.run(image[None]) for image in images(model, 12, seed=1)]))
    assert decibels(answers[1], answers[0]) > 20


def test_a_first_layer_in_float_has_its_normalization_in_float(tmp_path: Path) -> None:
    model = hard_network()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    calibration = Calibration(path, images(model, 40), tmp_path)
    graph = lower(fix_batch(model, 1))
    first = next(op.node for op in graph.operators if op.kind == "CONV_2D")
    ranges = select(calibration.histograms, "minmax")
    found, _ = quantize_for_micro(graph, ranges, [*kept_in_float(model), first], 8)
    kinds = [operator.kind for operator in found.operators]
    assert kinds[0] == "DEQUANTIZE"
    assert "DEPTHWISE_CONV_2D" not in kinds[:3]


@pytest.mark.parametrize("kind", [kind for kind in ACTIVATIONS if kind not in {"Gelu", "GeluTanh"}])
def test_activations_are_those_of_the_network(tmp_path: Path, kind: str) -> None:
    net = Network(np.random.default_rng(3), (8, 8))
    net.value = net.add("Conv", [net.value, net.weight(8, 3, 3, 3), net.weight(8)], kernel_shape=[3, 3], pads=[1] * 4)
    net.shape = (8, 8, 8)
    activation(net, kind)
    model = simplify(net.model())
    _, found = lowered(model, tmp_path)
    check_operators(found)
    path = tmp_path / "model.tflite"
    path.write_bytes(serialize(found))
    pixels = images(model, 8, seed=2)
    session = open_session("tflite-micro", path)
    ours = np.concatenate([session.run(image[None]) for image in pixels])
    assert decibels(ours, open_session("onnxruntime", tmp_path / "model.onnx").run(pixels)) > 15


def test_a_relu6_of_its_own_keeps_one_scale(tmp_path: Path) -> None:
    net = Network(np.random.default_rng(0), (8, 8))
    net.value = net.add("Conv", [net.value, net.number(net.rng.normal(0, 2, (8, 3, 3, 3)))], kernel_shape=[3, 3])
    net.shape = (8, 6, 6)
    shuffle(net)  # between the two, so that it is not the convolution's
    activation(net, "Relu6")
    _, found = lowered(simplify(net.model()), tmp_path)
    relu6 = next(op for op in found.operators if op.kind == "RELU6")
    read = relu6.inputs[0]
    assert read is not None
    assert read.scale is not None
    assert relu6.outputs[0].scale is not None
    assert read.scale.scale.tolist() == relu6.outputs[0].scale.scale.tolist()
    assert read.scale.zero.tolist() == relu6.outputs[0].scale.zero.tolist()
    path = tmp_path / "model.tflite"
    path.write_bytes(serialize(found))
    pixels = images(simplify(net.model()), 8, seed=2)
    session = open_session("tflite-micro", path)
    ours = np.concatenate([session.run(image[None]) for image in pixels])
    assert decibels(ours, open_session("onnxruntime", tmp_path / "model.onnx").run(pixels)) > 20


def test_random_networks_run_or_are_refused(tmp_path: Path) -> None:
    ran, refused = 0, []
    for seed in range(16):
        random = np.random.default_rng(seed)
        model = simplify(build([str(name) for name in random.choice(sorted(LAYERS), 4)], seed))
        _, found = lowered(model, tmp_path)
        try:
            check_kernels(found, CLASSIFICATION)
        except ExportError as error:
            refused.append(error.message)
            continue
        path = tmp_path / f"{seed}.tflite"
        path.write_bytes(serialize(found))
        session = open_session("tflite-micro", path)
        pixels = images(model, 2, seed=seed)
        ours = np.concatenate([session.run(image[None]) for image in pixels])
        theirs = open_session("onnxruntime", tmp_path / "model.onnx").run(pixels)
        assert np.abs(ours - theirs).max() < 0.1 * np.ptp(theirs)
        ran += 1
    assert ran >= 8
    for message in refused:
        assert re.match(r"TFLite Micro (does not have|cannot run) the operator [A-Z0-9_]+ \(node ", message)


def test_a_shape_that_its_kernels_lack_is_named(tmp_path: Path) -> None:
    net = Network(np.random.default_rng(0), (8, 8))
    _, height, width = net.shape
    axes = net.number([2, 3, 4, 5], np.int64)
    apart = net.add("Reshape", [net.value, net.number([-1, 3, height // 2, 2, width // 2, 2], np.int64)])
    ends = [net.number(values, np.int64) for values in ([0] * 4, [height // 2, 1, width // 2, 1])]
    sliced = net.add("Slice", [apart, *ends, axes])
    net.value = net.add("Reshape", [sliced, net.number([-1, 3, height // 2, width // 2], np.int64)])
    net.shape = (3, height // 2, width // 2)
    _, found = lowered(simplify(net.model()), tmp_path)
    pattern = r"TFLite Micro cannot run the operator STRIDED_SLICE \(node Slice_\d+\): .*should not exceed"
    with pytest.raises(ExportError, match=pattern) as error:
        check_kernels(found, CLASSIFICATION)
    assert "--target micro" in error.value.hint


def test_the_file_is_the_same_without_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = lower(fix_batch(hard_network(), 1))
    with_litert = serialize(graph)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.delitem(sys.modules, "ai_edge_litert.schema_py_generated", raising=False)
    assert serialize(graph) == with_litert


def test_an_operator_that_it_lacks_is_named() -> None:
    graph = lower(fix_batch(hard_network(), 1))
    next(op for op in graph.operators if op.kind == "HARD_SWISH").kind = "GELU"
    with pytest.raises(ExportError, match=r"TFLite Micro does not have the operator GELU \(node HardSwish") as error:
        check_operators(graph)
    assert "--target micro" in error.value.hint


def test_the_methods_are_those_that_it_has(tmp_path: Path) -> None:
    from edgekit.export.litert.flatbuffer import schema

    assert set(METHODS) <= {name for name in vars(schema().BuiltinOperator) if not name.startswith("_")}
    library = next(Path(__import__("tflite_micro").__file__).parent.rglob("_runtime.so"))
    names = set(re.findall(rb"Register_([A-Z0-9_]+?)Ev", library.read_bytes()))
    assert {kind.encode() for kind in METHODS} <= names


def test_memory_that_a_board_lacks_is_said_in_a_line() -> None:
    needs = BoardNeeds(arena_bytes=300_000, activation_bytes=200_000, persistent_bytes=100_000, model_bytes=2_000_000)
    assert Limits().faults(needs, 96) == []
    assert Limits(300_000, 2_000_000).faults(needs, 96) == []
    (ram,) = Limits(200_000, None).faults(needs, 96)
    assert (
        ram == "its arena of 300,000 bytes exceeds --max-ram 200,000 by 100,000 (estimate: --image-size 64 would fit)"
    )
    (frame,) = Limits(200_000, None).faults(needs, (96, 128))
    assert frame.endswith("(estimate: --image-size 64,85 would fit)")
    (flash,) = Limits(None, 1_000_000).faults(needs, 96)
    assert flash.startswith(
        "its file of 2,000,000 bytes exceeds --max-flash 1,000,000 by 1,000,000 (estimate: a student with 50%"
    )
    assert "no resolution" in Limits(90_000, None).faults(needs, 96)[0]
    assert "smaller student" in Limits(101_000, None).faults(needs, 96)[0]


def test_of_a_compiled_model_the_compiled_file_must_fit() -> None:
    npu = NpuCompilation(accelerator="ethos-u55-128", file_bytes=900_000, arena_bytes=150_000)
    needs = BoardNeeds(
        arena_bytes=300_000, activation_bytes=200_000, persistent_bytes=100_000, model_bytes=2_000_000, npu=npu
    )
    assert Limits(150_000, 900_000).faults(needs, 96) == []
    ram, flash = Limits(140_000, 800_000).faults(needs, 96, lambda _: (64, 1))
    assert ram.startswith("its arena of 150,000 bytes, compiled for ethos-u55-128, exceeds --max-ram 140,000 by 10,000")
    assert "measured" not in ram  # what the compiler needs at another resolution is not known
    assert flash.startswith("its file of 900,000 bytes, compiled for ethos-u55-128, exceeds --max-flash 800,000")


def test_the_resolution_that_is_said_to_fit_is_measured(tmp_path: Path) -> None:
    def network(size: int) -> onnx.ModelProto:
        net = Network(np.random.default_rng(0), (size, size))
        for _ in range(2):
            net.value = net.add(
                "Conv", [net.value, net.weight(8, net.shape[0], 3, 3), net.weight(8)], kernel_shape=[3, 3], pads=[1] * 4,
            )  # fmt: skip
            net.shape = (8, size, size)
        return simplify(net.model())

    path = tmp_path / "model.onnx"
    onnx.save(network(112), path)
    calibration = Calibration(path, images(network(112), 8), tmp_path)
    kept = kept_in_float(network(112))
    fitting = Fitting(calibration, kept, CLASSIFICATION, ImageSize(112, 112))
    own = fitting.arena(112)
    ranges = select(calibration.histograms, "minmax")
    file = tmp_path / "own.tflite"
    file.write_bytes(serialize(quantize_for_micro(lower(fix_batch(network(112), 1)), ranges, kept, 8)[0]))
    needs = measure(file, CLASSIFICATION)
    assert own == needs.arena_bytes
    assert own is not None
    ram = own // 2
    (fault,) = Limits(ram).faults(needs, 112, fitting.largest)
    said = re.search(r"\(--image-size (\d+) fits: arena of ([\d,]+) bytes, measured", fault)
    assert said is not None, fault
    size, arena = int(said[1]), int(said[2].replace(",", ""))
    assert arena == fitting.arena(size)
    assert arena <= ram
    larger = fitting.arena(size + 16)
    assert larger is not None
    assert larger > ram  # the largest that fits
    assert (
        "no smaller resolution fits"
        in Limits((needs.persistent_bytes or 0) + 64).faults(needs, 112, fitting.largest)[0]
    )


def test_the_student_that_is_said_to_fit_is_measured() -> None:
    architecture = Architecture(name="resnet10", width=0.5, stem="strided")
    students = Students(architecture, 5, some_images(4), CLASSIFICATION)
    wide, narrow = students.student(0.375).needs, students.student(0.125).needs
    assert wide.model_bytes
    assert narrow.model_bytes
    assert wide.arena_bytes
    needs = wide.model_copy(update={"model_bytes": 2 * wide.model_bytes})
    (fault,) = Limits(flash=wide.model_bytes).faults(needs, 16, narrower=students.largest)
    assert f"(the student resnet10 of width 0.375 fits: file of {wide.model_bytes:,} bytes, measured untrained" in fault
    (fault,) = Limits(flash=wide.model_bytes - 1).faults(needs, 16, narrower=students.largest)
    assert "the student resnet10 of width 0.25 fits" in fault  # the widest below
    # Both limits hold at the same time.
    ram, flash = Limits(wide.arena_bytes - 1, wide.model_bytes).faults(needs, 16, narrower=students.largest)
    assert "--max-ram" in ram
    fitting = students.student(0.25).needs
    assert f"of width 0.25 fits: file of {fitting.model_bytes:,} bytes and arena of {fitting.arena_bytes:,}," in flash
    (fault,) = Limits(flash=narrow.model_bytes - 1).faults(needs, 16, narrower=students.largest)
    assert "no width of this student fits" in fault


def test_a_student_that_cannot_be_measured_has_an_estimate() -> None:
    needs = BoardNeeds(arena_bytes=300_000, model_bytes=2_000_000)
    students = Students(Architecture(name="resnet10"), 5, some_images(4)[:, :4, :4], CLASSIFICATION)
    with pytest.raises(ValueError, match="resnet10 of width"):
        students.largest(1_000_000, None)
    for other in (replace(students, classes=0), replace(students, images=some_images(4)[:, :8])):
        with pytest.raises(ValueError, match="classifiers of square images"):
            other.largest(1_000_000, None)
    (fault,) = Limits(flash=1_000_000).faults(needs, 4, narrower=students.largest)
    assert "(estimate: a student with 50% of the weights would fit" in fault


def test_a_network_of_one_resolution_has_an_estimate(tmp_path: Path) -> None:
    net = Network(np.random.default_rng(0), (64, 64))
    net.value = net.add("Conv", [net.value, net.weight(8, 3, 3, 3)], kernel_shape=[3, 3], pads=[1] * 4)
    net.value = net.add("Add", [net.value, net.weight(8, 64, 64)])  # a position's own number
    net.shape = (8, 64, 64)
    path = tmp_path / "model.onnx"
    model = simplify(net.model())
    onnx.save(model, path)
    fitting = Fitting(
        Calibration(path, images(model, 8), tmp_path), kept_in_float(model), CLASSIFICATION, ImageSize(64, 64)
    )
    with pytest.raises(ValueError, match="cannot be converted for images of"):
        fitting.largest(100_000)
    needs = BoardNeeds(arena_bytes=300_000, activation_bytes=200_000, persistent_bytes=100_000, model_bytes=2_000_000)
    (fault,) = Limits(200_000).faults(needs, 64, fitting.largest)
    assert "(estimate: --image-size 32 would fit)" in fault


def test_what_does_not_fit_is_rejected(tmp_path: Path) -> None:
    made = exported.export(
        tmp_path / "bundle", targets=["micro"], max_drop=2.0, max_ram=8192, max_flash=parse_size("16K", "")
    )
    variant, needs = micro(made)
    assert variant.status == "rejected"
    assert len(needs.exceeds) == 2
    assert all(clause in variant.note for clause in needs.exceeds)
    assert f"kArenaBytes = {needs.arena_bytes};" in (made.path / "micro_model.h").read_text()
    assert "NOT EXECUTED" not in (made.path / "micro_main.cc").read_text()  # it was: no NPU
    assert variant.parity is not None  # and yet it was verified
    with pytest.raises(GateFailed, match="exceeds --max-ram 8,192 by") as error:
        gate(made, ["micro-int8"], AccuracyBounds(2.0))
    assert "a smaller student" in error.value.hint
    assert "no option makes up" not in error.value.hint


@pytest.mark.parametrize(
    ("text", "size"), [("256K", 262144), ("1M", 1048576), ("1.5k", 1536), (4096, 4096), ("64KiB", 65536)]
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_size(text, "--max-ram") == size


@pytest.mark.parametrize("text", ["", "-1", "0", "256G", "much", "1e6"])
def test_no_size_is_one_line(text: str) -> None:
    with pytest.raises(ExportError, match=f"--max-ram {text}: not a size"):
        parse_size(text, "--max-ram")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "micro", "batch": 2}, "--batch 2: TFLite Micro runs batches of 1 alone"),
        ({"target": ["onnx", "micro"], "batch": 4}, "--batch 4: TFLite Micro"),
        ({"target": "onnx", "max_ram": "1M"}, "--max-ram is of --target micro alone"),
        ({"target": "micro", "ethos_u": "ethos-u55-129"}, "--ethos-u ethos-u55-129: unknown NPU"),
        ({"target": "micro", "max_flash": "lots"}, "--max-flash lots: not a size"),
        ({"target": "micro", "precision": "fp32"}, "no requested target has the precision fp32"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError) as error:
        export("nowhere", **options)  # type: ignore[arg-type]  # refused before the model is looked at
    assert str(error.value).startswith(message)
    assert error.value.hint


def test_the_command_prints_what_a_board_needs(tmp_path: Path, edgekit: Callable[..., tuple[int, str, str]]) -> None:
    run = exported.write_run(tmp_path / "run")
    code, out, _ = edgekit(
        "export", str(run.path), "--target", "micro", "--max-drop", "5", "--max-ram", "1K", "--no-timing"
    )
    assert code == 1
    said = " ".join(out.split())
    assert "exceeds --max-ram 1,024 by" in said
    assert "bytes of RAM" in said
    assert "AddConv2D" in said
    assert "not compiled here" in said


def test_many_images_are_judged_in_part() -> None:
    count = 40
    outputs = {"logits": np.eye(4, dtype=np.float32)[np.arange(count) % 4]}
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    whole = ReferenceOutputs(CLASSIFICATION, pixels, np.arange(count) % 4, outputs, np.array([30, 5]))
    part = subset(whole, 12)
    assert len(part.images) == 12
    assert part.images[:2, 0, 0, 0].tolist() == [30, 5]
    assert part.golden.tolist() == [0, 1]
    assert part.labels is not None
    np.testing.assert_array_equal(part.outputs["logits"].argmax(1), part.labels)
    np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 4, part.labels)
    assert subset(whole) is whole


def test_the_code_holds_the_model_and_its_answers(bundle: Bundle, tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    variant, needs = micro(bundle)
    assert needs.npu is not None  # its file is what lies in flash
    names = {"micro_model.h", "micro_model.cc", "micro_golden.h", "micro_main.cc"}
    assert names <= {file.path for file in variant.files}
    for name in names:
        shutil.copy(bundle.path / name, tmp_path)
    (tmp_path / "dump.cc").write_text(
        '#include <cstdio>\n#include "micro_golden.h"\n#include "micro_model.h"\nint main() {\n'
        "  std::fwrite(kModel, 1, kModelBytes, stdout);\n  std::fwrite(kImage, 1, sizeof(kImage), stdout);\n"
        "  std::fwrite(kExpected, 1, sizeof(kExpected), stdout);\n  return kArenaBytes == "
        f"{needs.npu.arena_bytes} && kAllowed > 0 ? 0 : 1;\n}}\n"
    )
    subprocess.run(
        [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "dump.cc", "micro_model.cc", "-o", "dump"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    said = subprocess.run([tmp_path / "dump"], check=True, capture_output=True).stdout
    content = (bundle.path / needs.npu.file).read_bytes()
    images, _ = bundle.golden()
    images = images[:4]
    assert said[: len(content)] == content
    assert said[len(content) :][: images.nbytes] == images.tobytes()
    session = load(bundle, variant)
    expected = np.concatenate([session.run(image[None]) for image in images])
    np.testing.assert_array_equal(np.frombuffer(said[len(content) + images.nbytes :], np.float32), expected.reshape(-1))


def test_the_program_registers_the_operators_and_says_that_it_was_not_compiled(bundle: Bundle) -> None:
    _, needs = micro(bundle)
    assert needs.npu is not None
    text = (bundle.path / "micro_main.cc").read_text()
    assert "NOT COMPILED" in text
    assert "compiled for ethos-u55-128, and NOT EXECUTED" in text
    methods = needs.npu.operators
    assert "AddEthosU" in methods
    assert "AddConv2D" not in methods
    assert re.findall(r"operators\.(Add\w+)\(\)", text) == methods
    assert f"MicroMutableOpResolver<{len(methods)}>" in text
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")


# What the program uses of TFLite Micro, declared as its headers do. They are in no package, so this proves how the program decides, and no more.
STAND_IN = """
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include "micro_golden.h"
#define MicroPrintf(...) (std::printf(__VA_ARGS__), std::printf("\\n"))
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
struct TfLiteTensor { union { uint8_t* uint8; float* f; } data; size_t bytes; };
namespace tflite {
struct Model {};
inline const Model* GetModel(const void*) { return nullptr; }
inline void InitializeTarget() {}
struct MicroOpResolver {};
template <unsigned int N> struct MicroMutableOpResolver : MicroOpResolver { METHODS };
struct MicroInterpreter {
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t) {}
  uint8_t pixels[kPixels]; float values[kOutputs];
  TfLiteTensor in, out;
  TfLiteStatus AllocateTensors() {
    in.data.uint8 = pixels; in.bytes = sizeof(pixels); out.data.f = values; out.bytes = sizeof(values);
    return kTfLiteOk;
  }
  TfLiteTensor* input(size_t) { return &in; }
  TfLiteTensor* output(size_t) { return &out; }
  size_t arena_used_bytes() const { return 1; }
  TfLiteStatus Invoke() {
    for (int i = 0; i < kImages; ++i)
      if (std::memcmp(pixels, kImage[i], kPixels) == 0)
        for (int j = 0; j < kOutputs; ++j) values[j] = kExpected[i][j] + (i == 2 && j == 1 ? OFF : 0.0f);
    return kTfLiteOk;
  }
};
}
"""


@pytest.mark.parametrize(
    ("off", "code"), [("0.0f", 0), ("0.9f * kAllowed", 0), ("1.1f * kAllowed", 1), ("-9e9f", 1), ("NAN", 1)]
)
def test_the_program_passes_what_is_near_alone(bundle: Bundle, tmp_path: Path, off: str, code: int) -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    _, needs = micro(bundle)
    main = (bundle.path / "micro_main.cc").read_text()
    for header in re.findall(r'#include "(tensorflow/.*)"', main):
        (tmp_path / header).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / header).write_text('#include "stand_in.h"\n')
    assert needs.npu is not None
    methods = " ".join(f"TfLiteStatus {method}() {{ return kTfLiteOk; }}" for method in needs.npu.operators)
    (tmp_path / "stand_in.h").write_text(STAND_IN.replace("METHODS", methods).replace("OFF", off))
    for name in ("micro_model.h", "micro_model.cc", "micro_golden.h", "micro_main.cc"):
        shutil.copy(bundle.path / name, tmp_path)
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-I.", "micro_main.cc", "micro_model.cc", "-o", "prove"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "prove"], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert ("passed" if code == 0 else "FAILED") in done.stdout


def test_the_npu_is_compiled_for(bundle: Bundle) -> None:
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed")
    variant, needs = micro(bundle)
    found = needs.npu
    assert found is not None
    assert found.file in {file.path for file in variant.files}
    assert b"ethos-u" in (bundle.path / found.file).read_bytes()
    ends = []
    for name in (variant.files[0].path, found.file):
        model = schema().ModelT.InitFromPackedBuf((bundle.path / name).read_bytes())
        (graph,) = model.subgraphs
        ends.append([(list(graph.tensors[i].shape), graph.tensors[i].type) for i in (*graph.inputs, *graph.outputs)])
    assert ends[0] == ends[1]  # so that the golden tensors and the program are right for both
    assert found.npu_operators is not None
    assert found.cpu_operators is not None
    assert found.npu_share == found.npu_operators / (found.npu_operators + found.cpu_operators)
    assert found.npu_share > 0.8  # all but the classifier in float, and what comes with it
    assert found.file_bytes == (bundle.path / found.file).stat().st_size
    assert found.arena_bytes is not None
    assert found.arena_bytes >= (found.sram_bytes or 0) + (needs.persistent_bytes or 0)
    assert found.sram_bytes
    assert found.flash_bytes
    assert found.estimated_ms
    assert "ethos-u-vela" in found.compiler


def test_what_vela_does_not_read_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed")
    path = tmp_path / "model.tflite"
    path.write_bytes(b"nothing")
    with pytest.raises(ExportError, match="ethos-u-vela cannot compile for ethos-u55-128") as error:
        npu.compile_for_npu(path, "ethos-u55-128")
    assert "\n" not in str(error.value)


def test_without_vela_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissing, match="ethos-u-vela is not installed") as error:
        npu.require_compiler()
    assert "[micro]" in error.value.hint
