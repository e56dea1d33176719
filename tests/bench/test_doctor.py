"""`edgekit doctor`: on device trees, on this machine, and with a bundle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench.doctor import DoctorAdvice, Findings, advice, as_json, examine, hardware, sensors
from edgekit.bench.doctor.jetson import JetPack, jetpack
from edgekit.bench.doctor.software import system_tensorrt
from edgekit.bundle import MANIFEST, Bundle, BundleFile, write_manifest
from edgekit.errors import BundleError, EdgekitError
from edgekit.runtimes.isolation import run_in_subprocess
from tests.helpers.devices import JETSON, PI, TREES, X86, device, plant
from tests.helpers.tiny_bundle import make_bundle


def look(root: Path) -> tuple[Findings, dict[str, DoctorAdvice]]:
    found = examine(root, ask=False, seconds=0.02)
    json.dumps(as_json(found))
    return found, {piece.about: piece for piece in advice(found)}


def test_a_jetson() -> None:
    found, pieces = look(TREES / JETSON)
    assert found.processors.name.startswith("NVIDIA Jetson Orin Nano")
    assert (found.processors.architecture, found.processors.logical) == ("aarch64", 6)
    assert found.processors.isa == ["asimddp", "asimdhp"]
    assert found.jetpack == JetPack("36.4.3", "6.2")
    assert (found.gpus[0].name, found.gpus[0].compute_capability) == ("Orin, Ampere (integrated)", "8.7")
    assert pieces["power mode"].do == "sudo nvpmodel -m 2 && sudo jetson_clocks"
    assert "15W, 25W, MAXN_SUPER" in pieces["power mode"].says, "and not the mode in a comment"
    assert "INT8" not in pieces
    said = {name: value for name, value, _ in sensors(found)}
    assert said["energy"] == "INA3221 VDD_IN"
    assert said["power mode"] == "25W"


def test_a_jetson_in_its_fastest_mode_whose_clocks_are_free(tmp_path: Path) -> None:
    root = device(JETSON, tmp_path)
    plant(root, {"var/lib/nvpmodel/status": "pmode:0002", "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": ""})
    assert system_tensorrt(root) == "10.3.0"
    _, pieces = look(root)
    assert "power mode" not in pieces
    assert pieces["clocks"].do == "sudo jetson_clocks"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", JetPack("35.4.1", "5.1.2")),
        ("# R36 (release), REVISION: 9.9, GCID: 1", JetPack("36.9.9", "6.x")),
        ("# R99 (release), REVISION: 0.1", JetPack("99.0.1", None)),
        ("something else", None),
    ],
)
def test_jetpack_of_a_release(tmp_path: Path, line: str, expected: JetPack | None) -> None:
    plant(tmp_path, {"etc/nv_tegra_release": line})
    assert jetpack(tmp_path) == expected


def test_a_raspberry_pi_with_a_weak_power_supply(tmp_path: Path) -> None:
    root = device(PI, tmp_path)
    plant(root, {"usr/bin/vcgencmd.get_throttled": "throttled=0x50000"})
    found, pieces = look(root)
    assert found.processors.name == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.processors.isa == ["asimddp", "asimdhp"]
    assert found.gpus == []
    assert pieces["throttled"].says == "since the machine started: under-voltage, throttled"
    assert pieces["governor"].says.startswith("ondemand")
    plant(root, {"usr/bin/vcgencmd.get_throttled": "throttled=0x50005"})
    assert look(root)[1]["throttled"].says == "now: under-voltage, throttled"


def test_a_hybrid_pc_in_a_container() -> None:
    found, pieces = look(TREES / X86)
    assert (found.processors.logical, found.processors.cores, found.processors.quota) == (8, 6, 4.0)
    assert found.processors.kinds == {"performance": [0, 1, 2, 3], "efficiency": [4, 5, 6, 7]}
    assert pieces["mixed cores"].do == "taskset -c 0-3 edgekit bench BUNDLE"
    assert pieces["processor limit"].do == "--threads 4"
    assert "INT8" not in pieces, "AVX-VNNI"


def test_what_is_wrong_with_a_pc(tmp_path: Path) -> None:
    root = device(X86, tmp_path)
    cpuinfo = (root / "proc/cpuinfo").read_text().replace("avx_vnni", "hypervisor")
    group = "sys/fs/cgroup/user.slice/job"
    plant(root, {"proc/cpuinfo": cpuinfo, "proc/self/cgroup": "0::/user.slice/job", f"{group}/cpu.max": "50000 100000"})
    plant(
        root,
        {f"{group}/memory.max": 2**31, "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t RTX A2000"},
    )
    plant(root, {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22"})
    found, pieces = look(root)
    assert "saturate" in pieces["INT8"].says
    assert found.processors.quota == 0.5
    assert pieces["processor limit"].do == "--threads 1"
    assert found.memory.limit == 2**31
    assert found.gpus == [hardware.Gpu("RTX A2000", driver="550.54.14")]
    assert found.processors.virtual
    assert "virtual machine" in pieces


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found, _ = look(tmp_path)
    without = [replace(runtime, version=None, missing="not installed") for runtime in found.runtimes]
    assert advice(replace(found, runtimes=without))[0].do == "install edgekit's wheel with the extra [ort]"
    assert (found.processors.logical, found.processors.quota, found.memory.total) == (None, None, None)
    assert (found.gpus, found.jetpack) == ([], None)
    assert [value for _, value, _ in sensors(found)] == [None] * 6
    assert all(why for _, _, why in sensors(found))


@pytest.mark.parametrize("content", ["", "garbage", "-1", "9" * 400, "nan", "a:b:c\n:::", "0x", "\0"])
@pytest.mark.parametrize("name", [JETSON, PI, X86])
def test_files_that_hold_nonsense_harm_nothing(tmp_path: Path, name: str, content: str) -> None:
    root = device(name, tmp_path)
    some = [
        path for i, path in enumerate(sorted(root.rglob("*"))) if path.is_file() and (path.name[0] in "mpec" or i % 2)
    ]
    for path in [*some, root / "proc/self/cgroup"]:
        path.write_text(content)
    found, _ = look(root)
    assert all(value or why for _, value, why in sensors(found))
    for value in (found.sensors.clock_mhz, found.sensors.temperature_c, found.processors.quota, found.memory.total):
        assert value is None or math.isfinite(value)


def test_lists_of_processors_as_the_kernel_writes_them() -> None:
    assert hardware.numbers_of("0-3,8\n") == [0, 1, 2, 3, 8]
    assert hardware.as_list([8, 0, 1, 3, 2]) == "0-3,8"
    assert hardware.numbers_of("") == []
    assert hardware.as_list([]) == ""


def test_what_dies_in_a_process_of_its_own_is_one_line() -> None:
    assert run_in_subprocess(os.path.basename, "a/b") == "b"
    with pytest.raises(EdgekitError, match=r"died \(SIGABRT\)"):
        run_in_subprocess(os.abort)
    with pytest.raises(EdgekitError, match="IndexError"):
        run_in_subprocess(list.pop, [])
    with pytest.raises(BundleError, match="no such bundle") as error:
        run_in_subprocess(Bundle.open, "/nowhere/to/be/found")
    assert error.value.hint


def test_this_machine(edgekit: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = edgekit("doctor", "--json")
    assert code == 0, err
    found = json.loads(out)
    runtimes = {runtime["name"]: runtime for runtime in found["runtimes"]}
    assert "CPU" in runtimes["onnxruntime"]["devices"]
    assert runtimes["openvino"]["devices"][0].startswith("CPU (")
    assert found["processors"]["usable"] == sorted(os.sched_getaffinity(0))
    assert all(sensor["value"] or sensor["why_not"] for sensor in found["sensors"].values())


def test_the_page_for_people(edgekit: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.bench import doctor

    monkeypatch.setattr(doctor, "examine", lambda advance: examine(TREES / X86, ask=False, seconds=0.02))
    code, out, _ = edgekit("doctor")
    assert code == 0
    for part in (
        "12th Gen Intel",
        "performance",
        "avx_vnni",
        "RAPL package-0",
        "n/a: no devfreq device",
        "→ taskset -c 0-3",
    ):
        assert part in out
    assert edgekit("doctor", "--variant", "x")[0] == 2


def test_a_bundle_is_proved_or_the_exit_code_is_1(edgekit: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "export")
    first, second = bundle.manifest.variants
    absent = first.model_copy(update={"id": "trt-fp16", "runtime": "tensorrt", "status": "unexecuted"})
    manifest = bundle.manifest.model_copy(update={"variants": [first, second, absent]})
    write_manifest(bundle.path, manifest)
    code, out, _ = edgekit("doctor", bundle.path, "--json")
    assert code == 0
    variants = {v["variant"]: v for v in json.loads(out)["variants"]}
    assert [v["outcome"] for v in variants.values()] == ["proved", "proved", "left out"]
    assert variants["onnx-fp32"]["agreement"] == 1
    assert "tensorrt" in variants["trt-fp16"]["reason"]

    images, logits = bundle.golden()
    np.savez(bundle.path / "golden.npz", images=images, logits=-logits)
    rejected = second.model_copy(update={"status": "rejected"})
    golden = BundleFile.of(bundle.path, "golden.npz")
    write_manifest(bundle.path, manifest.model_copy(update={"golden": golden, "variants": [first, rejected]}))
    code, out, err = edgekit("doctor", bundle.path)
    assert code == 1
    assert "onnx-fp32: its outputs differ from the trained model's" in out
    assert out.count("failed") == 2
    assert err.startswith("error: onnx-fp32: passed verification at export but fails it on this machine"), (
        "the rejected one was not promised"
    )
    assert edgekit("doctor", bundle.path, "--variant", "openvino-fp16")[0] == 0
    (bundle.path / MANIFEST).write_text("{}")
    assert edgekit("doctor", bundle.path)[0] == 2


def test_the_embedding_is_proved_beside_the_logits(
    edgekit: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "export", embedding=True)
    parity = bundle.variant("onnx-fp32").parity
    assert parity is not None
    update = {"id": "onnx-int8", "precision": "int8", "parity": parity.model_copy(update={"embedding_cosine": 1.0})}
    variants = [*bundle.manifest.variants, bundle.variant("onnx-fp32").model_copy(update=update)]
    manifest = bundle.manifest.model_copy(update={"variants": variants})
    write_manifest(bundle.path, manifest)
    code, out, _ = edgekit("doctor", bundle.path, "--json")
    assert code == 0
    for row in json.loads(out)["variants"]:
        assert (row["outcome"], row["reason"]) == ("proved", "")
        assert row["embedding_cosine"] > 0.999
        assert row["embedding_max_abs_diff"] < 0.01

    # Other embeddings beside the same logits: no float variant may differ, INT8 may a little in direction, and says so.
    golden = bundle.golden_outputs()
    embedding = golden["embedding"]
    turned = embedding.copy()
    turned[0, embedding[0].argmax()] = 0
    for other, proved in ((turned, ["onnx-int8"]), (-embedding, [])):
        np.savez(bundle.path / "golden.npz", **{**golden, "embedding": other})
        write_manifest(bundle.path, manifest.model_copy(update={"golden": BundleFile.of(bundle.path, "golden.npz")}))
        code, out, _ = edgekit("doctor", bundle.path)
        assert code == 1
        assert [line.split()[0] for line in out.splitlines() if " proved " in line] == proved
        assert (
            "onnx-fp32: its outputs differ from the trained model's on this machine: the golden embedding differs by"
            in out
        )
        assert ("onnx-int8: its embedding's cosine with the trained one is" in out) == bool(proved)
