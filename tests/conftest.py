"""What every test may use: the command line, and tools that not every machine has."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from edgekit import privacy

# Hypothesis tries the same examples at every run, so that what passes once passes again; EDGEKIT_HYPOTHESIS=random looks for new ones.
# Neither fails for being slow.
_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("repeatable", derandomize=True, **_PATIENT)
settings.register_profile("random", derandomize=False, **_PATIENT)
settings.load_profile(os.environ.get("EDGEKIT_HYPOTHESIS") or "repeatable")

privacy.switch_off()  # before any test file imports a runtime
# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every command that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tools that go by several names: the first one that is on PATH is taken.
_ALIASES = {"chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")}
_REQUIRE_ALL = "EDGEKIT_REQUIRE_ALL"


if _worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Tests that run side by side: one thread each, and a temporary folder each, as benches of one machine know each other by a
    # file there.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _own = Path(tempfile.gettempdir()) / f"edgekit-tests-{os.getppid()}-{_worker}"
    _own.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(_own)
    tempfile.tempdir = None


@pytest.fixture(scope="session", autouse=True)
def _checkout_stays_clean() -> Iterator[None]:
    """No test leaves a file in the folder that it was started in."""
    before = {*os.listdir()}
    yield
    left = sorted(name for name in {*os.listdir()} - before if not name.startswith((".", "__")))
    assert not left, f"a test wrote {', '.join(left)} into {Path.cwd()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is `extra` is `slow`; and files with slow tests come first, so that no worker has a long file alone at the end."""
    for item in items:
        if item.get_closest_marker("extra"):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _missing(what: str, why: str) -> None:
    """Skip the test that needs `what`; fail it where everything must be there (continuous integration)."""
    message = f"needs {what}: {why}"
    if os.environ.get(_REQUIRE_ALL, "") not in {"", "0"}:
        pytest.fail(f"{message} ({_REQUIRE_ALL} is set, so this is not skipped)", pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str, str], str]:
    """`require_tool("chromium", "draws the report")` gives the program's path, or skips the test and says why."""

    def require(name: str, why: str) -> str:
        for candidate in _ALIASES.get(name, (name,)):
            if path := shutil.which(candidate):
                return path
        _missing(f"the program {name}", why)
        raise AssertionError  # not reached: _missing raises

    return require


@pytest.fixture(scope="session")
def require_module() -> Callable[[str, str], None]:
    """`require_module("tensorrt", "builds an engine")` returns, or skips the test and says why; nothing is imported."""

    def require(name: str, why: str) -> None:
        if importlib.util.find_spec(name) is None:
            _missing(f"the Python package {name}", why)

    return require


@pytest.fixture(scope="session")
def require_header(require_tool: Callable[[str, str], str]) -> Callable[[str, str], None]:
    """`require_header("zlib.h", "unpacks")` returns if the C++ compiler finds it, or skips the test and says why."""

    def require(name: str, why: str) -> None:
        command = [require_tool("g++", why), "-fsyntax-only", "-x", "c++", "-"]
        if subprocess.run(
            command, input=f"#include <{name}>\n", capture_output=True, text=True, check=False
        ).returncode:
            _missing(f"the header {name}", why)

    return require


@pytest.fixture(scope="module")  # longer, and its event loop would be in the way of others
def browser(require_tool: Callable[[str, str], str], require_module: Callable[[str, str], None]) -> Iterator[Any]:
    """Chromium, for pages as a reader sees them; it asks nothing of the network by itself."""
    require_module("playwright", "drives the browser that opens the page")
    chromium = require_tool("chromium", "opens the page as a reader would")
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        # However long it takes to start: a busy machine is slow, not wrong.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *quiet], timeout=0)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sshd(require_tool: Callable[[str, str], str]) -> str:
    require_tool("ssh", "connects to a device")
    require_tool("ssh-keygen", "makes throw-away keys")
    found = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")
    return found or require_tool("sshd", "is the device")


@pytest.fixture(scope="module")
def server(sshd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An SSH server that stands for a device, one a file of tests."""
    from tests.helpers.ssh_server import SshServer

    server = SshServer(tmp_path_factory.mktemp("device"), sshd)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def awkward_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in a folder whose name would fall apart in a shell."""
    from tests.helpers.tiny_bundle import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundle") / """it's "my" bundle; $(touch pwned) & more""").path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, awkward_bundle: Path) -> bytes:
    """A result of a real bench on the bundle."""
    output = tmp_path_factory.mktemp("measured")
    options = ["--variant", "onnx-fp32", "--quick", "--seconds", "0.1", "--threads", "1", "--output", str(output)]
    subprocess.run(
        [sys.executable, "-m", "edgekit", "bench", str(awkward_bundle), *options], check=True, stdout=subprocess.DEVNULL
    )
    [path] = output.glob("*.json")
    return path.read_bytes()


@pytest.fixture
def edgekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives exit code, standard output and standard error."""
    from edgekit import progress
    from edgekit.cli import main as command_line

    monkeypatch.setattr(
        progress, "_LINE_EVERY_SECONDS", float("inf")
    )  # what is printed does not depend on how long it took

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command_line.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return run
