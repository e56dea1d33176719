"""Devices that say what edgekit never would: what they say is read or refused in one line, within bounds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench.remote import replies
from edgekit.bench.remote.conversation import Conversation, TooSlow
from edgekit.bench.remote.replies import VERBS, parse_message, parse_output, parse_python
from edgekit.errors import RemoteError
from tests.helpers.malformed_replies import DATA, DEEP, MALFORMED, PROBE, probe


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_a_device_says_is_read_or_refused(kind: str) -> None:
    op, text = MALFORMED[kind]
    with pytest.raises(RemoteError, match="ssh://nano: ") as error:
        parse_message(op, text.encode("latin-1"), "ssh://nano")
    assert len(str(error.value)) < 600, "it quotes too much"


def test_a_reply_as_edgekit_gives_it_is_read() -> None:
    assert parse_message("probe", probe().encode(), "d") == replies.ProbeReply(**PROBE)  # type: ignore[arg-type]
    assert parse_message("fetch", json.dumps(DATA).encode(), "d") == replies.FileEvent(**DATA)  # type: ignore[arg-type]
    assert isinstance(parse_message("follow", b'{"event": "alive"}', "d"), replies.AliveEvent)
    assert parse_message("probe", b'{"error": "no", "full": true}', "d") == replies.FailureReply(error="no", full=True)
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
    with pytest.raises(RemoteError, match="names a Python that cannot be run"):
        parse_python(lines, "d")
    assert parse_python([b"welcome!\n", b"@edgekit /usr/bin/python3\n"], "d") == (["/usr/bin/python3"], "welcome!")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"results": 7}', '{"results": [{}]}', '{"results": [{"file": 7}]}', '{"failed": [{"variant": "a"}]}',
     '{"left_out": [[]]}', DEEP, '{"failed": [{"variant": 1, "reason": "x"}]}'],
)  # fmt: skip
def test_what_a_bench_prints_is_read_or_refused(text: str) -> None:
    with pytest.raises(RemoteError, match=r"d: sends an invalid message"):
        parse_output(text.encode(), "d")
    assert parse_output(b"", "d").results == []


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
        ("yes", 600, 600, "sends more than 16,777,216 bytes"),
        ("yes >&2", 600, 600, "sends more than 16,777,216 bytes"),
        ("exec sleep 3600", 600, 0.5, "sent nothing for 0 s"),
        ("while :; do printf x; sleep 0.05; done", 0.5, 600, "did not finish within 0 s"),
        ("while :; do printf x >&2; sleep 0.05; done", 0.5, 600, "did not finish within 0 s"),
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
        with pytest.raises(TooSlow, match="sent nothing"):
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
    assert talk.last_error_line() == "over"
    child.wait()
    child.stdout.close()
    child.stderr.close()
