"""What surrounds the package: workflows, containers, the citation, the latency gate, and wheels that are the same twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
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
PYPROJECT = (ROOT / "pyproject.toml").read_text()
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
def test_the_dockerfiles_pass_their_linter(require_tool: Callable[[str, str], str]) -> None:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    linter = shutil.which("hadolint", path=path) or require_tool("hadolint", "lints the Dockerfiles")
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


def in_sdist() -> set[str]:
    """The files and folders of the root that an sdist takes along, beside pyproject.toml."""
    found = re.search(
        r"^\[tool\.hatch\.build\.targets\.sdist\]\n.*?^include = \[(.*?)\]$", PYPROJECT, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return {name.lstrip("/") for name in re.findall(r'"([^"]+)"', found[1])}


def test_the_sdist_takes_the_whole_project_along() -> None:
    """Its tests, and its site, need nearly all of it: result files, tools, examples, the Makefile."""
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("needs a git checkout: what else lies in an unpacked archive is not known to be the project's")
    tracked = {name.partition("/")[0] for name in listing.stdout.splitlines()}
    assert tracked - in_sdist() - {"pyproject.toml"} <= {".ci"}  # of the machines that check changes
    assert {name for name in in_sdist() if not (ROOT / name).exists()} == set()


@pytest.mark.slow
def test_the_sdist_builds_the_wheel_of_the_tree_to_the_same_bytes(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    """Also without git, whose stand-in here leaves a trace if it is called."""
    uv = require_tool("uv", "builds the packages")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 127\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def build(source: Path, *options: str) -> Path:
        out = source.parent / f"{source.name}-dist"
        command = [uv, "build", *options, "--out-dir", str(out), str(source)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode and "failed to fetch" in done.stderr.lower():
            pytest.skip("no package index within reach")
        assert done.returncode == 0, done.stderr
        return out

    more = sorted(in_sdist() - {"README.md", "LICENSE", "src"})
    whole = build(source_tree(tmp_path / "tree", *more))  # an sdist, and the wheel that is built from it
    [wheel], [sdist] = whole.glob("*.whl"), whole.glob("*.tar.gz")
    other = build(source_tree(tmp_path / "other", *more), "--wheel", "--sdist")  # both from the tree
    assert [sha256(path) for path in sorted(whole.iterdir())] == [sha256(path) for path in sorted(other.iterdir())]
    names = zipfile.ZipFile(wheel).namelist()
    assert "edgekit/cli/main.py" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "tools/"))]
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "tools/site/tables/__init__.py",
        "benchmarks/results/cifar10.json",
        "examples/digits.yaml",
        "Makefile",
        ".github/workflows/checks.yml",
    ):
        assert name in packed
    assert not [name for name in packed if "__pycache__" in name or name.startswith(("runs/", "build/"))]
    assert not (tmp_path / "called").exists()
