"""Devices that say what edgekit never would: one line each, within bounds, and the others go on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench.remote import conversation, fan_out, on_device, replies
from edgekit.bench.remote.address import parse
from edgekit.bench.remote.connection import Connection
from edgekit.bench.remote.conversation import Conversation, TooSlow
from edgekit.bench.remote.replies import VERBS, parse_message, parse_printed, parse_python
from edgekit.bench.remote.results import Inbox, check_result
from edgekit.bundle import Bundle
from edgekit.errors import RemoteError
from edgekit.result import Result
from hostile_device import HostilePython, file, line, reply
from ssh_server import SshServer, one_line

Edgekit = Callable[..., tuple[int, str, str]]
DIGEST = "0" * 64
ABSURD = 10**400
DEEP = "[" * 100_000
PROBE = {
    "python": "3.11.2", "executable": "/usr/bin/python3", "architecture": "aarch64", "root": "/home/pi/.cache", "missing": [],
    "gpu": False,
}  # fmt: skip
DATA = {"event": "data", "path": "results/a.json", "bytes": 3, "sha256": DIGEST}


def probe(**other: Any) -> str:
    return json.dumps({"reply": {**PROBE, **other}})


# What a verb must not be answered with. Each was a traceback, a hang or worse, or is a sibling of one that was.
MALFORMED = {
    "nothing": ("probe", ""),
    "no JSON": ("probe", "{"),
    "cut off": ("probe", probe()[:40]),
    "no UTF-8": ("probe", '{"reply": "\xff\xfe"}'),
    "a list": ("probe", "[1, 2]"),
    "a number": ("probe", "7"),
    "null": ("probe", "null"),
    "an empty object": ("probe", "{}"),
    "nested deep": ("probe", DEEP),
    "nested deep in a reply": ("probe", '{"reply": ' + DEEP),
    "NaN": ("probe", "NaN"),
    "a number of 5,000 digits": ("offer", '{"reply": {"missing": {}, "free": ' + "9" * 5000 + "}}"),
    "a reply that is null": ("probe", '{"reply": null}'),
    "a reply that is a list": ("probe", '{"reply": []}'),
    "a reply that is text": ("probe", '{"reply": "yes"}'),
    "an empty reply": ("probe", '{"reply": {}}'),
    "a key too few": ("probe", json.dumps({"reply": {k: v for k, v in PROBE.items() if k != "gpu"}})),
    "a key too many": ("probe", probe(more=1)),
    "beside the reply": ("probe", '{"reply": {}, "more": 1}'),
    "a wrong type": ("probe", probe(missing="numpy")),
    "text for yes or no": ("probe", probe(gpu="yes")),
    "a number for text": ("probe", probe(python=3)),
    "a relative program": ("probe", probe(executable="python3")),
    "a NUL in a path": ("probe", probe(executable="/usr/bin/python\0")),
    "an escape in a path": ("probe", probe(root="/home/\x1b[2J")),
    "a newline in a name": ("probe", probe(architecture="arm\nerror: forged")),
    "half a character": ("probe", '{"reply": {"python": "\\ud800"}}'),
    "a long name": ("probe", probe(python="3" * 100_000)),
    "many names": ("probe", probe(missing=["numpy"] * 100_000)),
    "an error that is no text": ("probe", '{"error": {}, "full": false}'),
    "an error without more": ("probe", '{"error": "broken"}'),
    "an unknown event": ("probe", '{"event": "party"}'),
    "an event that is a list": ("probe", '{"event": ["say"]}'),
    "an event of another verb": ("probe", json.dumps(DATA)),
    "no digest": ("offer", '{"reply": {"missing": {"../../etc/passwd": 0}, "free": 9}}'),
    "less than nothing": ("offer", f'{{"reply": {{"missing": {{"{DIGEST}": -1}}, "free": 9}}}}'),
    "infinitely free": ("offer", '{"reply": {"missing": {}, "free": Infinity}}'),
    "half a byte": ("offer", '{"reply": {"missing": {}, "free": 0.5}}'),
    "damaged names": ("store", '{"reply": {"damaged": ["x"]}}'),
    "damaged is a number": ("store", '{"reply": {"damaged": 7}}'),
    "an environment nowhere": ("environment", '{"reply": {"python": "", "extras": [], "failed": {}}}'),
    "reasons in a list": ("environment", '{"reply": {"python": "/p", "extras": [], "failed": ["ort"]}}'),
    "an unknown state": ("start", '{"reply": {"state": "thinking", "folder": "/r"}}'),
    "text as exit code": ("follow", '{"reply": {"exit": "0", "files": []}}'),
    "a huge exit code": ("follow", f'{{"reply": {{"exit": {ABSURD}, "files": []}}}}'),
    "a file that is a number": ("follow", '{"reply": {"exit": 0, "files": [7]}}'),
    "a million files": ("follow", json.dumps({"reply": {"exit": 0, "files": ["stdout"] * 1_000_000}})),
    "a line without an end": ("follow", '{"event": "line", "text": "x"}'),
    "a line that ends before it began": ("follow", '{"event": "line", "text": "x", "seen": -1}'),
    "a long line": ("follow", json.dumps({"event": "line", "text": "x" * 100_000, "seen": 1})),
    "a file of no size": ("fetch", json.dumps({**DATA, "bytes": None})),
    "a file of negative size": ("fetch", json.dumps({**DATA, "bytes": -5})),
    "a file of absurd size": ("fetch", json.dumps({**DATA, "bytes": ABSURD})),
    "a file without a name": ("fetch", json.dumps({**DATA, "path": None})),
    "no digest of a file": ("fetch", json.dumps({**DATA, "sha256": "0"})),
    "stopped by half": ("stop", '{"reply": {"stopped": 0.5}}'),
    "a folder that is none": ("finish", '{"reply": {"folder": "home"}}'),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_a_device_says_is_read_or_refused(kind: str) -> None:
    op, text = MALFORMED[kind]
    with pytest.raises(RemoteError, match="ssh://nano: ") as error:
        parse_message(op, text.encode("latin-1"), "ssh://nano")
    assert len(str(error.value)) < 600, "it quotes too much"


def test_a_reply_as_edgekit_gives_it_is_read() -> None:
    assert parse_message("probe", probe().encode(), "d") == replies.Probe(**PROBE)  # type: ignore[arg-type]
    assert parse_message("fetch", json.dumps(DATA).encode(), "d") == replies.Data(**DATA)  # type: ignore[arg-type]
    assert isinstance(parse_message("follow", b'{"event": "alive"}', "d"), replies.Alive)
    assert parse_message("probe", b'{"error": "no", "full": true}', "d") == replies.Failure(error="no", full=True)
    assert set(VERBS) == {"probe", "offer", "store", "environment", "start", "follow", "stop", "fetch", "finish"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PROBE, *DATA, "reply", "error", "x"]), inner),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(sorted(VERBS)), JSON | st.builds(lambda value: {"reply": value}, JSON))
def test_anything_is_read_or_refused(op: str, value: Any) -> None:
    with contextlib.suppress(RemoteError):
        parse_message(op, json.dumps(value).encode(), "d")


@pytest.mark.parametrize(
    "lines", [[b"@edgekit /usr/bin/\x1b[2Jpython\n"], [b"@edgekit " + b"/" * 5000], [b"@edgekit x"] * 1000]
)
def test_a_python_that_cannot_be_one(lines: list[bytes]) -> None:
    with pytest.raises(RemoteError, match="names no Python"):
        parse_python(lines, "d")
    assert parse_python([b"welcome!\n", b"@edgekit /usr/bin/python3\n"], "d") == (["/usr/bin/python3"], "welcome!")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"results": 7}', '{"results": [{}]}', '{"results": [{"file": 7}]}', '{"failed": [{"variant": "a"}]}',
     '{"left_out": [[]]}', DEEP, '{"failed": [{"variant": 1, "reason": "x"}]}'],
)  # fmt: skip
def test_what_a_bench_prints_is_read_or_refused(text: str) -> None:
    with pytest.raises(RemoteError, match=r"d: what it says cannot be understood"):
        parse_printed(text.encode(), "d")
    assert parse_printed(b"", "d").results == []


def conversation_with(script: str, seconds: float = 600.0, silence: float = 600.0) -> tuple[Conversation, Any]:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, **streams)
    return Conversation(child, "d", seconds, silence=silence), child


def end(child: Any) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        stream.close()


@pytest.mark.parametrize(
    ("script", "seconds", "silence", "why"),
    [
        ("yes | tr -d '\\n'", 600, 600, "sends a line of more than 4,194,304 bytes"),
        ("yes", 600, 600, "says more than 16,777,216 bytes"),
        ("yes >&2", 600, 600, "says more than 16,777,216 bytes"),
        ("exec sleep 3600", 600, 0.5, "no word from it for 0 s"),
        ("while :; do printf x; sleep 0.05; done", 0.5, 600, "has not done it within 0 s"),
        ("while :; do printf x >&2; sleep 0.05; done", 0.5, 600, "has not done it within 0 s"),
    ],
)
def test_what_never_ends_is_ended(script: str, seconds: float, silence: float, why: str) -> None:
    talk, child = conversation_with(script, seconds, silence)
    try:
        with pytest.raises(RemoteError, match=why):
            for _ in talk.lines():
                pass
    finally:
        end(child)


def test_a_device_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    talk, child = conversation_with("exec sleep 3600", silence=0.5)
    try:
        with pytest.raises(TooSlow, match="no word from it"):
            talk.send([b"x" * (1 << 20)])
    finally:
        end(child)


def test_both_ends_speak_at_once_and_the_last_words_are_kept() -> None:
    """More on every stream than a pipe takes: nobody waits for ever for the other."""
    script = "head -c 300000 /dev/zero | tr '\\0' x; echo; cat >/dev/null; yes | head -c 300000 >&2; echo '  over ' >&2; echo end"
    talk, child = conversation_with(script)
    talk.send([b"y" * 1_000_000])
    assert talk.line() == b"x" * 300_000
    child.stdin.close()
    assert talk.line() == b"end"
    assert talk.line() is None
    assert talk.last_words() == "over"
    child.wait()
    child.stdout.close()
    child.stderr.close()


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


def test_malformed_replies_over_ssh(connection: Connection, hostile: HostilePython) -> None:
    """One of each verb through a real session, one after the other over one connection, which outlives them all."""
    for op in VERBS:
        text = next(text for asked, text in reversed(MALFORMED.values()) if asked == op)
        hostile.answer(**{op: [("say", "a login shell's greeting\n"), ("say", line(text))]})
        with pytest.raises(RemoteError, match=f"{connection.address}: .*(cannot be understood|no such event)"):
            connection.call(op, VERBS[op].reply)
    hostile.answer()
    assert connection.call("probe", replies.Probe).executable == str(hostile.path)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([("say for ever", "x")], "sends a line of more than"),
        ([("say for ever", "x\n" * 999)], "says more than"),
        ([("complain for ever", "x\n" * 999)], "says more than"),
        ([("say", line(PROBE)[:20]), ("end", 0)], "failed on the device: exit code 0"),
        ([("end", 3)], "failed on the device: exit code 3"),
        ([("end", 255)], "the connection is lost"),
        ([("sleep", 0)], "no word from it"),
    ],
)
def test_endless_silent_and_cut_off_over_ssh(
    answer: list[tuple[str, Any]], why: str, connection: Connection, hostile: HostilePython, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    if answer[0][0] == "sleep":
        monkeypatch.setattr(conversation, "SILENCE_SECONDS", 5.0)
    hostile.answer(probe=answer)
    with pytest.raises(RemoteError, match=why):
        connection.call("probe", replies.Probe)


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


def changed(content: bytes, **other: Any) -> bytes:
    """A result with other values in its measurement."""
    result = json.loads(content)
    result["measurement"].update(other)
    return json.dumps(result).encode()


UNFIT = {
    "no JSON": lambda r: b"{",
    "empty": lambda r: b"",
    "a list": lambda r: b"[]",
    "nested deep": lambda r: DEEP.encode(),
    "cut off": lambda r: r[:-20],
    "NaN": lambda r: changed(r, cv=float("nan")),
    "infinite": lambda r: changed(r, mean_ms=float("inf")),
    "too large to format": lambda r: changed(r, cv=1e300),
    "a batch of 400 digits": lambda r: changed(r, batch=ABSURD),
    "a sample of 400 digits": lambda r: changed(r, samples_ns=[ABSURD]),
    "a negative sample": lambda r: changed(r, samples_ns=[-5] * 20),
    "samples of text": lambda r: changed(r, samples_ns=["x"] * 100_000),
    "a bound without a rate": lambda r: changed(r, bound_ms=5.0),
    "another bundle's": lambda r: changed(r, bundle_digest="1" * 64),
    "another variant's": lambda r: changed(r, variant="\x1b[2Jother"),
    "a flood of warnings": lambda r: changed(r, warnings=["beware"] * 10_000),
    "a million texts": lambda r: changed(r, conditions={"x": [""] * 600_000}),
    "a text of a megabyte": lambda r: changed(r, runtime_version="1" * 1_000_000),
    "an unknown key": lambda r: changed(r, more=1),
    "another kind": lambda r: changed(r, kind="ablation"),
    "an evaluation": lambda r: json.dumps({**json.loads(r), "measurement": {
        "kind": "transfer", "run": "x", "weights_sha256": "0", "sets": []}}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_results_that_are_none_of_this_bench(kind: str, measured: bytes, awkward_bundle: Path) -> None:
    opened = Bundle.open(awkward_bundle)
    assert check_result(measured, "a.json", opened, "d").measurement.kind == "latency"
    with pytest.raises(RemoteError, match=r"^d: sends ") as error:
        check_result(UNFIT[kind](measured), "a.json", opened, "d")
    assert len(str(error.value)) < 600


def test_a_result_without_some_figures_is_shown_without_them(measured: bytes) -> None:
    """Older versions knew fewer percentiles."""
    percentiles = json.loads(measured)["measurement"]["percentiles_ms"]
    percentiles.pop("p99.9")
    result = Result.parse(changed(measured, percentiles_ms=percentiles), "a.json")
    assert result.measurement.percentiles_ms["p99.9"] is None  # type: ignore[union-attr]


PATHS = [
    "/etc/passwd", "../x.json", "results/../../x.json", "results/a/../../../x.json", "results/\x1b[2J.json", "results/a\nb.json",
    "results/" + "a" * 2000 + ".json",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_file_lands_in_its_folder_or_nowhere(path: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="names a file that leaves its folder"):
        Inbox(tmp_path / "out", "d", ["stdout", path])
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_edgekits_are_not_asked_for(tmp_path: Path) -> None:
    asked = ["stdout", "stderr", "results/a.json", "results/.bashrc", "results/a.sh", "results/b/c.json", "x.json"]
    asked += ["results/a-loadgen-logs/mlperf_log_summary.txt", "results/a-loadgen-logs/evil.txt", "results/a.json"]
    with Inbox(tmp_path / "out", "d", asked) as inbox:
        assert inbox.names == ["stdout", "results/a.json", "results/a-loadgen-logs/mlperf_log_summary.txt"]
        assert len(inbox.others) == 6
        unknown = replies.Data(event="data", path="results/b.json", bytes=1, sha256=DIGEST)
        with pytest.raises(RemoteError, match="that nobody asked for"), inbox.receive(unknown):
            pass
        huge = replies.Data(event="data", path="stdout", bytes=1 << 40, sha256=DIGEST)
        with pytest.raises(RemoteError, match="is more than is taken from a device"), inbox.receive(huge):
            pass
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_fetch_left_goes_and_other_files_stay(tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / ".fetch.abcdefgh.tmp" / "results").mkdir(parents=True)
    (output / ".fetch.abcdefgh.tmp" / "results" / "a.json").write_text("{")
    (output / ".notes.tmp").write_text("mine")
    with Inbox(output, "d", ["stdout"]):
        pass
    assert [path.name for path in output.iterdir()] == [".notes.tmp"]


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
        ("path", "names a file that leaves its folder"),
        ("bundle", "a result of another bundle"),
        pytest.param("damaged", "arrived damaged", marks=pytest.mark.slow),
        pytest.param("short", "did not send", marks=pytest.mark.slow),
        ("local", "names a result that it did not send"),
        pytest.param("variant", "speaks of a variant", marks=pytest.mark.slow),
        pytest.param("huge", "more than is taken from a device", marks=pytest.mark.slow),
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
        files[RUN] = changed(measured, bundle_digest="1" * 64)
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


def on_the_device(cache: Path, **request: Any) -> dict[str, Any]:
    """What edgekit's code for devices answers, in a process of its own."""
    done = subprocess.run(
        [sys.executable, on_device.__file__], input=json.dumps(request).encode() + b"\n", capture_output=True, check=True,
        env={**os.environ, "EDGEKIT_CACHE": str(cache)},
    )  # fmt: skip
    [answer] = [line for line in done.stdout.splitlines() if line.startswith(on_device.MARK)]
    content: dict[str, Any] = json.loads(answer[len(on_device.MARK) :])
    return content


def test_debris_on_a_device_goes_with_the_next_bench_and_foreign_files_stay(tmp_path: Path) -> None:
    root = tmp_path / "remote"
    key, other, held, young, ended, kept = ("0" * 15 + d for d in "123456")
    goes = [
        f"runs/{key}/stderr", f"runs/{key}/bundle/model.onnx", f"objects/{'a' * 64}", f"objects/{'b' * 64}.part",
        f"wheels/{'c' * 64}/edgekit/x.py", "wheels/tmpabcd_123/edgekit/x.py", "wheels/edgekit.abcd_123.tmp/edgekit/x.py",
        "edgekit.abcd_123.tmp/e.whl", "tmpabcd_123/e.whl", f"venvs/{key}/bin/python",
    ]  # fmt: skip
    stays = [
        f"runs/{held}/stderr", f"runs/{young}/stderr", f"runs/{ended}/exit", f"runs/{kept}-kept-20260101-000000/exit", "runs/notes/x",
        "objects/README", "objects/abc", "wheels/mine.whl", "tmpfoolish", "tmpabcdefgh/thesis.tex", "notes.txt",
        f"venvs/{other}/edgekit.json", f"venvs/{held}/bin/python", "edgekit.abcdefgi.tmp/e.whl", f"venvs/{key}.lock",
    ]  # fmt: skip
    for name in (*goes, *stays, f"runs/{key}/lock", f"runs/{held}/lock", f"venvs/{held}.lock"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    long_ago = time.time() - 40 * 86400
    for path in sorted(root.rglob("*"), key=lambda path: -len(path.parts)):
        os.utime(path, (long_ago, long_ago))
    for path in (root / "runs" / young / "stderr", root / "runs" / ended / "exit"):
        os.utime(path)  # it may still be asked for
    handles = [
        os.open(root / name, os.O_RDONLY)
        for name in (f"runs/{held}/lock", f"venvs/{held}.lock", "edgekit.abcdefgi.tmp")
    ]
    for handle in handles:
        fcntl.flock(handle, fcntl.LOCK_EX)
    assert on_the_device(tmp_path, op="probe")["reply"]["root"] == str(root)
    assert [name for name in goes if (root / name).exists()] == []
    assert not (root / "runs" / key).exists()
    assert [name for name in stays if not (root / name).exists()] == []
    # Whoever held them has ended.
    for handle in handles:
        os.close(handle)
    on_the_device(tmp_path, op="probe")
    assert not (root / "runs" / held).exists()
    assert not (root / "venvs" / held).exists()
    assert not (root / "edgekit.abcdefgi.tmp").exists()


def test_a_device_says_that_it_is_there_while_it_works(tmp_path: Path, awkward_bundle: Path) -> None:
    """Without that, the other end would give up on an installation of some minutes."""
    program = Path(on_device.__file__).read_text().replace("_ALIVE_SECONDS = 10.0", "_ALIVE_SECONDS = 0.01")
    program = program.replace("def probe(_: BinaryIO)", "def probe(_: BinaryIO, wait=time.sleep(0))")
    program = program.replace("    folder = root()\n", "    time.sleep(0.3)\n    folder = root()\n", 1)
    done = subprocess.run(
        [sys.executable, "-c", program], input=b'{"op": "probe"}\n', capture_output=True, check=True,
        env={**os.environ, "EDGEKIT_CACHE": str(tmp_path)},
    )  # fmt: skip
    messages = [parse_message("probe", text[len(replies.MARK) :], "d") for text in done.stdout.splitlines()]
    assert isinstance(messages[-1], replies.Probe)
    assert messages[:-1]
    assert all(isinstance(message, replies.Alive) for message in messages[:-1])
