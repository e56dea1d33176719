"""Models that cannot be exported: a one-line error (what, where, what to do), exit code 2, no partial files, and no code run."""

from __future__ import annotations

import json
import pickle
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

from edgekit.errors import ExportError
from edgekit.export import openvino
from edgekit.files import copy_file, written_by_a_library
from edgekit.runtimes import installed

Run = Callable[..., tuple[int, str, str]]
PIXELS = ["--mean", "0.5", "--std", "0.25"]
FLOAT = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with some photos, to run the commands in."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        folder = tmp_path / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    return tmp_path


def graph(
    *nodes: onnx.NodeProto, kind: int = FLOAT, shape: tuple[object, ...] = ("n", 3, 16, 16), inputs: int = 1
) -> ModelProto:
    """A classifier of two classes: `nodes` from x to r, then a mean and a matrix; valid if the nodes are."""
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32), "w")
    chain = list(nodes) or [helper.make_node("Relu", ["x"], ["r"], name="first")]
    chain.append(helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=0, name="pool"))
    chain.append(helper.make_node("MatMul", ["m", "w"], ["y"], name="head"))
    values = [helper.make_tensor_value_info(name, kind, list(shape)) for name in ("x", "x2", "x3")[:inputs]]
    made = helper.make_graph(chain, "g", values, [helper.make_tensor_value_info("y", FLOAT, [shape[0], 2])], [weights])
    opsets = {"": 17, **{n.domain: 1 for n in nodes if n.domain}}
    return helper.make_model(made, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()], ir_version=8)


def refused(edgekit: Run, *arguments: object) -> str:
    """The one-line error of a command, which must not have written any file."""
    before = sorted(Path().iterdir())
    code, out, err = edgekit("export", *arguments)
    lines = err.strip().splitlines()
    assert code == 2, (code, err)
    assert out == ""
    assert "Traceback" not in err
    assert lines[-1].startswith("error: ")
    assert sorted(Path().iterdir()) == before
    return lines[-1]


def branch(condition: str) -> onnx.NodeProto:
    def side(kind: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(kind, FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["x"], [kind])], kind, [], [value])

    return helper.make_node("If", [condition], ["r"], name="choose", then_branch=side("Relu"), else_branch=side("Tanh"))


DYNAMIC = (
    helper.make_node("ReduceMax", ["x"], ["peak"], keepdims=0, name="peak"),
    helper.make_node("Cast", ["peak"], ["bright"], to=TensorProto.BOOL, name="bright"),
    branch("bright"),
)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (graph(kind=TensorProto.INT64), "input x is int64 (?, 3, 16, 16), not a float32 or uint8 image"),
        (graph(kind=TensorProto.DOUBLE), "input x is double"),
        (graph(kind=TensorProto.FLOAT16), "input x is float16"),
        (graph(inputs=3), "has 3 inputs (x, x2, x3), not one image"),
        (graph(shape=("n", 1, 16, 16)), "no axis of 3 channels"),
        (graph(shape=("n", 3)), "not a float32 or uint8 image of four axes"),
        (graph(*DYNAMIC), "If (node choose) is dynamic control flow"),
        (graph(helper.make_node("Fancy", ["x"], ["r"], name="odd", domain="my.ops")), "my.ops.Fancy (node odd) is not an ONNX operator"),
        (graph(helper.make_node("Fancy", ["x"], ["r"], name="odd")), "does not support the operator Fancy (node odd)"),
        (graph(helper.make_node("QuantizeLinear", ["x", "w"], ["r"], name="q")), "is already quantized: QuantizeLinear (node q)"),
    ],
)  # fmt: skip
def test_graphs_that_no_target_takes(edgekit: Run, model: ModelProto, says: str) -> None:
    onnx.save(model, "model.onnx")
    line = refused(edgekit, "model.onnx", "--calibrate", "photos", "--target", "onnx", *PIXELS)
    assert says in line
    assert "model.onnx" in line


def test_an_operator_that_only_one_target_lacks_is_named_with_its_node_and_that_target(
    edgekit: Run, here: Path
) -> None:
    det = [
        helper.make_node("Det", ["x"], ["d"], name="determinant"),
        helper.make_node("Unsqueeze", ["d", "axes"], ["d4"], name="back"),
        helper.make_node("Add", ["x", "d4"], ["r"], name="add"),
    ]
    model = graph(*det)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    onnx.save(model, "model.onnx")
    with pytest.raises(ExportError, match=r"OpenVINO does not support the operator Det \(node determinant\)"):
        openvino.write_ir(here / "model.onnx", here / "model.xml")
    Path("model.xml").unlink(missing_ok=True)
    (here / "out").mkdir()  # what an export keeps to go on from lies beside the bundle, which must not be there
    says = {"openvino": ("OpenVINO does not support the operator Det (node ", "leave out --target openvino")}
    if installed()["tensorrt-rtx"]:
        says["trt-rtx"] = ("TensorRT for RTX cannot parse model.trt-rtx.fp16.onnx: node determinant, operator Det: ",)
    for target, parts in says.items():
        code, _, said = edgekit(
            "export", "model.onnx", "--calibrate", "photos", "--target", target, "--precision", "fp16", "--output", "out/bundle",
            *PIXELS,
        )  # fmt: skip
        line = said.strip().splitlines()[-1]
        assert code == 2
        assert not (here / "out" / "bundle").exists()
        for part in parts:
            assert part in line


def external(location: str, *, length: int = 0) -> None:
    model = graph()
    Path("weights.bin").unlink(missing_ok=True)
    onnx.save(model, "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = onnx.load("model.onnx", load_external_data=False)
    for entry in content.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
        if entry.key == "length" and length:
            entry.value = str(length)
    if length:
        content.graph.initializer[0].dims[:] = [length // 8, 2]
    Path("model.onnx").write_bytes(content.SerializeToString())


def test_damaged_onnx_files(edgekit: Run) -> None:
    command = ("model.onnx", "--calibrate", "photos", *PIXELS)
    assert "cannot be read" in refused(edgekit, *command)
    whole = graph().SerializeToString()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04 not a protobuf", b"\x00" * 64):
        Path("model.onnx").write_bytes(content)
        assert "model.onnx: not an ONNX model, or a truncated one" in refused(edgekit, *command)
    external("elsewhere.bin")
    assert "its external data is missing: elsewhere.bin" in refused(edgekit, *command)
    external("../weights.bin")
    assert "its external data ../weights.bin is outside its folder" in refused(edgekit, *command)
    external("weights.bin", length=3 * 2**30)  # only what the file claims is that large
    assert "3.0 GiB with its weights" in refused(edgekit, *command)
    external("weights.bin", length=800)
    assert "model.onnx: its external data " in refused(
        edgekit, *command
    )  # older versions of onnx do not notice by themselves


def test_what_must_be_said_about_a_graph(edgekit: Run) -> None:
    onnx.save(graph(shape=("n", 3, "h", "w")), "model.onnx")
    assert "normalization is unknown" not in refused(
        edgekit, "model.onnx", "--calibrate", "photos", *PIXELS
    )  # but its size
    assert "choose one, for example --size 224" in refused(edgekit, "model.onnx", "--calibrate", "photos", *PIXELS)
    assert "its normalization is unknown" in refused(edgekit, "model.onnx", "--calibrate", "photos", "--size", "16")
    onnx.save(graph(), "model.onnx")
    sized = ("model.onnx", "--calibrate", "photos", "--size", "32", *PIXELS)
    assert "takes images of 16 px, but --size is 32" in refused(edgekit, *sized)
    assert "no images for calibration" in refused(edgekit, "model.onnx", *PIXELS)
    for wrong in ("0.5,0.5", "half", "nan", "0"):
        line = refused(edgekit, "model.onnx", "--calibrate", "photos", "--mean", "0.5", "--std", wrong)
        assert f"--std {wrong}: is not one number" in line


def test_images_that_are_none(edgekit: Run) -> None:
    onnx.save(graph(), "model.onnx")
    for name in ("empty", "text", "broken"):
        Path(name).mkdir()
    Path("text/readme.txt").write_text("no image")
    Path("broken/a.png").write_text("no image either")
    for folder, says in (
        ("nowhere", "no such folder"), ("empty", "holds no images"), ("text", "holds no images"),
        ("broken", "no image can be read, of 1"), ("model.onnx", "is not a folder"),
    ):  # fmt: skip
        line = refused(edgekit, "model.onnx", "--calibrate", folder, *PIXELS)
        assert says in line
        assert folder in line
    assert "holds 6 images but no sub-folder" not in refused(
        edgekit, "model.onnx", "--calibrate", "photos", "--evaluate", "photos/cat", *PIXELS
    )
    line = refused(edgekit, "model.onnx", "--calibrate", "photos", "--evaluate", "photos/cat", *PIXELS)
    assert "--evaluate: photos/cat" in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("cat\ndog\nowl\n", "has 2 classes, but --classes names.txt names 3 (cat, dog, owl)"),
        ("cat\n\ndog\n", "line 2 is empty"),
        ("cat\n", "names 1 class"),
        ('["cat", null]', "null is not the name of a class"),
        ('{"0": "cat", "2": "dog"}', "names 2 classes, but none has the index 1"),
        ('["cat"', "is not JSON"),
        ("cat\nowl\n", "1 of its folders are not among the classes of names.txt: dog"),
    ],
)
def test_classes_that_are_not_the_models(edgekit: Run, content: str, says: str) -> None:
    onnx.save(graph(), "model.onnx")
    Path("names.txt").write_text(content)
    arguments = ("--calibrate", "photos", "--classes", "names.txt", "--evaluate", "photos", *PIXELS)
    if "has 2" in says:
        arguments = arguments[:4] + tuple(PIXELS)
    assert says in refused(edgekit, "model.onnx", *arguments)


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, ("gotcha",)


def test_a_pickle_is_never_run(edgekit: Run) -> None:
    Path("model.pkl").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": Evil()}, "weights.pth")
    assert "it was not opened" in refused(edgekit, "model.pkl", "--calibrate", "photos")
    assert "it was not opened" in refused(edgekit, "weights.pth", "--calibrate", "photos")
    for file in ("model.pkl", "weights.pth"):
        line = refused(edgekit, "torchvision:squeezenet1_1", "--weights", file, "--calibrate", "photos", "--size", "64")
        assert f"--weights: {file}: " in line
        assert "could run code and is never loaded" in line
    assert not Path("gotcha").exists()


def test_weights_of_another_network_or_for_other_classes(edgekit: Run) -> None:
    import timm

    name = "timm:mobilenetv3_small_050"
    weights = timm.create_model("mobilenetv3_small_050", num_classes=3).state_dict()
    safetensors.torch.save_file(weights, "mine.safetensors")
    Path("names.txt").write_text("cat\ndog\n")
    options = ("--calibrate", "photos", "--size", "32")
    line = refused(edgekit, name, "--weights", "mine.safetensors", "--classes", "names.txt", *options)
    assert "--weights: mine.safetensors: has 3 classes, but --classes names 2" in line
    line = refused(edgekit, name, "--weights", "mine.safetensors", "--evaluate", "photos", *options)
    assert "has 3 classes, but --evaluate names 2" in line
    del weights["conv_stem.weight"]
    safetensors.torch.save_file(weights, "mine.safetensors")
    line = refused(edgekit, name, "--weights", "mine.safetensors", *options)
    assert "1 missing: conv_stem.weight" in line
    assert f"check that {name} is the network that the file was made from" in line
    Path("mine.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{broken")
    assert "damaged" in refused(edgekit, name, "--weights", "mine.safetensors", *options)


def test_names_of_nothing(edgekit: Run) -> None:
    Path("bad_factory.py").write_text(
        "def number():\n    return 3\ndef fails():\n    raise ValueError('no weights here')\n"
    )
    Path("model.tflite").write_bytes(b"TFL3")
    for model, says in (
        ("timm:mobilenetv3_smal_050", "did you mean mobilenetv3_small_050"),
        ("torchvision:resnet81", "torchvision has no network 'resnet81'"),
        ("no_such_module:build", "no_such_module cannot be imported"),
        ("bad_factory:nmber", "did you mean number?"),  # codespell:ignore
        ("bad_factory:number", "returns a int, not an nn.Module"),
        ("bad_factory:fails", "no weights here"),
        ("model.tflite", "is not a model that edgekit can export"),
        ("nothing", "no such run"),
    ):
        assert says in refused(edgekit, model, "--calibrate", "photos", "--size", "32", *PIXELS)
    assert "missing argument" in edgekit("export")[2].lower()


def test_options_that_a_model_does_not_have(edgekit: Run) -> None:
    onnx.save(graph(), "model.onnx")
    safetensors.torch.save_file({"a": torch.zeros(1)}, "mine.safetensors")
    common = ("--calibrate", "photos", *PIXELS)
    assert "is not a run" in refused(edgekit, "model.onnx", "--model", "teacher", *common)
    for model in ("model.onnx", "mine.safetensors"):
        assert "holds" in refused(edgekit, model, "--weights", "mine.safetensors", *common)
    onnx.save(graph(kind=TensorProto.UINT8, shape=("n", 16, 16, 3)), "model.onnx")
    assert "normalizes them itself" in refused(edgekit, "model.onnx", *common)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limit files to `size` bytes, which has the same effect as a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_no_bundle(edgekit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    onnx.save(graph(), "model.onnx")
    arguments = (
        "model.onnx",
        "--calibrate",
        "photos",
        "--target",
        "onnx",
        "--precision",
        "fp32",
        "--output",
        "out",
        "--json",
        *PIXELS,
    )
    with room_for(600):
        code, _, err = edgekit("export", *arguments)
    assert code == 2, err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert not Path("out").exists()
    code, out, err = edgekit("export", *arguments)  # there is room again
    assert code == 0, err
    assert json.loads(out)["variants"][0]["status"] == "verified"


def test_a_library_that_hides_the_full_disk_does_not_hide_it_from_the_user(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    with room_for(600), pytest.raises(OSError, match="File too large") as raised:
        openvino.write_ir(tmp_path / "model.onnx", tmp_path / "model.xml")
    assert raised.value.filename == str(tmp_path)
    assert isinstance(raised.value.__cause__, RuntimeError), "OpenVINO's own error says why it is needed"
    with room_for(600), pytest.raises(OSError, match="File too large"), written_by_a_library(tmp_path):
        raise FileNotFoundError(2, "No such file or directory", "what the library could not write")
    with pytest.raises(ValueError, match="its own"), written_by_a_library(tmp_path):
        raise ValueError("its own")
    assert not list(tmp_path.glob(".*"))


def test_a_copy_that_fails_names_both_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for content in (b"x", bytes(1 << 20)):  # the system has several ways of copying, and not all of them name a file
        source.write_bytes(content)
        with pytest.raises(OSError, match="No space left") as raised:
            copy_file(source, Path("/dev/full"))
        assert raised.value.filename == f"{source}, copied to /dev/full"
