"""Benches on a remote device: a real OpenSSH server on a loopback address, real processes at both ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.bench.remote import device as remote_device
from edgekit.bench.remote import wheel
from edgekit.bench.remote.address import Address, parse
from edgekit.bench.remote.fan_out import bench_on
from edgekit.bundle import Bundle
from edgekit.errors import GateFailed, RemoteError
from edgekit.files import sha256
from edgekit.result import Latency, Profile, Result
from tests.helpers.patience import until
from tests.helpers.processes import kill_alone
from tests.helpers.ssh_server import SshServer, children, keygen, one_line

Edgekit = Callable[..., tuple[int, str, str]]
QUICK = ("--quick", "--seconds", "0.1", "--threads", "1", "--variant", "onnx-fp32")
THEIRS = ("--python", sys.executable)


@pytest.fixture
def another(sshd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SshServer]]:
    """A further server of the test's own, which `ssh` knows."""
    started: list[SshServer] = []

    def start(environment: dict[str, str] | None = None, options: str = "", client: str = "") -> SshServer:
        server = SshServer(tmp_path / f"device-{len(started)}", sshd, environment, options)
        started.append(server)
        monkeypatch.setenv("PATH", server.client(tmp_path / f"client-{len(started)}", client))
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def known(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """The module's server, its cache as an earlier test left it."""
    monkeypatch.setenv("PATH", server.client(tmp_path / "client"))
    return server


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def remote(server: SshServer) -> Path:
    return server.cache / "remote"


@pytest.fixture(scope="module")
def bundle(awkward_bundle: Path) -> Path:
    return awkward_bundle


def test_devices_side_by_side_and_one_that_cannot_be_reached(
    edgekit: Edgekit, known: SshServer, another: Callable[..., SshServer], bundle: Path, tmp_path: Path
) -> None:
    """The whole way: part of a transfer is there already, part of another is damaged; everything else is copied."""
    second = another()
    (second.folder / "known_hosts").write_text(
        (second.folder / "known_hosts").read_text() + (known.folder / "known_hosts").read_text()
    )
    (known.folder / "authorized_keys").write_text(
        (known.folder / "user.pub").read_text() + (second.folder / "user.pub").read_text()
    )
    objects = remote(known) / "objects"
    objects.mkdir(parents=True)
    for name, head in (("golden.npz", lambda content: content[:1000]), ("model.onnx", lambda content: b"x" * 500)):
        (objects / f"{sha256(bundle / name)}.part").write_bytes(head((bundle / name).read_bytes()))
    missing = f"ssh://127.0.0.1:{closed_port()}"
    output = tmp_path / "the results"
    devices = ("--device", f"{known.url},{second.url}", "--device", missing)
    code, out, err = edgekit("bench", bundle, *QUICK, *THEIRS, *devices, "--output", output, "--json")
    assert code == 1, err
    content = json.loads(out)
    assert [row["device"] for row in content["devices"]] == [known.url, second.url]
    for server, row in zip((known, second), content["devices"], strict=True):
        [measured] = row["results"]
        result = Result.read(Path(measured["file"]))
        assert Path(measured["file"]) == output / server.device / "onnx-fp32-b1-t1.json"
        assert isinstance(result.measurement, Latency)
        assert result.measurement.bundle_digest == Bundle.open(bundle).digest
        assert result.measurement.golden_agreement == 1
        assert list((remote(server) / "runs").iterdir()) == []
        assert not list((remote(server) / "objects").glob("*.part"))
        assert f"{server.url}: measuring" in err
    assert content["failed"][0]["device"] == missing
    assert "Connection refused" in content["failed"][0]["reason"]
    assert not list(Path.cwd().glob("pwned"))

    # Once more: nothing is copied, and where the time goes comes back as well.
    code, out, err = edgekit("bench", bundle, *QUICK, *THEIRS, "--device", known.url, "--output", output, "--profile")
    assert code == 0, err
    assert "copying" not in err
    profile = Result.read(output / known.device / "onnx-fp32-b1-t1-profile.json").measurement
    assert isinstance(profile, Profile)
    assert profile.layers
    assert all(layer.name[:20] in out for layer in sorted(profile.layers, key=lambda layer: -layer.ms)[:2])

    # And the table says which device it is about.
    code, out, err = edgekit("bench", bundle, *QUICK, *THEIRS, "--device", second.url, "--output", output, "--keep")
    assert code == 0, err
    assert "copying" not in err
    assert second.url in out
    assert "onnx-fp32" in out
    [kept] = (remote(second) / "runs").iterdir()
    assert f"kept on the device: {kept}" in out
    assert "-kept-" in kept.name, "the next bench would take it for its own"
    assert (kept / "results" / "onnx-fp32-b1-t1.json").is_file()


def test_python_benches_on_devices_as_the_command_does(
    known: SshServer, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit import bench

    options = {"variant": "onnx-fp32", "threads": 1, "quick": True, "seconds": 0.1, "python": sys.executable}
    output = tmp_path / "the results"
    [result] = bench(bundle, device=known.url, output=output, keep=True, **options)
    assert Result.read(output / known.device / "onnx-fp32-b1-t1.json") == result
    assert isinstance(result.measurement, Latency)
    assert (result.measurement.variant, result.measurement.threads) == ("onnx-fp32", 1)
    assert result.measurement.golden_agreement == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{known.url}: measuring" in said.err
    [kept] = [
        line.partition(": kept on the device: ")[2] for line in said.err.splitlines() if "kept on the device" in line
    ]
    shutil.rmtree(kept)  # it exists, and is not in the way of other tests
    assert list(tmp_path.glob("**/onnx-fp32-*.json")) == [output / known.device / "onnx-fp32-b1-t1.json"]

    missing = f"ssh://127.0.0.1:{closed_port()}"
    with pytest.raises(GateFailed, match=f"1 of 2 devices failed .*{missing}: .*Connection refused"):
        bench(bundle, device=[known.url, missing], output=tmp_path / "other", **options)
    assert (tmp_path / "other" / known.device / "onnx-fp32-b1-t1.json").is_file()
    with pytest.raises(RemoteError, match="Connection refused"):
        bench(bundle, device=missing, output=tmp_path / "none", **options)


def test_a_changed_and_an_unknown_host_key_are_refused(
    edgekit: Edgekit, known: SshServer, bundle: Path, tmp_path: Path
) -> None:
    before = (known.folder / "known_hosts").read_text()
    try:
        keygen("-f", str(tmp_path / "other"))
        known.know(tmp_path / "other.pub")
        code, _, err = edgekit("bench", bundle, *THEIRS, "--device", known.url)
        assert code == 2
        assert "refused: its host key has changed" in one_line(err)
        assert str(known.folder / "known_hosts") in err
        (known.folder / "known_hosts").write_text("")
        code, _, err = edgekit("bench", bundle, *THEIRS, "--device", known.url)
        assert code == 2
        assert "its host key is not known (connect once by hand" in one_line(err)
        assert (known.folder / "known_hosts").read_text() == "", "the key was accepted"
    finally:
        (known.folder / "known_hosts").write_text(before)


def test_a_device_that_wants_a_password(edgekit: Edgekit, another: Callable[..., SshServer], bundle: Path) -> None:
    server = another(options="PasswordAuthentication yes")
    (server.folder / "authorized_keys").write_text("")
    code, _, err = edgekit("bench", bundle, "--device", server.url)
    assert code == 2
    assert "asks for a password, which edgekit does not support (log in with a key: ssh-copy-id -p" in one_line(err)


def test_a_device_without_a_python_for_it(
    edgekit: Edgekit, another: Callable[..., SshServer], bundle: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "no programs"
    empty.mkdir()
    server = another({"PATH": str(empty)})
    code, _, err = edgekit("bench", bundle, "--device", server.url)
    assert code == 2
    assert "no Python 3.10 or newer on its PATH" in one_line(err)
    code, _, err = edgekit("bench", bundle, "--device", server.url, "--python", "/no/such/python; reboot")
    assert code == 2
    assert "cannot run /no/such/python; reboot: " in one_line(err)
    bare = tmp_path / "a 'bare' one"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    code, _, err = edgekit("bench", bundle, "--device", server.url, "--python", bare / "bin" / "python")
    assert code == 2
    assert "lacks pillow, click, numpy, pydantic, rich, pyyaml" in one_line(err)


def test_a_bench_that_fails_there_says_why_here(
    edgekit: Edgekit, known: SshServer, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the device knows its processors; its reason comes in a field of the reply, and is said once. No folder is left behind."""
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    code, out, err = edgekit("bench", bundle, *QUICK, *THEIRS, "--device", known.url, "--cpus", "99999")
    assert code == 2
    assert one_line(err).startswith(
        f"error: {known.url}: --cpus: this process may not use processor 99999 (choose from "
    )
    assert (out + err).count("99999") == 1
    assert not list(here.iterdir())


@pytest.mark.parametrize("how", ["no room", "fills up"])
def test_a_full_disk(how: str, edgekit: Edgekit, another: Callable[..., SshServer], bundle: Path) -> None:
    """A file system of 64 kB, and one on which no file can grow beyond 8 kB."""
    limit = 'ForceCommand ulimit -f 8; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"' if how == "fills up" else ""
    server = another(options=limit)
    server.cache.mkdir()
    mounted = False
    if how == "no room":
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(server.cache)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if not mounted:
            pytest.skip("no right to mount a small file system; the other case covers what happens while it fills up")
    try:
        code, _, err = edgekit("bench", bundle, *QUICK, *THEIRS, "--device", server.url)
    finally:
        if mounted:
            subprocess.run(["umount", str(server.cache)], check=True)
    assert code == 2
    assert "no space left: " in one_line(err)
    assert "free some space on the device" in err


def test_a_dropped_connection_is_picked_up(
    known: SshServer, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_device, "RETRY_SECONDS", (0.1, 0.1))
    said: list[str] = []

    def cut(line: str) -> None:
        said.append(line)
        if line.endswith("measuring"):
            known.drop()

    addresses = parse([known.url])
    common = {"options": QUICK, "variants": ["onnx-fp32"], "python": sys.executable}
    fleet = bench_on(addresses, Bundle.open(bundle), tmp_path / "out", say=cut, **common)
    assert list(fleet.measured) == addresses, fleet.failed
    assert any("the connection is lost" in line for line in said)
    assert (tmp_path / "out" / known.device / "onnx-fp32-b1-t1.json").is_file()

    # The device does not come back: what is left where is said, and the same command finds it.
    def cut_for_good(line: str) -> None:
        if line.endswith("measuring"):
            known.stop()

    fleet = bench_on(addresses, Bundle.open(bundle), tmp_path / "out", say=cut_for_good, **common)
    left = str(fleet.failed[addresses[0]])
    [run] = (remote(known) / "runs").iterdir()
    assert (
        f"the bench goes on and writes into {run}; run the same command again within a day to fetch its results" in left
    )
    until((run / "exit").exists)
    measured = json.loads((run / "results" / "onnx-fp32-b1-t1.json").read_text())
    known.start()
    said.clear()
    fleet = bench_on(addresses, Bundle.open(bundle), tmp_path / "out", say=said.append, **common)
    assert fleet.measured
    assert any("found this bench on the device: it has ended" in line for line in said)
    brought = json.loads((tmp_path / "out" / known.device / "onnx-fp32-b1-t1.json").read_text())
    assert brought == measured
    assert list((remote(known) / "runs").iterdir()) == []


def test_ctrl_c_ends_the_bench_on_the_device(known: SshServer, bundle: Path, tmp_path: Path) -> None:
    options = ["--variant", "onnx-fp32", "--seconds", "3000", *THEIRS, "--device", known.url, "--output", str(tmp_path)]
    command = [sys.executable, "-m", "edgekit", "bench", str(bundle), *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    runs = remote(known) / "runs"
    [file] = until(lambda: list(runs.glob("*/pid")), child)
    pid = int(until(lambda: file.read_text().strip(), child))
    until(lambda: "bench.worker" in descendants(pid), child)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to ssh, too
    out, err = child.communicate()
    assert child.returncode == 130, err
    assert "stopping the bench" in err
    assert "interrupted: partial results were saved and marked as interrupted" in err
    assert not Path(f"/proc/{pid}").exists()
    assert list(runs.iterdir()) == []
    for path in (tmp_path / known.device).glob("*.json"):
        latency = Result.read(path).measurement
        assert isinstance(latency, Latency)
        assert latency.interrupted
    assert "Traceback" not in out + err


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_a_bench_that_is_killed_leaves_no_connection_and_the_next_command_removes_its_socket(
    known: SshServer, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # short enough for a socket
    monkeypatch.setenv("TMPDIR", str(temporary))
    options = ["--variant", "onnx-fp32", "--seconds", "3000", *THEIRS, "--device", known.url, "--output", str(tmp_path)]
    command = [sys.executable, "-m", "edgekit", "bench", str(bundle), *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    runs = remote(known) / "runs"
    try:
        had = kill_alone(child, lambda found: list(runs.glob("*/pid")) and len(found) > 1)
        assert any(left.name.startswith("edgekit-ssh.") for left in temporary.iterdir())
        assert len(had) > 1  # the one that holds the connection, and the one that follows the bench over it
        nowhere = [*command[:5], "--device", f"ssh://127.0.0.1:{closed_port()}", "--output", str(tmp_path)]
        again = subprocess.run(nowhere, check=False, capture_output=True, text=True)
        assert "cannot be reached" in again.stderr
        assert list(temporary.iterdir()) == []
    finally:
        for file in runs.glob("*/pid"):  # the bench on the device goes on, as it should
            os.kill(int(file.read_text()), signal.SIGINT)
        until(lambda: all((file.parent / "exit").exists() for file in runs.glob("*/pid")))
        shutil.rmtree(runs, ignore_errors=True)
        shutil.rmtree(temporary)


def descendants(pid: int) -> str:
    """The command lines of a process's children."""
    return " ".join(Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in children(pid))


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("ssh://nano", [Address("nano")]),
        ("ssh://pi@raspberrypi.local:2222/", [Address("raspberrypi.local", "pi", 2222)]),
        ("ssh://a,ssh://me@b, c:22", [Address("a"), Address("b", "me"), Address("c", None, 22)]),
        ("ssh://me@[fe80::1%eth0]:22", [Address("fe80::1%eth0", "me", 22)]),
    ],
)
def test_addresses(text: str, addresses: list[Address]) -> None:
    assert parse([text]) == addresses
    assert parse([str(address) for address in addresses]) == addresses


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nano", "not an address"),
        ("http://nano", "not an address"),
        ("ssh://", "is not an address"),
        ("ssh://nano,", "is not an address"),
        ("ssh://-oProxyCommand=reboot", "is not an address"),
        ("ssh://me@-v", "is not an address"),
        ("ssh://na no", "is not an address"),
        ("ssh://nano;reboot", "is not an address"),
        ("ssh://nano/home", "is not an address"),
        ("ssh://nano:99999", "99999 is not a port"),
        ("ssh://nano,ssh://nano", "given twice"),
    ],
)
def test_what_is_not_an_address(text: str, why: str, edgekit: Edgekit, tmp_path: Path) -> None:
    code, _, err = edgekit("bench", tmp_path, "--device", text)
    assert code == 2
    assert why in one_line(err)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(RemoteError, match="contains a password") as error:
        parse(["ssh://me:s3cret@nano"])
    assert "s3cret" not in str(error.value)


def test_the_wheel_is_this_edgekit_and_the_same_every_time(edgekit: Edgekit, bundle: Path, tmp_path: Path) -> None:
    packed = wheel.pack(tmp_path / "a")
    assert wheel.pack(tmp_path / "b") == wheel.Wheel(
        tmp_path / "b" / packed.path.name, packed.sha256, packed.requirements
    )
    with zipfile.ZipFile(packed.path) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith("/RECORD"))
        listed = [line.split(",")[0] for line in archive.read(record).decode().splitlines()]
        assert listed == names
        assert archive.read("edgekit/bench/remote/wheel.py") == Path(wheel.__file__).read_bytes()
        assert not [name for name in names if "__pycache__" in name or "direct_url" in name]
    (tmp_path / "other.whl").write_bytes(b"PK")
    code, _, err = edgekit("bench", bundle, "--device", "ssh://nano", "--wheel", tmp_path / "other.whl")
    assert code == 2
    assert "not a wheel" in one_line(err)
    assert "make wheel" in err


@pytest.mark.slow
def test_a_private_environment_is_made_and_used_again(
    edgekit: Edgekit, known: SshServer, bundle: Path, tmp_path: Path
) -> None:
    """Nothing is on the device but Python: edgekit and ONNX Runtime are installed for this user, once."""
    shutil.rmtree(remote(known) / "venvs", ignore_errors=True)
    command = ("bench", bundle, *QUICK, "--device", known.url, "--output", tmp_path, "--json")
    code, out, err = edgekit(*command)
    if "cannot be installed" in err and "No matching distribution" in err:
        pytest.skip(f"no package index within reach: {err.splitlines()[-1]}")
    assert code == 0, err
    assert "installing edgekit's dependencies with [ort]" in err
    [measured] = json.loads(out)["devices"][0]["results"]
    packages = Result.read(Path(measured["file"])).machine.packages
    assert {"edgekit-vision", "onnxruntime", "numpy"} <= set(packages)
    assert "torch" not in packages
    # The environment is used again; what another option needs is added to it.
    code, out, err = edgekit(*command, "--loadgen")
    assert code == 0, err
    assert [line.split("[")[1] for line in err.splitlines() if "installing" in line] == ["loadgen]"]
    [measured] = json.loads(out)["devices"][0]["results"]
    assert measured["loadgen"]["summary"]["Result is"] in {"VALID", "INVALID"}
    assert list(Path(measured["file"]).parent.glob("**/mlperf_log_summary.txt"))
