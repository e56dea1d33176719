"""Threads stay on the processors that a process may use, and are no more than its container grants time for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit import processors
from edgekit.bench.doctor import hardware
from edgekit.data import workers
from edgekit.export.jobs import default_jobs
from edgekit.machine import this_machine
from edgekit.processors import configure_openmp, cpu_quota, narrowed_threads, pinned_threads, usable_cpus
from edgekit.runtimes import open_session
from edgekit.train.loop.launch import _own_share
from tests.helpers.observed import no_affinity
from tests.helpers.tiny_bundle import write_onnx, write_openvino

has_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
several = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="this process has one processor"
)
# What a process's threads are allowed, after both runtimes and a session of the export's own have run; with what they were told.
_THREADS = """
import json, os, sys
from pathlib import Path
if sys.argv[1] == "one":
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
elif sys.argv[1] == "refused":
    try: os.sched_setaffinity(0, os.sched_getaffinity(0))
    except PermissionError: pass
    else: sys.exit("setting an affinity is not refused")
import numpy as np, onnx  # not earlier: some versions of NumPy start threads here
from edgekit.runtimes import open_session
from edgekit.runtimes.streams import open_streams
from edgekit.quantize.ranges import observing
images = np.zeros((1, 16, 16, 3), np.uint8)
reported, answers, open_ones = [], [], []  # sessions that are closed have no threads any more
for runtime, file in (("onnxruntime", "model.onnx"), ("openvino", "model.xml")):
    session = open_session(runtime, Path(file))
    answers.append(session.run(images))
    streams = open_streams(session)
    streams.submit(images, answers.append)
    streams.wait()
    reported.append(session.settings)
    reported.append({"streams": streams.count})
    open_ones += [session, streams]
open_ones.append(observing(onnx.load("model.onnx"), ["c0"]))
open_ones[-1].run(None, {"images": images})
for logits in answers[1:]:
    np.testing.assert_allclose(logits, answers[0], atol=0.05)
allowed = set()
for task in Path("/proc/self/task").iterdir():
    (line,) = [l for l in (task / "status").read_text().splitlines() if l.startswith("Cpus_allowed_list:")]
    allowed.add(line.split()[1])
print(json.dumps([sorted(allowed), sorted(os.sched_getaffinity(0)), reported]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_onnx(folder / "model.onnx")
    write_openvino(folder / "model.xml", folder / "model.onnx")
    return folder


def run(models: Path, case: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **variables}
    command = [sys.executable, "-c", _THREADS, case]
    return subprocess.run(command, cwd=models, env=environment, capture_output=True, text=True, check=False)


@several
def test_no_thread_of_a_runtime_leaves_a_narrow_affinity(models: Path) -> None:
    done = run(models, "one")
    assert done.returncode == 0, done.stderr
    allowed, mask, reported = json.loads(done.stdout)
    assert allowed == [str(cpu) for cpu in mask]
    assert len(mask) == 1
    assert reported[0]["intra_op_num_threads"] == "1"
    assert reported[1]["streams"] == 1
    assert reported[2]["INFERENCE_NUM_THREADS"] == "1"


@has_affinity
def test_where_no_affinity_may_be_set_nothing_is_printed(
    models: Path, require_tool: Callable[[str, str], str], tmp_path: Path
) -> None:
    refused = no_affinity(require_tool("cc", "compiles a library that refuses to set an affinity"), tmp_path)
    done = run(models, "refused", LD_PRELOAD=str(refused))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    _, mask, reported = json.loads(done.stdout)
    assert 1 <= int(reported[0]["intra_op_num_threads"]) <= len(mask)


def group(root: Path, **files: str) -> Path:
    for name, content in {"proc__self__cgroup": "0::/job/inner", **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys__fs__cgroup__job__inner__cpu.max": "max 100000"}, None),
        ({"sys__fs__cgroup__job__inner__cpu.max": "50000 100000"}, 0.5),
        ({"sys__fs__cgroup__job__inner__cpu.max": "max 100000", "sys__fs__cgroup__job__cpu.max": "150000 100000"}, 1.5),
        ({"proc__self__cgroup": "3:cpu,cpuacct:/a", "sys__fs__cgroup__cpu,cpuacct__a__cpu.cfs_quota_us": "1"}, None),
        ({"proc__self__cgroup": "3:cpu:/a", "sys__fs__cgroup__cpu__a__cpu.cfs_quota_us": "-1",
          "sys__fs__cgroup__cpu__a__cpu.cfs_period_us": "100000"}, None),
        ({"proc__self__cgroup": "3:cpu:/a", "sys__fs__cgroup__cpu__a__cpu.cfs_quota_us": "100000",
          "sys__fs__cgroup__cpu__a__cpu.cfs_period_us": "50000"}, 2.0),
        ({"sys__fs__cgroup__job__inner__cpu.max": "nonsense"}, None),
    ],
)  # fmt: skip
def test_the_smaller_of_the_mask_and_the_quota_counts(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    root = group(tmp_path, **files)
    assert cpu_quota(root) == quota
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert usable_cpus(root) == (mask if quota is None else max(1, min(mask, int(quota))))
    assert hardware.processors(root).quota == quota


def test_every_default_keeps_to_a_quota(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    monkeypatch.setattr(processors, "cpu_quota", lambda root=Path("/"): 1.9)
    assert usable_cpus() == this_machine().cores == default_jobs(8) == 1
    narrow = int((os.cpu_count() or 1) > 1)
    assert narrowed_threads() == narrow
    onnx, openvino = open_session("onnxruntime", models / "model.onnx"), open_session("openvino", models / "model.xml")
    if narrow:
        assert onnx.settings["intra_op_num_threads"] == "1"
        assert openvino.settings["INFERENCE_NUM_THREADS"] == "1"
    assert open_session("onnxruntime", models / "model.onnx", threads=2).settings["intra_op_num_threads"] == "2"
    assert list(workers.in_order(3, lambda start, stop: stop - start, "test")) == [3]
    monkeypatch.setattr(os, "environ", {})
    configure_openmp()
    assert os.environ == {"OMP_WAIT_POLICY": "PASSIVE", **({"OMP_NUM_THREADS": "1"} if narrow else {})}
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"})
    configure_openmp()
    assert os.environ == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}


def test_a_runtime_is_told_no_more_threads_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpuinfo = "".join(f"processor : {i}\nphysical id : 0\ncore id : {i // 2}\n\n" for i in range(8))
    root = group(tmp_path, proc__cpuinfo=cpuinfo)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None, raising=False)
    for mask, expected in ((8, 0), (6, 4), (3, 3), (1, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, mask=mask: set(range(mask)), raising=False)
        assert narrowed_threads(root) == pinned_threads(root) == expected

    def refuse(pid: int, cpus: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert (narrowed_threads(root), pinned_threads(root)) == (0, 4)


def test_processes_of_one_machine_share_what_they_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(processors, "cpu_quota", lambda root=Path("/"): None)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    assert [_own_share(n) for n in (1, 2, 8)] == [4, 2, 1]
    monkeypatch.setenv("SLURM_PROCID", "0")  # each task was given processors of its own
    assert [_own_share(n) for n in (1, 2, 8)] == [4, 4, 2]
