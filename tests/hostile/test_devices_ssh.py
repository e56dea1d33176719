"""Devices that say what edgekit never would, over real SSH connections: one line each, and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.bench.remote import conversation, fan_out, replies
from edgekit.bench.remote.address import parse
from edgekit.bench.remote.connection import Connection
from edgekit.bench.remote.replies import VERBS, ProtocolError
from edgekit.bundle import Bundle
from edgekit.errors import RemoteError
from edgekit.result import Result
from tests.helpers.hostile_device import HostilePython, changed_result, file, line, reply
from tests.helpers.malformed_replies import DIGEST, MALFORMED, PROBE
from tests.helpers.ssh_server import SshServer, one_line

Edgekit = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> HostilePython:
    return HostilePython(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def connection(
    server: SshServer, hostile: HostilePython, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    """A real connection to a device whose Python says what it likes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", server.client(tmp_path_factory.mktemp("client")))
        [address] = parse([server.url])
        connection = Connection(address)
        connection.open()
        connection.find_python(str(hostile.path))
        yield connection
        connection.close()


def refused(op: str, text: str, connection: Connection, hostile: HostilePython) -> None:
    """A verb that is answered so, after a login shell's greeting, ends in one line; the connection itself is not lost."""
    hostile.answer(**{op: [("say", "a login shell's greeting\n"), ("say", line(text))]})
    with pytest.raises(ProtocolError, match=f"^{connection.address}: ") as error:
        connection.call(op, VERBS[op].reply)
    assert len(str(error.value)) < 600, "it quotes too much"
    assert "\n" not in str(error.value)


def test_a_malformed_reply_of_each_verb_over_ssh(connection: Connection, hostile: HostilePython) -> None:
    """One after the other over one connection, which outlives them all."""
    for op in VERBS:
        refused(op, next(text for verb, text in reversed(MALFORMED.values()) if verb == op), connection, hostile)
    hostile.answer()
    assert connection.call("probe", replies.ProbeReply).executable == str(hostile.path)


@pytest.mark.extra
@pytest.mark.parametrize("kind", MALFORMED)
def test_every_malformed_reply_over_ssh(kind: str, connection: Connection, hostile: HostilePython) -> None:
    refused(*MALFORMED[kind], connection, hostile)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([("say for ever", "x")], "sends a line of more than"),
        ([("say for ever", "x\n" * 999)], "sends more than"),
        ([("complain for ever", "x\n" * 999)], "sends more than"),
        ([("say", line(PROBE)[:20]), ("end", 0)], "failed on the device: exit code 0"),
        ([("end", 3)], "failed on the device: exit code 3"),
        ([("end", 255)], "the connection is lost"),
        ([("sleep", 0)], "sent nothing"),
    ],
)
def test_endless_silent_and_cut_off_over_ssh(
    answer: list[tuple[str, Any]], why: str, connection: Connection, hostile: HostilePython, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    if answer[0][0] == "sleep":
        monkeypatch.setattr(conversation, "SILENCE_SECONDS", 5.0)
    hostile.answer(probe=answer)
    with pytest.raises(RemoteError, match=why):
        connection.call("probe", replies.ProbeReply)


RUN = "results/onnx-fp32-b1-t1.json"


def answers(hostile: HostilePython, folder: str, files: dict[str, bytes], **others: Any) -> None:
    """A whole bench that the device makes up: it has everything, and sends these files."""
    hostile.answer(
        offer=reply(missing={}, free=1 << 40),
        start=reply(state="started", folder=folder),
        follow=reply(exit=0, files=list(files)),
        fetch=[("say", "".join(file(path, content) for path, content in files.items()) + line({"reply": {}}))],
        **others,
    )


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("path", "names a file outside its folder"),
        ("bundle", "a result of another bundle"),
        pytest.param("damaged", "arrived damaged", marks=pytest.mark.extra),
        pytest.param("short", "did not send", marks=pytest.mark.extra),
        ("local", "names a result that it did not send"),
        pytest.param("variant", "names a variant", marks=pytest.mark.extra),
        pytest.param("huge", "is too large to fetch", marks=pytest.mark.extra),
    ],
)
def test_a_device_that_makes_its_results_up(
    kind: str, why: str, edgekit: Edgekit, server: SshServer, hostile: HostilePython, awkward_bundle: Path, measured: bytes, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole command: one line, exit code 2, nothing of it kept, and nothing outside of the folder opened or written."""
    monkeypatch.setenv("PATH", server.client(tmp_path / "client"))
    monkeypatch.setattr("edgekit.bench.remote.device.RETRY_SECONDS", (0.01,))
    folder = str(server.cache / "remote" / "runs" / "f00")
    printed = {
        "results": [{"file": "/etc/hostname" if kind == "local" else f"{folder}/{RUN}"}],
        "failed": [],
        "left_out": [],
    }
    if kind == "variant":
        printed["failed"] = [{"variant": "\x1b[2Jx", "reason": "x"}]
    files = {RUN: measured, "stdout": json.dumps(printed).encode()}
    if kind == "path":
        files = {f"results/../../../{tmp_path.name}-outside.json": measured, **files}
    elif kind == "bundle":
        files[RUN] = changed_result(measured, bundle_digest="1" * 64)
    answers(hostile, folder, files, finish=reply(folder=f"{folder}-kept"))
    if kind in ("damaged", "short", "huge"):
        other = {"damaged": {"sha256": DIGEST}, "huge": {"bytes": 2**50}}.get(kind, {})
        sent = file("stdout" if kind == "short" else RUN, files[RUN], **other)
        hostile.answer(**{**_answered(hostile), "fetch": [("say", sent + line({"reply": {}}))]})
    output = tmp_path / "out"
    options = ("--python", hostile.path, "--device", server.url, "--output", output)
    code, out, err = edgekit("bench", awkward_bundle, *options)
    assert code == 2, err
    assert why in one_line(err)
    assert "\x1b" not in out + err
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "client"] == []


def _answered(hostile: HostilePython) -> dict[str, Any]:
    answered: dict[str, Any] = json.loads(hostile.path.with_name("answers.json").read_text())
    return answered


def test_one_of_two_devices_misbehaves(
    edgekit: Edgekit,
    server: SshServer,
    sshd: str,
    awkward_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The well-behaved one is measured and printed, the other is one line beside it; the exit code is 1."""
    second = SshServer(tmp_path / "second", sshd)
    try:
        for one, other in ((server, second), (second, server)):
            (one.folder / "authorized_keys").write_text(
                (server.folder / "user.pub").read_text() + (second.folder / "user.pub").read_text()
            )
            hosts = (one.folder / "known_hosts").read_text().splitlines()[:1]
            (one.folder / "known_hosts").write_text(
                "\n".join([*hosts, (other.folder / "known_hosts").read_text().splitlines()[0], ""])
            )
        monkeypatch.setenv("PATH", server.client(tmp_path / "client"))
        well, evil = tmp_path / "well", tmp_path / "evil"
        HostilePython(well)
        HostilePython(evil).answer(probe=[("say for ever", "\x1b[2Jx")])
        chosen = tmp_path / "python"
        chosen.write_text(
            f'#!/bin/sh\nset -- "$@"\ncase "$EDGEKIT_CACHE" in *second*) exec "{evil}/python" "$@";; *) exec "{well}/python" "$@";; esac\n'
        )
        chosen.chmod(0o755)
        output = tmp_path / "out"
        options = ("--quick", "--seconds", "0.1", "--threads", "1", "--variant", "onnx-fp32", "--output", output)
        devices = ("--python", chosen, "--device", f"{second.url},{server.url}")
        code, out, err = edgekit("bench", awkward_bundle, *options, *devices)
    finally:
        second.stop()
    assert code == 1, err
    assert one_line(err) == "error: 1 of 2 devices failed or measured only a part, see above"
    assert Result.read(output / server.device / Path(RUN).name).measurement.kind == "latency"
    [failed] = [text for text in out.splitlines() if "failed: " in text]
    assert failed.startswith(f"{second.url}: failed: sends a line of more than 4,194,304 bytes")
    assert "onnx-fp32" in out
    assert "\x1b" not in out + err


def test_a_bug_with_one_device_does_not_cost_the_others(
    awkward_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever escapes from one device's visit is that device's failure, and is called a bug."""
    monkeypatch.delenv("EDGEKIT_DEBUG", raising=False)
    first, second = parse(["ssh://a,ssh://b"])

    def measure(address: object, *_: object) -> None:
        raise TypeError("'int' object is not iterable") if address == first else RemoteError(f"{address}: no")

    monkeypatch.setattr(fan_out, "measure", measure)
    failed = fan_out.bench_on([first, second], Bundle.open(awkward_bundle), tmp_path / "out").failed
    assert [error.exit_code for error in failed.values()] == [70, 2]
    assert "ssh://a: internal error: TypeError: 'int' object is not iterable (edgekit --debug" in str(failed[first])
    assert failed[second].message == "ssh://b: no"
