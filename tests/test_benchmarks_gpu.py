"""The GPU kit on a machine without a GPU: what is carried arrives whole, time is kept, and the parts run on the CPU."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.patience import until

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"
sys.path.insert(0, str(GPU))

import carry  # noqa: E402
import kit  # noqa: E402
import pictures  # noqa: E402
import record  # noqa: E402


def run_kit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(GPU / "kit.py"), *arguments], capture_output=True, text=True, check=False
    )


def options(folder: Path, seconds: float = 60.0, rehearse: bool = True) -> record.Options:
    return record.Options(folder, folder / "carried", time.time() + seconds, rehearse)


def tree(folder: Path, count: int) -> Path:
    """`count` random images a class in two classes, and one for the test."""
    random = np.random.default_rng(0)
    for split, each in (("train", count), ("test", 1)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                    folder / split / name / f"{i:03}.png"
                )
    return folder


def pixels(folder: Path) -> dict[str, list[bytes]]:
    return {
        f"{split}/{name}": [np.asarray(Image.open(path)).tobytes() for path in sorted((folder / split / name).iterdir(), key=lambda p: int(p.stem))]
        for split in ("train", "test")
        for name in ("cat", "dog")
    }  # fmt: skip


def test_pictures_arrive_bit_for_bit(tmp_path: Path) -> None:
    """57 of a class: the last row of a mosaic is not full."""
    source = tree(tmp_path / "source", 57)
    pictures.pack(source, tmp_path / "packed")
    pictures.unpack(tmp_path / "packed", tmp_path / "there")
    assert pixels(tmp_path / "there" / "cifar10") == pixels(source)


def test_pictures_that_changed_on_the_way_are_refused(tmp_path: Path) -> None:
    pictures.pack(tree(tmp_path / "source", 3), tmp_path / "packed")
    listed = json.loads((tmp_path / "packed" / "images.json").read_text())
    listed["train"]["sha256"] = "0" * 64
    (tmp_path / "packed" / "images.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match="other pixels"):
        pictures.unpack(tmp_path / "packed", tmp_path / "there")


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A bundle of three files, one of them larger than a part and one empty, in parts of 100 kB."""
    root = tmp_path / "staging"
    (root / "bundle").mkdir(parents=True)
    for name, size in (("a", 10_000), ("b", 0), ("c", 150_000)):
        (root / "bundle" / name).write_bytes(np.random.default_rng(size).bytes(size))
    carry.divide(sorted((root / "bundle").iterdir()), root, tmp_path / "parts", 2**16 + 100_000)
    return tmp_path / "parts"


def test_parts_may_come_one_at_a_time_and_in_any_order(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [path.name for path in sorted(parts.iterdir())] == ["part-1", "part-2"]
    assert all(sum(f.stat().st_size for f in part.iterdir()) <= 2**16 + 100_000 for part in parts.iterdir())
    for number, code, says in ((2, 3, "still to come: part-1"), (1, 0, "bundle: ready")):
        arrived = tmp_path / f"call-{number}"
        arrived.mkdir()
        (parts / f"part-{number}").rename(arrived / f"part-{number}")
        assert carry.unpack(arrived, tmp_path / "carried") == code
        assert says in capsys.readouterr().out
    for name in "abc":
        assert (tmp_path / "carried" / "bundle" / name).read_bytes() == (
            tmp_path / "staging" / "bundle" / name
        ).read_bytes()


def test_a_damaged_piece_is_named(parts: Path, tmp_path: Path) -> None:
    piece = max((parts / "part-1").iterdir(), key=lambda path: path.stat().st_size)
    piece.write_bytes(b"x" + piece.read_bytes()[1:])
    with pytest.raises(carry.Trouble, match=f"part-1/{piece.name}"):
        carry.unpack(parts, tmp_path / "carried")


def test_parts_of_two_preparations_are_not_mixed(parts: Path, tmp_path: Path) -> None:
    (parts / "part-2" / "parts.json").write_text("[]")
    with pytest.raises(carry.Trouble, match="another --prepare"):
        carry.unpack(parts, tmp_path / "carried")


def test_only_what_is_missing_or_older_is_installed(tmp_path: Path) -> None:
    import zipfile

    packages = tmp_path / "packages"
    packages.mkdir()
    for name, version in (("numpy", "0.1"), ("nowhere", "1.0"), ("pytest", "9999.0")):
        with zipfile.ZipFile(packages / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
    carry.install(packages, tmp_path)
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == ["nowhere", "pytest"]


def test_an_installed_package_becomes_a_wheel(tmp_path: Path) -> None:
    carry.add_package("annotated-types", "3.12", tmp_path)
    carry.install(tmp_path, tmp_path)  # the same version is here: nothing to do
    assert not (tmp_path / "site").exists()
    (wheel,) = tmp_path.glob("annotated_types-*-py3-none-any.whl")
    assert wheel.stat().st_size > 1_000


def test_a_record_keeps_what_was_found_before_an_error(tmp_path: Path) -> None:
    made = record.Record("speed", options(tmp_path))

    def broken() -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def no_gpu() -> dict[str, Any]:
        made.options.needs_cuda("this")
        return {}

    made.check("right", lambda: {"passed": True, "value": 1})
    made.check("wrong", lambda: {"passed": False})
    made.check("number", lambda: {"value": 2})
    made.check("broken", broken)
    made.check("elsewhere", no_gpu)
    made.check("late", lambda: {}, needs=3600)
    found = json.loads((tmp_path / "speed.json").read_text())
    assert [(c["name"], c["outcome"]) for c in found["checks"]] == [
        ("right", "passed"), ("wrong", "failed"), ("number", "measured"), ("broken", "error"), ("elsewhere", "unexecuted"), ("late", "skipped"),
    ]  # fmt: skip
    assert "illegal memory access" in found["checks"][3]["why"]
    assert "rehearsal on the CPU" in found["checks"][4]["why"]
    assert not found["complete"]
    assert found["machine"]["cores"] > 0
    assert found["torch"]["version"]


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["passed"], 0),
        (["passed", "skipped"], 3),
        (["cut off", "passed"], 3),
        (["skipped checks"], 3),
        (["failed", "skipped"], 1),
        (["error"], 1),
    ],
)
def test_the_exit_code(outcomes: list[str], code: int) -> None:
    assert kit.show([{"part": "speed", "outcome": outcome} for outcome in outcomes]) == code


def part_that(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A kit whose part `speed` is this."""
    (tmp_path / "kit.py").write_text(
        f"import json, sys, time\nfrom pathlib import Path\nout = Path({str(tmp_path)!r})\n{body}"
    )
    monkeypatch.setattr(kit, "HERE", tmp_path)
    return argparse.Namespace(output=tmp_path, carried=tmp_path, rehearse=True)


def test_a_part_that_hangs_is_cut_off_with_its_children_and_keeps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "import subprocess\n"
        "(out / 'speed.json').write_text(json.dumps({'checks': [{'outcome': 'passed'}]}))\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(out / 'child').write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    found = kit.run_part("speed", 15.0, 15.0, part_that(body, tmp_path, monkeypatch))
    assert (found["outcome"], found["passed"]) == ("cut off", 1)
    child = Path("/proc") / (tmp_path / "child").read_text() / "stat"
    until(lambda: not child.exists() or child.read_text().split()[2] == "Z")


def test_a_part_that_dies_is_an_error_with_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = kit.run_part("speed", 60.0, 60.0, part_that("sys.exit('Segmentation fault')", tmp_path, monkeypatch))
    assert found["outcome"] == "error"
    assert "Segmentation fault" in found["why"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "speed,sped"], "no part sped"),
        (["--budget-seconds", "0"], "greater than 0"),
        (["--unpack", "nowhere"], "no part is there"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], says: str) -> None:
    done = run_kit(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_gpu_it_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = run_kit()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--rehearse" in done.stderr


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = run_kit("--prepare", str(tmp_path))
    assert done.returncode == 2
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.extra
def test_the_promise_is_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    done = run_kit("--rehearse", "--only", "promise", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + (tmp_path / "promise.log").read_text()
    found = json.loads((tmp_path / "promise.json").read_text())
    assert found["complete"]
    assert found["rehearsal"]
    names = [check["name"] for check in found["checks"]]
    assert len(names) == 8
    for check in found["checks"][2:]:
        assert 0 <= check["metrics"]["test_top1"] <= 1


def test_the_gpus_step_is_held_against_the_cpus() -> None:
    """In a rehearsal with other kernels on the CPU; and the bound can fail: bfloat16 where float32 is promised."""
    import steps
    import torch

    right = steps.compare("simclr", "float32", torch.device("cpu"))
    assert right["passed"], right
    assert right["errors"]["device"]["gradient"] > 0  # other kernels: there is something to compare
    autocast = steps._autocast
    steps._autocast = lambda device, low: autocast(
        device, low or (device == "cpu" and not torch.backends.mkldnn.enabled)
    )
    try:
        wrong = steps.compare("simclr", "float32", torch.device("cpu"))
    finally:
        steps._autocast = autocast
    assert not wrong["passed"], wrong
