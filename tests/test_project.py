"""The project's frame: what its documents promise, its metadata, and its commands' help."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import edgekit
from edgekit.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
# The package of that name on PyPI is somebody else's; a wheel file, a folder or `edgekit-vision` is fine.
WRONG_INSTALL = re.compile(r"pip3? install (?:-\S+ )*[\"']?edgekit(?![-_\w/])")


def tracked() -> list[Path]:
    """The files that git tracks or would track, or the test is skipped where there is no checkout."""
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout: the files of an unpacked archive are not known to be the project's")
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def large_file_limits() -> dict[str, int]:
    """What the pre-commit hooks allow: bytes for each pattern of paths."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    limits = {}
    for hook in hooks:
        if maximum := re.search(r"check-added-large-files .*--maxkb=(\d+)", hook["entry"]):
            limits[hook.get("files", "")] = int(maximum[1]) * 1024
    return limits


def test_no_large_file_is_tracked() -> None:
    found = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked()}
    limits = large_file_limits()
    assert limits == {"": 500 * 1024, "^benchmarks/results/": 100 * 1024}
    too_large = [
        f"{name}: {size:,} bytes, more than {limit:,}"
        for name, size in found.items()
        for pattern, limit in limits.items()
        if re.search(pattern, name) and size > limit
    ]
    assert too_large == []


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            found.append((path.relative_to(ROOT), content.decode(errors="replace")))
    return found


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install " + "edgekit", True),
        ("pip install -U '" + "edgekit[ort]'", True),
        ("pip install edgekit-vision", False),
        ("pip install edgekit_vision-0.1.0-py3-none-any.whl", False),
    ],
)
def test_the_wrong_install_is_recognized(text: str, wrong: bool) -> None:
    assert bool(WRONG_INSTALL.search(text)) is wrong


def test_no_document_installs_another_projects_package() -> None:
    said = [str(path) for path, text in texts() if WRONG_INSTALL.search(text) and path.parts[0] != "tests"]
    assert said == []  # tests may name it, to check that nobody says it


def package_hosts() -> set[str]:
    """The hosts that this machine installs packages from, other than the public ones."""
    values = [v for k, v in os.environ.items() if re.search(r"INDEX|FIND_LINKS|PROXY", k, re.I) and "://" in v]
    for path in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        config = configparser.ConfigParser(interpolation=None)
        config.read(path)
        values += [value for section in config.sections() for value in config[section].values() if "://" in value]
    hosts = {urlsplit(url).hostname or "" for value in values for url in value.split()}
    return hosts - {"", "localhost", "127.0.0.1", "pypi.org", "files.pythonhosted.org", "download.pytorch.org"}


def test_no_package_index_of_somebodys_machine_is_tracked() -> None:
    setting = re.compile(r"^\s*(?:extra-)?index-url\s*=|--(?:extra-)?index-url[= ]https?://(?!pypi\.nvidia\.com)", re.M)
    hosts = package_hosts()
    guilty = [
        str(path)
        for path, text in texts()
        if path != Path("tests/test_project.py") and (setting.search(text) or any(host in text for host in hosts))
    ]
    assert guilty == []


def test_no_dependency_is_pinned() -> None:
    pinned = [r for r in metadata.requires("edgekit-vision") or [] if re.search(r"[^=!<>~]==(?!=)", r.split(";")[0])]
    assert pinned == []


def test_the_version_is_said_once() -> None:
    assert metadata.version("edgekit-vision") == edgekit.__version__
    said = re.compile(rf"""version\s*[=:]\s*["']?{re.escape(edgekit.__version__)}""", re.I)
    where = [str(path) for path, text in texts() if path.suffix in {".py", ".toml", ".cfg"} and said.search(text)]
    assert where == []  # __version__ = "…" is matched by neither: the underscores stand between
    assert f'__version__ = "{edgekit.__version__}"' in (ROOT / "src/edgekit/__init__.py").read_text()
    assert edgekit.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_relative_links_of_the_documents_lead_somewhere() -> None:
    broken = []
    for path, text in texts():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target or target.startswith(("#", "mailto:")):
                continue
            if not (ROOT / path.parent / target.partition("#")[0]).exists():
                broken.append(f"{path}: {target}")
    assert broken == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_helps_with_an_example_and_without_torch(name: str) -> None:
    program = (
        "import sys\n"
        "from edgekit.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted({'torch', 'onnx', 'lightning', 'onnxruntime', 'openvino'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "For example" in done.stdout
    assert f"edgekit {name} " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", "heavy imports at the top of the module"


def test_make_lists_what_it_can_do(require_tool) -> None:
    listing = subprocess.run(
        [require_tool("make", "lists its targets")], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("demo", "test", "lint", "wheel", "clean"):
        assert re.search(rf"\b{target}\b", listing)


def test_benchmarks_and_examples_use_nothing_of_the_tests() -> None:
    """They run on a clone without `tests/`, with edgekit alone."""
    for path in [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").glob("*.py")]:
        text = path.read_text()
        assert not re.search(r"""^\s*(from|import) tests\b""", text, re.MULTILINE), path
        assert not re.search(r"""sys\.path.*["']tests["']""", text), path
