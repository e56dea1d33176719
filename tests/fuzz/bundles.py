"""Bundles, as folders and as zips: opened, their golden tensors read, their models loaded and run."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit.bundle import MANIFEST, Bundle
from edgekit.preprocess import Preprocessing
from edgekit.runtimes.predictor import Predictor
from tests.helpers import hostile
from tests.helpers.tiny_bundle import make_bundle, some_images

from .judge import Broken, run_command
from .mutators import Draws, change_file, changed_bytes, changed_tree, copied, json_bytes

MEMORY = 1280 << 20  # golden tensors may unpack to 1 GiB (`foreign.MOST_ARRAYS`), and a runtime needs some for a graph
_KINDS = [np.uint8, np.float32, np.float64, np.float16, np.complex64, np.int64, "U3", "S1", "M8[s]", bool, ">f4", "V8"]


def make_corpus(folder: Path) -> None:
    """Bundles of both runtimes that are everywhere, with and without an embedding."""
    make_bundle(folder / "both")
    make_bundle(folder / "onnx", openvino=False)
    make_bundle(folder / "embedding", openvino=False, embedding=True)


class Target:
    """One bundle a case."""

    def __init__(self, corpus: Path, secret: Path) -> None:
        self._folders = sorted(path for path in corpus.iterdir() if path.is_dir())
        self._image = corpus / "image.png"
        self._secret = secret
        if not self._image.exists():
            from PIL import Image

            Image.fromarray(some_images(1)[0]).save(self._image)

    def run(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """Make a bundle; gives what opens it and classifies an image with it."""
        made = copied(draws.choice(self._folders), folder / "bundle")
        kind = draws.random()
        if kind < 0.35:
            _manifest(draws, made)
        elif kind < 0.55:
            _golden(draws, made)
        elif kind < 0.68:
            _model(draws, made)
        elif kind < 0.8:
            change_file(draws, draws.choice(sorted(made.iterdir())), self._secret)
        elif kind < 0.85:
            file = draws.choice(sorted(made.iterdir()))
            file.write_bytes(changed_bytes(draws, file.read_bytes()))
        else:
            made = _archive(draws, made, folder / draws.choice(("bundle.zip", "bundle.edgekit")))
        before, way = _state(made), draws.random()

        def act() -> None:
            try:
                if way < 0.1:
                    run_command("predict", made, self._image, *(["--json"] if way < 0.05 else []))
                elif way < 0.15:
                    run_command("compare", made, made)
                else:
                    _use(Bundle.open(made), self._image)
            finally:
                if _state(made) != before:
                    raise Broken("the bundle itself was changed")

        return act


def _use(bundle: Bundle, image: Path) -> None:
    golden = bundle.golden_outputs()
    if not all(np.isfinite(golden[output.name]).all() for output in bundle.manifest.outputs):
        raise Broken("golden tensors that are not finite were accepted")
    for variant in bundle.manifest.variants[:3]:
        predictor = Predictor(bundle, variant.id, threads=1)
        try:
            predictor.predict(image)
        finally:
            predictor.close()


def _state(path: Path) -> object:
    """What must be the same afterwards: names, sizes and times."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(str(file), (found := file.lstat()).st_size, found.st_mtime_ns) for file in files]


def _described(made: Path, change: dict[str, bytes]) -> None:
    """Write files, and their digests and sizes into the manifest: what somebody does who forges a bundle."""
    content = json.loads((made / MANIFEST).read_text())
    for name, data in change.items():
        (made / name).write_bytes(data)
        facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for file in [content["golden"], *(f for variant in content["variants"] for f in variant["files"])]:
            if file["path"] == name:
                file.update(facts)
    (made / MANIFEST).write_text(json.dumps(content))


def _manifest(draws: Draws, made: Path) -> None:
    content = json.loads((made / MANIFEST).read_text())
    if draws.random() < 0.2:  # the part that reaches PIL and NumPy
        content["preprocessing"] = changed_tree(
            draws, dict.fromkeys(Preprocessing.model_fields) | content["preprocessing"]
        )
    else:
        content = changed_tree(draws, content)
    (made / MANIFEST).write_bytes(json_bytes(draws, content))


def _golden(draws: Draws, made: Path) -> None:
    content = (made / "golden.npz").read_bytes()
    kind = draws.random()
    if kind < 0.3:
        content = changed_bytes(draws, content)
    elif kind < 0.6:
        with np.load(made / "golden.npz") as archive:
            arrays = dict(archive)
        name = draws.choice([*arrays, "more"])
        shape = draws.choice(
            [(), (0,), (12,), (12, 6), (12, 16, 16, 3), (1, 16, 16, 3), (12, 16, 16, 4), (0, 16, 16, 3), (12, 0)]
        )
        arrays[name] = np.zeros(shape, draws.choice(_KINDS))
        if draws.random() < 0.3 and name in arrays and arrays[name].dtype == np.float32 and arrays[name].size:
            arrays[name].flat[0] = draws.choice((np.nan, np.inf, -np.inf, 3e38))
        stream = io.BytesIO()
        draws.choice((np.savez, np.savez_compressed))(stream, **arrays)
        content = stream.getvalue()
    else:
        with zipfile.ZipFile(made / "golden.npz") as archive:
            members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
        name = draws.choice(sorted(members))
        members[name] = _npy(draws, members[name])
        content = hostile.npz(
            draws.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)), **members
        )
    _described(made, {"golden.npz": content})


def _npy(draws: Draws, content: bytes) -> bytes:
    """An array file of another header, or with changed bytes."""
    if draws.random() < 0.4:
        return changed_bytes(draws, content)
    shape = draws.choice(
        (
            "(12, 6)",
            "(70000000000000,)",
            "(1 << 40,)",
            "(-1,)",
            "()",
            "(12, 16, 16, 3)",
            "'x'",
            "(2**62, 8)",
            "[12]",
            "(True,)",
            "(1.5,)",
        )
    )
    kind = draws.choice(
        (
            "'|u1'",
            "'<f4'",
            "'|O'",
            "'<U99999999'",
            "[('a', '<f4')]",
            "'x'",
            "''",
            "[[]]",
            "('<f4', (2**30,))",
            "'<m8[99999s]'",
            "None",
        )
    )
    header = f"{{'descr': {kind}, 'fortran_order': {draws.choice(('False', 'True', '1', 'None'))}, 'shape': {shape}, }}"
    header = draws.choice(
        (
            header,
            header,
            header,
            header + "(" * 200,
            "__import__('os').abort()",
            "{" * 150,
            header[:-3],
            "{'descr': '<f4'}",
            "'" * 3000,
        )
    )
    return hostile.npy(header, draws.randbytes(draws.choice((0, 10, 288, 9216))))


def _model(draws: Draws, made: Path) -> None:
    name = draws.choice(sorted(path.name for path in made.iterdir() if path.suffix in {".onnx", ".xml", ".bin"}))
    content = (made / name).read_bytes()
    if name.endswith(".onnx") and draws.random() < 0.6:
        content = _graph(draws, onnx.load_from_string(content)).SerializeToString()
    else:
        content = changed_bytes(draws, content)
    _described(made, {name: content})


def _graph(draws: Draws, model: onnx.ModelProto) -> onnx.ModelProto:  # noqa: PLR0912 - one branch a change
    """A graph that is well-formed protobuf and means something else."""
    graph, huge = model.graph, draws.choice((0, 1, -1, 7, 2**31, 2**40, 2**62))
    change = draws.randrange(11)
    node, weights = draws.choice(graph.node), draws.choice(graph.initializer)
    if change == 0:
        node.op_type = draws.choice(
            ("Identity", "Loop", "If", "Reshape", "Expand", "Tile", "NoSuch", "", "ConstantOfShape", "Resize")
        )
    elif change == 1:
        del graph.node[draws.randrange(len(graph.node))]
    elif change == 2 and node.input:
        node.input[draws.randrange(len(node.input))] = draws.choice(
            ("", "images", "nothing", node.output[0], weights.name)
        )
    elif change == 3 and weights.dims:
        weights.dims[draws.randrange(len(weights.dims))] = huge
    elif change == 4:
        weights.data_type = draws.randrange(30)
    elif change == 5:
        weights.raw_data = changed_bytes(draws, weights.raw_data)
    elif change == 6:
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", draws.choice(("../../../outside/secret", "/etc/passwd", "golden.npz", "nothing"))),
            ("offset", str(huge)),
            ("length", "6"),
        ):
            if key == "location" or draws.random() < 0.5:
                weights.external_data.add(key=key, value=value)
    elif change == 7:
        shape = draws.choice((graph.input[0], graph.output[0])).type.tensor_type.shape
        if shape.dim:
            shape.dim[draws.randrange(len(shape.dim))].dim_value = huge
    elif change == 8:
        model.opset_import[0].version = draws.choice((0, -1, 5, 22, 2**40))
    elif change == 9:
        made = draws.choice([n for n in graph.node if n.attribute])
        attribute = draws.choice(made.attribute)
        for i in range(len(attribute.ints)):
            attribute.ints[i] = draws.choice((0, -1, 2, 10**6, 2**31, 2**62))
        attribute.i = huge
    else:
        graph.output[0].name = draws.choice(("logits", "images", "x0", "", "\x1b[2J"))
        graph.input[0].name = draws.choice(("images", "logits", "", "\nerror: x"))
    return model


def _archive(draws: Draws, made: Path, path: Path) -> Path:
    """A zip of the folder, damaged or forged."""
    method = draws.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    kind = draws.randrange(9)
    inner = draws.choice(("", "export/", "a/b/", "/", "./"))
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(made.iterdir()):
            data, name = file.read_bytes(), inner + file.name
            if kind == 0 and draws.random() < 0.4:
                name = draws.choice(
                    (
                        f"../{file.name}",
                        f"/tmp/{file.name}",
                        f"..\\{file.name}",
                        f"{inner}{file.name}\x00.txt",
                        f"C:{file.name}",
                        "",
                        "a" * 5000,
                    )
                )
            if kind == 1 and draws.random() < 0.4:
                data = draws.choice((b"", changed_bytes(draws, data), bytes(draws.choice((1 << 20, 1 << 26)))))
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            if kind == 2 and draws.random() < 0.5:
                entry.external_attr = draws.choice((0o120777, 0o010666, 0o040755, 0)) << 16  # a link, a pipe, a folder
                data = draws.choice((data, b"../../outside/secret"))
            for _ in range(2 if kind == 3 and draws.random() < 0.5 else 1):
                archive.writestr(entry, data)
        if kind == 4:
            for i in range(draws.choice((10, 5000))):
                archive.writestr(f"{inner}more{i}", b"")
    content = path.read_bytes()
    if kind == 5:
        content = _claiming(draws, content)
    elif kind >= 6:
        content = changed_bytes(draws, content)
    path.write_bytes(content)
    shutil.rmtree(made)
    return path


def _claiming(draws: Draws, content: bytes) -> bytes:
    """The directory of an archive says other sizes, methods, flags or offsets of a member than its data has."""
    places = []
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        places.append(at)
        at = content.find(b"PK\x01\x02", at + 4)
    at = draws.choice(places)
    offset, form = draws.choice(
        ((8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H"), (42, "<I"))
    )
    value: Any = draws.choice((0, 1, 8, 99, 0xFFFE, 0xFFFF, 1 << 20, (1 << 31) - 1, 0xFFFFFFFF)) % (
        1 << 8 * struct.calcsize(form)
    )
    changed = bytearray(content)
    struct.pack_into(form, changed, at + offset, value)
    return bytes(changed)
