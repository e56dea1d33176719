"""examples/cpp: compiled as docs/phones.md says, and held against edgekit itself and against Pillow."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import edgekit
from edgekit.bundle import Bundle, BundleFile
from edgekit.preprocess import Preprocessing
from tests.helpers import exported
from tests.helpers.packages import version_of

ROOT = Path(__file__).resolve().parents[1]
Pixels = Callable[[np.ndarray, str, int], tuple[int, np.ndarray]]
INTERFACE = ["pixels_c.cc", "pixels.cc", "bundle.cc", "json.cc", "files.cc"]
STRICT = "g++ -Wall -Wextra -Werror"


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory,
    require_tool: Callable[[str, str], str],
    require_header: Callable[[str, str], None],
) -> Path:
    require_tool("g++", "compiles the sample")
    require_header("zlib.h", "unpacks golden.npz")
    return Path(shutil.copytree(ROOT / "examples" / "cpp", tmp_path_factory.mktemp("cpp") / "cpp"))


@pytest.fixture(scope="module")
def program(sources: Path) -> Path:
    """The sample, compiled by the commands of the documentation."""
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "phones.md").read_text(), re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CXX": STRICT}
    done = subprocess.run(
        ["bash", "-euc", block], cwd=sources, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sources / "prove"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported.export(
        tmp_path_factory.mktemp("phones") / "bundle", targets=["onnx", "litert"], precisions=["fp32", "int8"], max_drop=2.0,
        embedding=True,
    )  # fmt: skip


def needs_interface(variant: str) -> None:
    """Skip what is of LiteRT where the installed one is older than the interface that `abi/` declares."""
    if variant.startswith("litert") and version_of("ai-edge-litert") < (2, 3):
        pytest.skip("the C interface of this ai-edge-litert is another one")


def prove(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def changed(bundle: Bundle, folder: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
    """A copy of a bundle whose manifest or files were changed."""
    copy = Path(shutil.copytree(bundle.path, folder / "changed"))
    manifest = json.loads((copy / "bundle.json").read_text())
    change(manifest, copy)
    (copy / "bundle.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8", "litert-fp32", "litert-int8"])
def test_every_variant_is_proved(program: Path, bundle: Bundle, variant: str) -> None:
    needs_interface(variant)
    done = prove(program, bundle.path, variant)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{variant} (verified)\n")
    assert done.stdout.endswith("  passed\n")
    found = re.search(r"decisions: (\d+) of (\d+)", done.stdout)
    assert found is not None
    assert int(found[2]) == len(bundle.golden()[0])
    differences = {name: float(value) for name, value in re.findall(r"  (\w+): largest difference (\S+)", done.stdout)}
    assert set(differences) == {"logits", "embedding"}
    largest = float(np.abs(bundle.golden()[1]).max())
    if variant.endswith("fp32"):
        assert found[1] == found[2]
        assert differences["logits"] <= 1e-3 * largest
    else:
        assert 0 < differences["logits"] < 0.2 * largest


@pytest.mark.parametrize("variant", ["onnx-fp32", "litert-fp32"])
def test_a_changed_model_file_fails(program: Path, bundle: Bundle, tmp_path: Path, variant: str) -> None:
    name = bundle.variant(variant).files[0].path

    def change(_: dict[str, Any], folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    done = prove(program, changed(bundle, tmp_path, change), variant)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"prove: {name}: changed since the export")


@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_another_model_fails(program: Path, bundle: Bundle, tmp_path: Path, target: str) -> None:
    needs_interface(target)
    other = json.loads(BundleFile.of(bundle.path, bundle.variant(f"{target}-int8").files[0].path).model_dump_json())

    def change(manifest: dict[str, Any], _: Path) -> None:
        for variant in manifest["variants"]:
            if variant["id"] == f"{target}-fp32":
                variant["files"] = [other]

    done = prove(program, changed(bundle, tmp_path, change), f"{target}-fp32")
    assert done.returncode == 1
    assert "FAILED: logits: too different for fp32" in done.stdout
    assert "passed" not in done.stdout


@pytest.mark.parametrize(
    ("value", "said"), [(1.0, "FAILED: logits: too different"), (np.nan, "not finite"), (None, "not a NumPy archive")]
)
def test_wrong_golden_tensors_fail(
    program: Path, bundle: Bundle, tmp_path: Path, value: float | None, said: str
) -> None:
    def change(manifest: dict[str, Any], folder: Path) -> None:
        arrays = bundle.golden_outputs()
        path = folder / manifest["golden"]["path"]
        if value is None:
            path.write_bytes(path.read_bytes()[:-30])
        else:
            arrays["logits"][3, 1] += value
            np.savez(path, **arrays)  # type: ignore[arg-type]  # not compressed
        manifest["golden"] = json.loads(BundleFile.of(folder, path.name).model_dump_json())

    done = prove(program, changed(bundle, tmp_path, change), "onnx-fp32")
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


def test_wrong_calls_are_one_line(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "image.ppm").write_bytes(b"P6 3 3 255\nshort")

    def newer(manifest: dict[str, Any], _: Path) -> None:
        manifest["schema"] = 3

    for arguments, code, said in (
        ([], 2, "usage"),
        ([tmp_path, "onnx-fp32"], 2, "bundle.json: cannot be opened"),
        ([bundle.path, "onnx-fp23"], 2, "no variant onnx-fp23, only onnx-fp32"),
        ([bundle.path, "onnx-fp32", tmp_path / "image.ppm"], 2, "is cut"),
        ([changed(bundle, tmp_path, newer), "onnx-fp32"], 1, "newer schema"),
    ):
        done = prove(program, *arguments)
        assert done.returncode == code, done
        assert said in done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("prove: ")]) == 1


def test_an_image_has_the_class_that_edgekit_gives(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(3):
        pixels = random.integers(0, 256, (5 + i, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((90 + 7 * i, 61), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.ppm")
    paths = [tmp_path / f"{i}.ppm" for i in range(3)]
    done = prove(program, bundle.path, "onnx-fp32", *paths)
    assert done.returncode == 0
    with edgekit.load(bundle.path, variant="onnx-fp32") as model:
        for path, prediction in zip(paths, model.predict(paths, top=1), strict=True):
            name, probability = prediction.classes[0]
            found = re.search(rf"^{re.escape(str(path))}: (.*) (\S+)$", done.stdout, re.M)
            assert found is not None
            assert found[1] == name
            assert float(found[2]) == pytest.approx(probability, abs=1e-4)


@pytest.fixture(scope="module")
def to_pixels(sources: Path) -> Pixels:
    """The C++'s pixels of an image, through its interface for other languages: the side that it gives, and what it writes."""
    command = [
        *STRICT.split(),
        "-std=c++17",
        "-O2",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        *INTERFACE,
        "-o",
        "pixels.so",
        "-lz",
    ]
    subprocess.run(command, cwd=sources, check=True)
    function = ctypes.CDLL(str(sources / "pixels.so")).edgekit_pixels
    function.argtypes = [
        ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t,
    ]  # fmt: skip

    def call(image: np.ndarray, text: str, room: int) -> tuple[int, np.ndarray]:
        height, width, _ = image.shape
        out = np.zeros(room, np.uint8)
        pixels = np.ascontiguousarray(image)
        side = function(text.encode(), pixels.ctypes.data, width, height, out.ctypes.data, room)
        return side, out

    return call


SIDES = st.one_of(st.integers(1, 40), st.integers(1, 400))


@settings(max_examples=200)
@given(
    width=SIDES, height=SIDES, size=st.integers(4, 64), wide=st.none() | st.integers(4, 64), more=st.integers(0, 40),
    fit=st.sampled_from(["crop", "stretch", "border"]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos"]), geometry=st.sampled_from(["edgekit", "torchvision"]),
    smaller=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@example(
    width=4000,
    height=3,
    size=32,
    wide=None,
    more=4,
    fit="crop",
    interpolation="bicubic",
    geometry="edgekit",
    smaller=False,
    seed=1,
)
@example(
    width=64,
    height=64,
    size=64,
    wide=None,
    more=0,
    fit="crop",
    interpolation="bilinear",
    geometry="edgekit",
    smaller=False,
    seed=1,
)
@example(
    width=1,
    height=30_000,
    size=4,
    wide=9,
    more=3000,
    fit="crop",
    interpolation="bilinear",
    geometry="torchvision",
    smaller=False,
    seed=1,
)
def test_pixels_are_pillow_s_bit_for_bit(
    to_pixels: Pixels, width: int, height: int, size: int, wide: int | None, more: int, fit: Any,
    interpolation: Any, geometry: Any, smaller: bool, seed: int,
) -> None:  # fmt: skip
    if geometry == "edgekit" and fit == "border":
        fit = "crop"
    wanted = (size, size if wide is None else wide)
    resize_to = max(4, min(wanted) - more) if smaller and geometry == "torchvision" else min(wanted) + more
    how = Preprocessing(
        image_size=wanted, resize_to=resize_to, fit=fit, interpolation=interpolation, geometry=geometry,
        fill=(3, 200, 90) if geometry == "torchvision" else (0, 0, 0),
    )  # fmt: skip
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    if seed % 2:  # black and white alone: filters with negative parts leave the range of 8 bits
        image = np.where(image > 127, 255, 0).astype(np.uint8)
    room = 3 * wanted[0] * wanted[1]
    written, found = to_pixels(image, json.dumps({"preprocessing": how.model_dump(mode="json")}), room)
    assert written == room
    np.testing.assert_array_equal(found.reshape(*wanted, 3), how(Image.fromarray(image)))


def test_what_the_interface_cannot_use_gives_0(to_pixels: Pixels) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    right = {"image_size": 8, "resize_to": 8, "fit": "crop", "interpolation": "bilinear"}
    assert to_pixels(image, json.dumps({"preprocessing": right}), 192)[0] == 192
    assert to_pixels(image, json.dumps({"preprocessing": right}), 191)[0] == 0
    for change in (
        {"fit": "other"},
        {"interpolation": "box"},
        {"geometry": "other"},
        {"image_size": 0},
        {"image_size": [8]},
        {"image_size": [8, 0]},
        {"image_size": ["8", 8]},
        {"image_size": "8"},
        {"resize_to": "8"},
    ):
        assert to_pixels(image, json.dumps({"preprocessing": right | change}), 192)[0] == 0
    for text in ("", "{", '{"preprocessing": 3}', "[" * 200, '{"preprocessing": {"fit": "\\u12'):
        assert to_pixels(image, text, 192)[0] == 0
