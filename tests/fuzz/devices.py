"""What devices answer to `bench --device`: the whole command, with a device on the other end of its pipes that says what it likes."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgekit.bench.remote import device, wheel
from edgekit.bench.remote.connection import Connection
from edgekit.bundle import Bundle
from tests.helpers.report_sample import make_latency, write_result
from tests.helpers.tiny_bundle import make_bundle

from .judge import run_command
from .mutators import Draws, changed_bytes, changed_tree, json_bytes

MEMORY = 512 << 20  # 16 MiB of lines, 64 MiB of a file of results, and what is made of them
_MARK = b"@edgekit "
_ROOT = "/home/pi/.cache/edgekit"
_RUN = "@@run@@"  # stands for the name that this side gives to the bench
_NAMES = (
    "../x.json", "results/../../x.json", "/etc/passwd", "results/\x1b[2J.json", "results/a\nb.json", "", "results/", "stdout/x",
    "results/" + "a" * 300 + ".json",
)  # fmt: skip
_NOISE = (
    b"Welcome to Ubuntu\n", b"@edgekit \n", b"@edgekit {}\n", b"@edgekit [1]\n", b"\xff\xfe\n", b"x" * 100_000 + b"\n", b"\x00" * 6_000_000,
    b"@edgekit " + b"[" * 99_999 + b"\n", b"\r\n",
)  # fmt: skip
_OPS = ("python", "probe", "offer", "store", "environment", "start", "follow", "fetch", "finish", "stop")


@dataclass(frozen=True)
class File:
    """A file as `fetch` sends it, announced rightly whatever is in it."""

    path: str
    content: bytes


Message = dict[str, Any] | bytes | File  # a line of JSON, bytes as they are, or a line and the bytes that follow it


@dataclass
class Answer:
    """What a device says to one request.

    Attributes:
        messages: one after the other.
        damage: changes all of its bytes, if there is one.
        endless: it never ends.
    """

    messages: list[Message]
    damage: Draws | None = None
    endless: bool = False

    def written(self, run: str) -> bytes:
        """All bytes, for the bench that this side has given a name."""
        content = b"".join(_written(message, run) for message in self.messages)
        return changed_bytes(self.damage, content) if self.damage else content


class _Device(Connection):
    """A connection whose every process is one that prints a prepared answer."""

    answers: ClassVar[dict[str, Answer]] = {}
    work: ClassVar[Path]

    def open(self) -> None:
        self._op, self._run_name = "python", ""
        self._master = subprocess.Popen(["sleep", "600"])

    def call(self, op: str, *rest: Any, **named: Any) -> Any:
        self._op, self._run_name = op, str(named.get("run", ""))
        return super().call(op, *rest, **named)

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        answer, path = self.answers[self._op], self.work / "answer"
        path.write_bytes(answer.written(self._run_name))
        words = ["cat", "/dev/zero" if answer.endless else str(path)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def make_corpus(folder: Path) -> None:
    """A bundle, a wheel of this edgekit, and the results that a bench of the bundle would bring."""
    bundle = make_bundle(folder / "bundle", openvino=False)
    made = wheel.pack(folder)
    (folder / "wheel").write_text(made.path.name)
    write_result(
        folder / "onnx-fp32-b1.json",
        make_latency(bundle.variant("onnx-fp32"), bundle.digest, [400_000 + i for i in range(60)]),
    )


class Target:
    """One bench on one device a case."""

    def __init__(self, corpus: Path, secret: Path) -> None:
        self._bundle, self._wheel = corpus / "bundle", corpus / (corpus / "wheel").read_text()
        self._result = json.loads((corpus / "onnx-fp32-b1.json").read_text())
        Bundle.open(self._bundle)
        device.Connection = _Device  # type: ignore[misc]
        device.RETRY_SECONDS = ()  # type: ignore[assignment]

    def run(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """Prepare every answer; gives the command that hears them."""
        own_python, forged = draws.random() < 0.8, draws.random() < 0.3
        result = json_bytes(draws, changed_tree(draws, self._result)) if forged else json.dumps(self._result).encode()
        answers = _answers(result, own_python)
        if not forged:
            for op in draws.sample(_OPS[:-1], draws.choice((1, 1, 2))):
                others = [message for answer in answers.values() for message in answer.messages]
                answers[op].messages = _changed(draws, answers[op].messages, others)
        for answer in answers.values():
            if draws.random() < 0.03:
                answer.damage = random.Random(draws.random())
            answer.endless = draws.random() < 0.0005
        _Device.work, _Device.answers = folder, answers
        words = ["--python", "/usr/bin/python3"] if own_python else []
        words += draws.choice(([], ["--json"], ["--keep"]))
        return lambda: run_command(
            "bench",
            self._bundle,
            "--device",
            "ssh://pi@device",
            "--wheel",
            self._wheel,
            "--quick",
            "--output",
            folder / "out",
            *words,
        )


def _answers(result: bytes, own_python: bool) -> dict[str, Answer]:
    """What a device says where all is well."""
    row = {"file": f"{_ROOT}/runs/{_RUN}/results/onnx-fp32-b1.json", "variant": "onnx-fp32"}
    printed = json.dumps({"bundle": "tiny", "results": [row], "failed": [], "left_out": []}).encode()
    files: list[Message] = [File("results/onnx-fp32-b1.json", result), File("stdout", printed)]
    replies: dict[str, Any] = {
        "probe": {"python": "3.11.2", "executable": "/usr/bin/python3", "architecture": "aarch64", "root": _ROOT, "missing": [], "gpu": False},
        "offer": {"missing": {}, "free": 1 << 40}, "store": {"damaged": []}, "start": {"state": "started", "folder": f"{_ROOT}/runs/{_RUN}"},
        "environment": {"python": f"{_ROOT}/venvs/a/bin/python", "extras": ["ort"], "failed": {}},
        "follow": {"exit": 0, "files": ["results/onnx-fp32-b1.json", "stdout"]}, "fetch": {}, "finish": {"folder": f"{_ROOT}/runs/{_RUN}"},
        "stop": {"stopped": True},
    }  # fmt: skip
    before: dict[str, list[Message]] = {
        "environment": [{"event": "say", "text": "installing"}],
        "follow": [{"event": "line", "text": "onnx-fp32: 0.4 ms", "seen": 20}],
        "fetch": files,
    }
    answers = {op: Answer([*before.get(op, []), {"reply": reply}]) for op, reply in replies.items()}
    answers["python"] = Answer([_MARK + (b"True 3.11.2\n" if own_python else b"/usr/bin/python3\n")])
    return answers


def _written(message: Message, run: str) -> bytes:
    if isinstance(message, bytes):
        return message
    if isinstance(message, File):
        content = message.content.replace(_RUN.encode(), run.encode())
        reply = {
            "event": "data",
            "path": message.path,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        return _written(reply, run) + content
    return _MARK + json.dumps(message).replace(_RUN, run).encode() + b"\n"


def _changed(draws: Draws, messages: list[Message], others: list[Message]) -> list[Message]:
    """The same answer with a message changed, left out, doubled, or of another request; or with something before it."""
    made, at, change = list(messages), draws.randrange(len(messages)), draws.random()
    one = made[at]
    if change < 0.08:
        del made[at]
    elif change < 0.16:
        made.insert(at, draws.choice(others))
    elif change < 0.24:
        made.insert(at, draws.choice(_NOISE))
    elif change < 0.3:
        made = made * draws.choice((2, 3))
    elif isinstance(one, bytes):
        made[at] = changed_bytes(draws, one)
    elif isinstance(one, File):
        made[at] = _changed_file(draws, one)
    elif "files" in one.get("reply", {}) and change < 0.6:
        name = draws.choice(_NAMES)
        made[at] = {"reply": {"exit": draws.choice((0, 1, None, -9)), "files": [*one["reply"]["files"], name]}}
    else:
        made[at] = _MARK + json_bytes(draws, changed_tree(draws, one)).replace(b"\n", b" ") + b"\n"
    return made


def _changed_file(draws: Draws, file: File) -> Message:
    """Other content, or something else announced than what follows."""
    kind = draws.random()
    if kind < 0.3:
        return File(file.path, changed_bytes(draws, file.content))
    if kind < 0.7:
        return File(file.path, json_bytes(draws, changed_tree(draws, json.loads(file.content))))
    reply = {
        "event": "data",
        "path": file.path,
        "bytes": len(file.content),
        "sha256": hashlib.sha256(file.content).hexdigest(),
    }
    return _MARK + json_bytes(draws, changed_tree(draws, reply)).replace(b"\n", b" ") + b"\n" + file.content
