"""The table of targets; and a target that a package of its own adds, used by every command without a change to edgekit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit import targets
from edgekit.bench.doctor.software import clashing
from edgekit.bench.remote.device import _installs
from edgekit.bench.remote.replies import ProbeReply
from edgekit.bundle import Bundle, write_manifest
from edgekit.errors import EdgekitError, ExportError, RuntimeMissing
from edgekit.recipe import dump, parse
from edgekit.report import charts
from edgekit.runtimes import _open, load, onnxruntime, why_not
from tests.helpers.packages import installing, write_package
from tests.helpers.tiny_bundle import make_bundle

Command = Callable[..., tuple[int, str, str]]
ADDED = Path(__file__).parent / "added_target"
CLASSES, SIZE = ("ash", "elm", "oak"), 8
NETWORK = f"""
import torch

def linear():
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(3 * {SIZE} * {SIZE}, {len(CLASSES)})
    for values in (head.weight.data, head.bias.data):
        values.copy_(torch.randn(values.shape, generator=generator))
    return torch.nn.Sequential(torch.nn.Flatten(), head)

def bent():
    return torch.nn.Sequential(linear(), torch.nn.ReLU(), torch.nn.Linear({len(CLASSES)}, {len(CLASSES)}))
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install packages for this process and those that it starts."""
    yield from installing(monkeypatch, targets.added_targets.cache_clear)


def package(folder: Path, code: str, entry: str) -> Path:
    """A folder that holds an installed package of one module and one entry point."""
    code = f"from edgekit.targets import ONNXRUNTIME, Runtime, Target\n{code}"
    return write_package(folder, code, "edgekit.targets", entry, distribution="theirs")


def images(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


@dataclass(frozen=True)
class Exported:
    """A run that was exported for `npz` and `onnx`; `arguments` of the command, and what it printed."""

    run: Path
    test: Path
    networks: Path
    arguments: list[str]
    variants: list[dict[str, Any]]

    @property
    def bundle(self) -> Path:
        return self.run / "export"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("npz")
    test, run, networks = images(folder / "test", 6), folder / "run", folder / "networks"
    networks.mkdir()
    (networks / "npz_networks.py").write_text(NETWORK)
    run.mkdir()
    (run / "recipe.yaml").write_text(dump(parse({"name": "trees", "data": {"image_size": SIZE}})))
    pixels = ["--size", SIZE, "--mean", 0, "--std", 1]
    about = ["--calibrate", test, "--evaluate", test, *pixels, "--precision", "fp32", "--output", run / "export"]
    asked = ["--target", "npz", "--target", "onnx", "--jobs", 1]
    arguments = ["export", "npz_networks:linear", *map(str, [*about, *asked])]
    path = os.pathsep.join([str(ADDED), str(networks), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "from edgekit.cli.main import main; main()", *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Exported(run, test, networks, arguments, json.loads(done.stdout)["variants"])


def test_a_target_of_another_package_is_listed(installed: Callable[..., None], edgekit: Command) -> None:
    installed(ADDED)
    _, out, _ = edgekit("export", "--list", "--json")
    assert [row for row in json.loads(out) if row["target"] == "npz"] == [
        {
            "target": "npz", "precision": "fp32", "default": True, "runtime": "numpy",
            "made": "weights and bias as a NumPy archive", "not_built": "", "not_run": "",
        }
    ]  # fmt: skip
    assert "trt-rtx|litert|micro|executorch|npz|all" in "".join(edgekit("export", "--help")[1].split())


def test_a_target_of_another_package_is_exported_and_verified(exported: Exported) -> None:
    onnx, npz = exported.variants
    assert [onnx["id"], npz["id"]] == ["onnx-fp32", "npz-fp32"]  # edgekit's own come first
    assert npz["runtime"] == "numpy"
    assert npz["executed"]
    assert npz["status"] == "verified"
    assert npz["agreement"] == npz["parity"]["agreement"] == 1
    assert npz["parity"]["batches"], "no two batch sizes were compared"


def test_a_variant_of_another_package_is_not_made_again_without_need(
    exported: Exported, installed: Callable[..., None], edgekit: Command
) -> None:
    installed(ADDED, exported.networks)
    file = exported.bundle / "model.npz"
    before = file.stat()
    code, _, err = edgekit(*exported.arguments)
    assert code == 0, err
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_a_maker_of_another_package_refuses_is_one_line(
    exported: Exported, installed: Callable[..., None], edgekit: Command, tmp_path: Path
) -> None:
    installed(ADDED, exported.networks)
    arguments = [argument.replace(":linear", ":bent") for argument in exported.arguments]
    arguments[arguments.index("--output") + 1] = str(tmp_path / "export")
    code, _, err = edgekit(*arguments)
    assert code == 2
    assert err.splitlines()[-1] == "error: npz: the network is not linear (leave --target npz out)"
    assert not (tmp_path / "export").exists()


def test_doctor_proves_a_variant_of_another_package(
    exported: Exported, installed: Callable[..., None], edgekit: Command
) -> None:
    installed(ADDED)
    code, out, err = edgekit("doctor", "--json")
    assert code == 0, err
    runtime = next(runtime for runtime in json.loads(out)["runtimes"] if runtime["name"] == "numpy")
    assert runtime == {"name": "numpy", "version": np.__version__, "devices": ["CPU"], "missing": "", "fails": ""}
    code, out, err = edgekit("doctor", exported.bundle, "--json")
    assert code == 0, err
    outcomes = {variant["variant"]: variant["outcome"] for variant in json.loads(out)["variants"]}
    assert outcomes == {"onnx-fp32": "proved", "npz-fp32": "proved"}


def test_bench_and_report_know_a_target_of_another_package(
    exported: Exported, installed: Callable[..., None], edgekit: Command
) -> None:
    installed(ADDED)
    code, out, err = edgekit("bench", exported.bundle, "--quick", "--seconds", 0.05, "--json")
    assert code == 0, err
    assert {row["variant"] for row in json.loads(out)["results"]} == {"onnx-fp32", "npz-fp32"}
    assert (exported.run / "bench" / "npz-fp32-b1.json").is_file()
    code, _, err = edgekit("bench", exported.bundle, "--variant", "npz-fp32", "--provider", "gpu")
    assert code == 2
    assert "npz-fp32: numpy has no provider gpu" in err
    code, _, err = edgekit("report", exported.run)
    assert code == 0, err
    page = (exported.run / "report.html").read_text()
    assert "NumPy, FP32" in page
    assert "hexagon: NumPy" in page
    installed()  # without the package
    assert edgekit("report", exported.run)[0] == 0
    assert "hexagon: numpy" in (exported.run / "report.html").read_text()


def test_predict_runs_a_variant_of_another_package_and_the_others_without_it(
    exported: Exported, installed: Callable[..., None], edgekit: Command
) -> None:
    photo = next((exported.test / "oak").iterdir())
    installed(ADDED)
    answers = []
    for variant in ("onnx-fp32", "npz-fp32"):
        code, out, err = edgekit("predict", exported.bundle, photo, "--variant", variant, "--json")
        assert code == 0, err
        answers.append(json.loads(out))
    assert [answer["variant"] for answer in answers] == ["onnx-fp32", "npz-fp32"]
    names = [[found["class"] for found in answer["classes"]] for answer in answers]
    assert names[0] == names[1]

    installed()  # without the package: what is known runs, and what is not says what it lacks
    code, out, err = edgekit("predict", exported.bundle, photo, "--json")
    assert code == 0, err
    assert json.loads(out)["variant"] == "onnx-fp32"
    code, _, err = edgekit("predict", exported.bundle, photo, "--variant", "npz-fp32")
    assert code == 2
    assert "does not know the runtime numpy (update edgekit, or install the package that adds it)" in err
    code, out, err = edgekit("doctor", exported.bundle, "--json")
    assert code == 0, err
    assert {v["variant"]: v["outcome"] for v in json.loads(out)["variants"]}["npz-fp32"] == "left out"


def test_a_new_version_of_the_package_makes_its_variants_anew(tmp_path: Path, installed: Callable[..., None]) -> None:
    from edgekit.export.inputs import ExportOptions
    from edgekit.export.reuse import variant_key
    from edgekit.quantize.selection import CalibrationPool

    candidates = CalibrationPool.of_images(np.zeros((8, SIZE, SIZE, 3), np.uint8))
    keys = []
    for version in ("1.0", "1.1"):
        folder = tmp_path / version
        (folder / "npz_target-1.0.dist-info").mkdir(parents=True)
        for file in (ADDED / "npz_target-1.0.dist-info").iterdir():
            text = file.read_text().replace("Version: 1.0", f"Version: {version}")
            (folder / "npz_target-1.0.dist-info" / file.name).write_text(text)
        (folder / "npz_target").symlink_to(ADDED / "npz_target")
        installed(folder)
        keys.append([variant_key(id_, {}, candidates, ExportOptions()) for id_ in ("onnx-fp32", "npz-fp32")])
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise OSError('no such library')", "cannot be loaded: OSError: no such library"),
        ("", "cannot be loaded: AttributeError"),
        ("T = 'npz'", "is str, not edgekit.targets.Target"),
        ("T = Target('onnx', ONNXRUNTIME, ('fp32',), 'a:b', 'ONNX')", "another target has the name onnx"),
        (
            "T = Target('x', Runtime('onnxruntime', 'Mine', 'numpy', ('numpy',), 'a:b'), ('fp32',), 'a:b', 'ONNX')",
            "another runtime has the name onnxruntime",
        ),
        ("T = Target('x', ONNXRUNTIME, ('fp64',), 'a:b', 'ONNX')", "precisions ('fp64',): must be one or more of fp32, fp16"),
        ("T = Target('x', ONNXRUNTIME, ('fp32',), 'no path', 'ONNX')", "maker 'no path': does not match"),
    ],
)  # fmt: skip
def test_a_package_whose_target_cannot_be_used_is_named(
    code: str,
    said: str,
    tmp_path: Path,
    installed: Callable[..., None],
    edgekit: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(package(tmp_path, code, "T"))
    status, _, err = edgekit("export", "--list")
    assert status == 2
    assert said in err
    assert err.startswith("error: the package theirs 2.0, target theirs: ")
    assert err.endswith("(update that package, or uninstall it)\n")
    # What has nothing to do with it still works.
    bundle = make_bundle(tmp_path / "bundle", openvino=False)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (20, 20), "red").save(photo)
    assert edgekit("predict", bundle.path, photo)[0] == 0


def test_a_path_of_a_package_that_leads_nowhere_is_one_line(tmp_path: Path, installed: Callable[..., None]) -> None:
    from edgekit.export.make import make

    runtime = "Runtime('theirs', 'Theirs', 'json', ('numpy',), 'json:nothing', requires='json.nothing:no')"
    installed(package(tmp_path, f"T = Target('theirs', {runtime}, ('fp32',), 'nowhere.at_all:make', 'JSON')", "T"))
    with pytest.raises(ExportError, match=r"theirs: its maker nowhere\.at_all:make cannot be loaded: No module named"):
        make("theirs-fp32", None)  # type: ignore[arg-type]
    assert "theirs: json.nothing:no does not load" in str(why_not("theirs"))
    with pytest.raises(RuntimeMissing, match="theirs is installed but does not load: json has no nothing"):
        _open("theirs", tmp_path, 0, {})


def test_two_packages_that_add_the_same_target_are_refused(tmp_path: Path, installed: Callable[..., None]) -> None:
    code = "T = Target('theirs', ONNXRUNTIME, ('fp32',), 'a:b', 'ONNX')"
    installed(package(tmp_path / "a", code, "T"))
    assert list(targets.every())[-1] == "theirs"
    assert targets.find("theirs").runtime is targets.ONNXRUNTIME  # a target may share a runtime
    other = package(tmp_path / "b", code, "T")
    metadata_file = next(other.glob("*.dist-info")) / "METADATA"
    metadata_file.write_text(metadata_file.read_text().replace("theirs", "others"))
    installed(other, tmp_path / "a")
    with pytest.raises(EdgekitError, match="another target has the name theirs"):
        targets.every()


def test_an_unknown_target_is_refused_with_what_was_meant() -> None:
    with pytest.raises(ExportError, match=r"unknown target openvin \(did you mean openvino\?\)"):
        targets.find("openvin")
    with pytest.raises(ExportError, match="accepted: onnx, openvino, trt, trt-rtx"):
        targets.find("a")


def test_edgekits_own_targets_need_no_look_at_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(**_: object) -> None:
        raise AssertionError("entry points were read")

    monkeypatch.setattr(metadata, "entry_points", forbidden)
    targets.added_targets.cache_clear()
    for place, (name, target) in enumerate(targets.built_in().items()):
        assert targets.find(name) is target
        assert targets.find_runtime(target.runtime.name) is target.runtime
        assert targets.rank(target.runtime.name) == place


def test_the_table_costs_no_import() -> None:
    code = (
        "import sys; before = set(sys.modules); import edgekit.targets;"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before if sys.modules[name] is not None};"
        "print(sorted(loaded - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['edgekit']"


@pytest.mark.parametrize("target", targets.built_in().values(), ids=lambda target: target.name)
def test_every_path_of_the_table_leads_somewhere(
    target: targets.Target, require_module: Callable[[str, str], None]
) -> None:
    runtime = target.runtime
    for path in filter(None, (target.maker, target.set_batch, target.float_model)):
        assert callable(targets.resolve(path))
    for path in filter(None, (runtime.session, runtime.probe, runtime.requires)):
        assert callable(targets.resolve(path))
        assert path.startswith("edgekit.runtimes.")  # of the device side, which imports no torch


def test_the_table_is_consistent() -> None:
    every = targets.built_in()
    runtimes = [target.runtime for target in every.values()]
    assert len({runtime.marker for runtime in runtimes}) == len(runtimes)
    assert set(targets.DEFAULT_TARGETS) <= set(every)
    assert tuple(onnxruntime.PROVIDERS) == targets.ONNXRUNTIME.providers
    assert {runtime.extra for runtime in runtimes} <= set(metadata.metadata("edgekit-vision").get_all("Provides-Extra"))
    assert onnxruntime.SPINNING in targets.ONNXRUNTIME.checking


@pytest.mark.parametrize(
    ("architecture", "gpu", "installs"),
    [
        ("x86_64", True, ["ort", "openvino", "trt-rtx", "litert"]),
        ("x86_64", False, ["ort", "openvino", "litert"]),
        ("aarch64", True, ["ort", "openvino", "litert"]),  # a Jetson, whose TensorRT comes from JetPack
    ],
)
def test_pip_brings_a_device_the_runtimes_that_it_can_use(architecture: str, gpu: bool, installs: list[str]) -> None:
    about = ProbeReply(python="3.11", executable="/p", architecture=architecture, root="/r", missing=[], gpu=gpu)
    runtimes = [target.runtime for target in targets.built_in().values()]
    assert [runtime.extra for runtime in runtimes if _installs(runtime, about)] == installs
    assert targets.runtimes_of(["loadgen", "trt", "ort"]) == [targets.ONNXRUNTIME, targets.TENSORRT]
    assert targets.extras_of(["tensorrt", "onnxruntime", "tensorrt", "unknown"]) == ("trt", "ort")


def test_packages_that_overwrite_each_other_are_found(tmp_path: Path, installed: Callable[..., None]) -> None:
    for name in ("onnxruntime_gpu", "onnxruntime", "tensorrt_cu12", "tensorrt_cu13"):
        (tmp_path / f"{name}-9.0.dist-info").mkdir()
        metadata_file = tmp_path / f"{name}-9.0.dist-info" / "METADATA"
        metadata_file.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.0\n")
    installed(tmp_path)
    assert clashing()[:2] == ["onnxruntime", "onnxruntime-gpu"]
    assert not any("tensorrt" in name for name in clashing())  # those lie beside each other in peace


def test_every_marker_can_be_drawn() -> None:
    drawn = {charts._shape(marker, 10, 10) for marker in targets.MARKERS}
    assert len(drawn) == len(targets.MARKERS)


def test_a_bundle_with_a_runtime_that_is_unknown_keeps_its_other_variants(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", openvino=False)
    first = bundle.manifest.variants[0]
    later = first.model_copy(update={"id": "abacus-int8", "runtime": "abacus"})
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"variants": [first, later]}))
    opened = Bundle.open(bundle.path)
    assert load(opened, opened.variant("onnx-fp32")).runtime == "onnxruntime"
    with pytest.raises(RuntimeMissing, match="does not know the runtime abacus"):
        load(opened, opened.variant("abacus-int8"))
    assert str(why_not("abacus")).endswith("(update edgekit, or install the package that adds it)")


@pytest.mark.parametrize("runtime", ["", "A", "../x", "x" * 41, "a b"])
def test_what_is_no_name_of_a_runtime_is_refused(runtime: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", openvino=False)
    content = json.loads((bundle.path / "bundle.json").read_text())
    content["variants"][0]["runtime"] = runtime
    (bundle.path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(EdgekitError, match=r"variants\.0\.runtime"):
        Bundle.open(bundle.path)
