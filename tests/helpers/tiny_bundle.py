"""A real bundle in a fraction of a second: a small convolutional network written with onnx's helpers, no training, no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle import Accuracy, Bundle, BundleFile, Manifest, Parity, Precision, Tensor, Variant, write_manifest
from edgekit.preprocess import Preprocessing

SIZE = 16
CLASSES = ["cat", "dog", "owl", "fox", "bee", "cow"]


def write_onnx(
    path: Path, *, size: int = SIZE, classes: int = len(CLASSES), width: int = 8, layers: int = 2,
    batch: int | None = None, embedding: bool = False,
) -> None:  # fmt: skip
    """A graph of edgekit's form: uint8 NHWC in, cast and scaled inside, `logits` out and, if asked for, the `embedding`."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(np.float32(1 / 255), "scale"), numpy_helper.from_array(np.float32(0.5), "mean")]
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["x0"]),
    ]
    channels = 3
    for i in range(layers):
        kernel = random.standard_normal((width, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
        channels = width
    weights.append(numpy_helper.from_array(random.standard_normal((channels, classes)).astype(np.float32) * 4, "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{layers}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["logits"]),
    ]
    free = batch or "batch"
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [free, size, size, 3])
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [free, classes])]
    if embedding:  # first, so that whoever takes the first output finds out
        outputs.insert(0, helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [free, channels]))
    graph = helper.make_graph(nodes, "tiny", [images], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_openvino(path: Path, source: Path) -> None:
    """The IR of an ONNX file: `path` (.xml) and its .bin, weights compressed to FP16."""
    import openvino as ov

    ov.save_model(ov.Core().read_model(source), path, compress_to_fp16=True)


def write_tflite(path: Path, source: Path, batch: int | None = None) -> None:
    """The `.tflite` of an ONNX file, in float; `batch` fixes its batch size."""
    from edgekit.export.litert.convert import lower
    from edgekit.export.litert.flatbuffer import serialize
    from edgekit.onnx_graph.simplify import fix_batch, simplify

    model = simplify(onnx.load(source))
    path.write_bytes(serialize(lower(model if batch is None else fix_batch(model, batch))))


def with_tflite(
    bundle: Bundle, variant: str, runtime: str, precision: Precision, file: str, batch: int | None = None
) -> Bundle:
    """A bundle with one more variant: its ONNX file as a `.tflite`, called verified."""
    write_tflite(bundle.path / file, bundle.path / "model.onnx", batch)
    files = [BundleFile.of(bundle.path, file)]
    bundle.manifest.variants.append(
        Variant(id=variant, runtime=runtime, precision=precision, files=files, executed=True, status="verified")
    )
    write_manifest(bundle.path, bundle.manifest)
    return Bundle.open(bundle.path)


def some_images(count: int, size: int = SIZE) -> np.ndarray:
    """Random uint8 images (count, size, size, 3): smooth, so that they survive JPEG, and unlike each other."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, size // 4, size // 4, 1), dtype=np.int64)).astype(np.uint8)


def make_bundle(
    folder: Path, *, openvino: bool = True, size: int = SIZE, width: int = 8, layers: int = 2, embedding: bool = False
) -> Bundle:
    """Write a bundle with `onnx-fp32` and, if asked for, `openvino-fp16`, both verified, and open it.

    With `embedding` the graphs also give what their linear layer sees.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder / "model.onnx", size=size, width=width, layers=layers, embedding=embedding)
    golden = some_images(12, size)
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    widths = {"logits": len(CLASSES), **({"embedding": width} if embedding else {})}
    outputs = dict(zip(widths, session.run(list(widths), {"images": golden}), strict=True))
    np.savez(folder / "golden.npz", images=golden, **outputs)
    parity = Parity(samples=12, agreement=1.0, max_abs_diff=0.0, sqnr_db=None)
    common = {
        "executed": True,
        "status": "verified",
        "parity": parity,
        "accuracy": Accuracy(top1=0.9, top5=None, samples=100),
    }
    variants = [
        Variant(
            id="onnx-fp32",
            runtime="onnxruntime",
            precision="fp32",
            files=[BundleFile.of(folder, "model.onnx")],
            **common,
        )
    ]
    if openvino:
        write_openvino(folder / "model.xml", folder / "model.onnx")
        files = [BundleFile.of(folder, "model.xml"), BundleFile.of(folder, "model.bin")]
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        variants.append(
            Variant(id="openvino-fp16", runtime="openvino", precision="fp16", files=files, settings=settings, **common)
        )
    manifest = Manifest(
        name="tiny",
        created="2026-01-01T00:00:00+00:00",
        edgekit="0.1.0",
        classes=CLASSES,
        preprocessing=Preprocessing(image_size=size, resize_to=size + 2),
        input=Tensor(name="images", dtype="uint8", layout="NHWC", shape=[None, size, size, 3]),
        outputs=[Tensor(name=name, dtype="float32", layout="NC", shape=[None, n]) for name, n in widths.items()],
        golden=BundleFile.of(folder, "golden.npz"),
        variants=variants,
        provenance={},
    )
    write_manifest(folder, manifest)
    return Bundle.open(folder)
