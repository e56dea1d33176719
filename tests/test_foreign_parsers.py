"""Bytes that somebody else may have written are parsed in one place a format, which turns whatever the parser raises into one error."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "edgekit"

# Calls that parse bytes, by the last words of what is called, and where each may stand: (file, function), any function where it is None.
PARSERS: dict[str, set[tuple[str, str | None]]] = {
    "json.load": set(),
    "json.loads": {("foreign.py", "parse_json")},
    "JSONDecoder": set(),
    "model_validate_json": {("result/whole.py", "parse")},  # pydantic's own parser, ten times as fast as Python's for a million samples
    "yaml.load": set(),
    "yaml.safe_load": set(),
    "yaml.load_all": set(),
    "yaml.safe_load_all": set(),
    "yaml.compose": {
        ("recipe/plain_yaml.py", "read_yaml"),
        ("search/recipe_text.py", "_with_value"),  # a recipe that read_yaml has read
    },
    "yaml.parse": {("recipe/plain_yaml.py", "_bounded")},
    "zipfile.ZipFile": {
        ("foreign.py", "parse_npz"),
        ("archive.py", "_opened"),
        ("models/foreign_files.py", "recognized_in"),
        ("models/weight_files.py", "read_checkpoint"),
        ("bench/remote/wheel.py", None),
        ("export/pack.py", "zipped"),  # writes one
        ("gallery/file.py", "write"),  # writes one
        ("gallery/file.py", "_parsed"),  # maps what may be large; under `understood`
    },
    "shutil.unpack_archive": set(),
    "tarfile.open": {("data/tar_index.py", "_members")},
    "TarFile": set(),
    "np.load": {
        ("foreign.py", "parse_npz"),
        ("data/cache.py", "load_images"),  # the user's own cache, mapped
        ("export/jobs.py", None),  # of a process by its parent, in a folder of their own
        ("train/pretrain/teacher_features.py", None),  # of the run itself, mapped
    },
    "np.fromfile": set(),
    "np.loadtxt": set(),
    "np.genfromtxt": set(),
    "np.memmap": {("gallery/file.py", "_mapped")},
    "torch.load": {("models/weight_files.py", "_torch")},
    "torch.jit.load": set(),
    "torch.export.load": set(),
    "pickle.load": set(),
    "pickle.loads": {("export/jobs.py", None)},  # of a process by its parent, in a folder of their own
    "Unpickler": set(),
    "marshal.loads": set(),
    "onnx.load": set(),
    "onnx.load_model": set(),
    "load_model_from_string": {("onnx_graph/files.py", "parse_onnx")},
    "load_external_data_for_model": {("onnx_graph/files.py", "read_external")},
    "ParseFromString": {("quantize/correct.py", "correct")},  # a tensor of this process
    "safetensors.torch.load": set(),
    "load_file": {("models/weight_files.py", "_safetensors")},
    "safe_open": set(),
    "Image.open": {("image_files.py", None), ("report/page.py", "_embedded")},
    "ParquetFile": {("data/tables.py", "_opened")},
    "read_table": set(),
    "csv.reader": set(),
    "csv.DictReader": {("foreign.py", "read_csv")},
    "ElementTree.parse": set(),
    "ElementTree.fromstring": set(),
    "tomllib.load": set(),
    "tomllib.loads": set(),
    "configparser.ConfigParser": set(),
    "EventAccumulator": set(),
    "InferenceSession": {
        ("runtimes/onnxruntime.py", "_open"),
        # Graphs that this process has just made itself.
        ("onnx_graph/simplify.py", None),
        ("export/half.py", None),
        ("export/litert/facts.py", None),
        ("onnx_graph/resizing.py", None),
        ("quantize/ranges.py", None),
        ("export/importers/onnx_reference.py", None),
        ("export/importers/rewire.py", None),
    },
    "read_model": {("runtimes/openvino.py", "_read"), ("export/openvino.py", None)},  # the latter: made by this process
    "deserialize_cuda_engine": {("runtimes/tensorrt/engine.py", "load"), ("runtimes/tensorrt/builder.py", "_layers")},
}  # fmt: skip
# Messages of edgekit's own processes to each other, which are read by a parser of their own: to be taken out of this list where that ends.
# The program on a device (`on_device.py`) stays: it runs by itself, without the package.
OWN_PROCESSES = {
    "bench/worker.py", "bench/remote/on_device.py", "bench/remote/wheel.py", "export/jobs.py", "runtimes/tensorrt/launch.py",
    "api/processes.py",
}  # fmt: skip


def calls(source: str) -> Iterator[tuple[str, str | None, int]]:
    """What is called in a text of Python, as it is written and with names imported by `from`, in which function, and on which line."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    } | {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname
    }

    waiting: list[tuple[ast.AST, str | None]] = [(tree, None)]
    while waiting:
        node, function = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            words: list[str] = []
            called = node.func
            while isinstance(called, ast.Attribute):
                words.insert(0, called.attr)
                called = called.value
            first = imported.get(called.id, called.id) if isinstance(called, ast.Name) else "?"
            yield ".".join([first, *words]), function, node.lineno
        waiting += [(child, function) for child in ast.iter_child_nodes(node)]


def parsers_in(source: str) -> Iterator[tuple[str, str | None, int]]:
    """Those of the calls that parse bytes, by their key in `PARSERS`."""
    for name, function, line in calls(source):
        words = name.replace("numpy.", "np.").split(".")
        for count in (1, 2, 3):
            if (key := ".".join(words[-count:])) in PARSERS:
                yield key, function, line


def test_foreign_bytes_are_parsed_in_one_place_a_format() -> None:
    elsewhere, used = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for parser, function, line in parsers_in(path.read_text(encoding="utf-8")):
            allowed = PARSERS[parser] & {(file, function), (file, None)}
            used |= {(parser, place) for place in allowed}
            if not allowed and not (
                file in OWN_PROCESSES and parser.startswith(("json.", "model_validate_json", "zipfile."))
            ):
                elsewhere.append(f"{file}:{line}: {parser} in {function or 'the module'}")
    assert not elsewhere, (
        "parse these with the function of edgekit.foreign (or of the format's own module):\n" + "\n".join(elsewhere)
    )
    unused = {
        (parser, place) for parser, places in PARSERS.items() for place in places if place[0] not in OWN_PROCESSES
    } - used
    assert not unused, "these places parse nothing any more: take them out of the list"


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads(text)",
        "from json import loads\nloads(text)",
        "import numpy\nnumpy.load(path)",
        "import numpy as np\nwith np.load(path) as arrays: ...",
        "from zipfile import ZipFile as Archive\nArchive(path)",
        "import onnx as o\no.load(path)",
        "import pyarrow.parquet as pq\npq.ParquetFile(path)",
        "from PIL import Image\nImage.open(path)",
        "Result.model_validate_json(text)",
        "def f():\n    return torch.load(path)",
    ],
)
def test_a_parser_is_found_however_it_is_imported(source: str) -> None:
    assert list(parsers_in(source))
