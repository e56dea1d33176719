"""What surrounds the package: workflows, containers, the citation, the latency gate, and wheels that are the same twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import edgekit
from edgekit.files import sha256
from tests.helpers.source_tree import source_tree
from tests.helpers.tiny_bundle import make_bundle

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SCHEMAS = [
    *((path, "vendor.github-workflows") for path in sorted((ROOT / ".github/workflows").glob("*.yml"))),
    *((path, "vendor.github-actions") for path in sorted((ROOT / ".github/actions").glob("*/action.yml"))),
    (ROOT / "CITATION.cff", "vendor.citation-file-format"),
]


@pytest.mark.parametrize(("path", "schema"), SCHEMAS, ids=[path.name for path, _ in SCHEMAS])
def test_it_has_the_form_that_its_reader_expects(
    path: Path, schema: str, require_module: Callable[[str, str], None]
) -> None:
    require_module("check_jsonschema", "holds the schemas of GitHub")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_has_what_the_workflows_call() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for path, _ in SCHEMAS:
        for line in path.read_text().splitlines():
            for called in line.partition("run: make ")[2].split()[:1]:
                assert f"\n{called}:" in makefile, f"{path.name} calls make {called}"


def test_the_citation_names_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == edgekit.__version__


@pytest.mark.skipif(sys.platform != "linux", reason="the linter's wheel is for Linux")
def test_the_dockerfiles_pass_their_linter() -> None:
    linter = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed")
    files = [str(path) for path in sorted((ROOT / "docker").glob("*.Dockerfile"))]
    assert len(files) == 3
    done = subprocess.run([linter, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "export", openvino=False).path


def gate(folder: Path, before: Path, after: Path, conditions: str) -> subprocess.CompletedProcess[str]:
    """The gate's script as its action calls it."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "BEFORE": str(before),
        "AFTER": str(after),
        "FAIL_IF": conditions,
        "BENCH_OPTIONS": "--quick --seconds 0.05 --threads 1",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    script = ROOT / ".github/actions/bench-gate/gate.sh"
    return subprocess.run([str(script)], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_gate_lets_the_same_bundle_pass_and_writes_a_summary(bundle: Path, tmp_path: Path) -> None:
    done = gate(tmp_path, bundle, bundle, "\n  p50 > 1000ms\n\n")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "summary.md").read_text()
    assert "onnx-fp32" in summary
    assert summary == (tmp_path / "bench-gate/comparison.md").read_text()
    assert len(list((tmp_path / "bench-gate").glob("*/*/*.json"))) == 4


def test_the_gate_fails_where_a_condition_is_true(bundle: Path, tmp_path: Path) -> None:
    done = gate(tmp_path, bundle, bundle, "p50 > 0.000001ms")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "p50 > 0.000001ms" in (tmp_path / "summary.md").read_text()


def test_the_gate_ends_with_the_error_of_a_bundle_that_is_not_there(bundle: Path, tmp_path: Path) -> None:
    done = gate(tmp_path, bundle, tmp_path / "none", "p50 > 5%")
    assert done.returncode == 2
    assert "none" in done.stderr


@pytest.mark.slow
def test_the_sdist_builds_the_wheel_of_the_tree_to_the_same_bytes(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    uv = require_tool("uv", "builds the packages")
    more = ("CHANGELOG.md", "tests", "docs")

    def build(source: Path, *options: str) -> Path:
        out = source.parent / f"{source.name}-dist"
        command = [uv, "build", *options, "--out-dir", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "failed to fetch" in done.stderr.lower():
            pytest.skip("no package index within reach")
        assert done.returncode == 0, done.stderr
        return out

    whole = build(source_tree(tmp_path / "tree", *more))  # an sdist, and the wheel that is built from it
    [wheel] = whole.glob("*.whl")
    [again] = build(source_tree(tmp_path / "other", *more), "--wheel").glob("*.whl")
    assert sha256(wheel) == sha256(again)
    names = zipfile.ZipFile(wheel).namelist()
    assert "edgekit/cli/main.py" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
