"""What devices answer to `bench --device`: the whole command, with a device on the other end of its pipes that says what it likes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from edgekit.bench.remote import device, wheel
from edgekit.bench.remote.connection import Connection
from edgekit.bundle import Bundle
from report_sample import make_latency, write_result
from tiny_bundle import make_bundle

from .judge import run_command
from .mutators import Draws, changed_bytes, changed_tree, json_bytes

MEMORY = 512 << 20  # 16 MiB of lines, 64 MiB of a file of results, and what is made of them
_MARK = b"@edgekit "
_ROOT = "/home/pi/.cache/edgekit"
_RUN = "@@run@@"  # stands for the name that this side gives to the bench
_OPS = ("python", "probe", "offer", "store", "environment", "start", "follow", "fetch", "finish", "stop")
Message = tuple[dict[str, Any], bytes]  # what a line says, and the bytes that follow it


class _Device(Connection):
    """A connection whose every process is one that prints a prepared answer."""

    answers: ClassVar[dict[str, Path]] = {}
    work: ClassVar[Path]

    def open(self) -> None:
        self._op, self._run_name = "python", ""
        self._master = subprocess.Popen(["sleep", "600"])

    def call(self, op: str, *rest: Any, **named: Any) -> Any:
        self._op, self._run_name = op, str(named.get("run", ""))
        return super().call(op, *rest, **named)

    def _start(self, command: str, *stderr: Any) -> subprocess.Popen[bytes]:
        path = self.answers[self._op]
        if path != Path("/dev/zero") and _RUN.encode() in (content := path.read_bytes()):
            path = self.work / "answer"
            path.write_bytes(content.replace(_RUN.encode(), self._run_name.encode()))
        return subprocess.Popen(
            ["cat", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr[0] if stderr else subprocess.PIPE,
        )


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
        own_python = draws.random() < 0.8
        result = changed_tree(draws, self._result) if draws.random() < 0.3 else self._result
        answers = self._answers(
            json_bytes(draws, result) if result is not self._result else json.dumps(result).encode(), own_python
        )
        if result is self._result:
            for op in draws.sample(_OPS[:-1], draws.choice((1, 1, 2))):
                answers[op] = _changed(draws, answers[op], [b for a in answers.values() for b in a])
        _Device.work, _Device.answers = folder, {}
        for op, messages in answers.items():
            path = folder / f"{op}.answer"
            path.write_bytes(b"".join(line if isinstance(line, bytes) else _line(line) for line in messages))
            _Device.answers[op] = path
            if draws.random() < 0.1:
                path.write_bytes(changed_bytes(draws, path.read_bytes()))
            elif draws.random() < 0.001:
                _Device.answers[op] = Path("/dev/zero")
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

    def _answers(self, result: bytes, own_python: bool) -> dict[str, list[Any]]:
        digests = {"missing": {}, "free": 1 << 40}
        files = ["results/onnx-fp32-b1.json", "stdout"]
        row = {"file": f"{_ROOT}/runs/{_RUN}/results/onnx-fp32-b1.json", "variant": "onnx-fp32"}
        printed = json.dumps({"bundle": "tiny", "results": [row], "failed": [], "left_out": []}).encode()
        probe = {
            "python": "3.11.2",
            "executable": "/usr/bin/python3",
            "architecture": "aarch64",
            "root": _ROOT,
            "missing": [],
            "gpu": False,
        }
        replies: dict[str, Any] = {
            "probe": probe, "offer": digests, "store": {"damaged": []},
            "environment": {"python": f"{_ROOT}/venvs/a/bin/python", "extras": ["ort"], "failed": {}},
            "start": {"state": "started", "folder": f"{_ROOT}/runs/{_RUN}"}, "follow": {"exit": 0, "files": files}, "fetch": {},
            "finish": {"folder": f"{_ROOT}/runs/{_RUN}"}, "stop": {"stopped": True},
        }  # fmt: skip
        answers: dict[str, list[Any]] = {op: [({"reply": reply}, b"")] for op, reply in replies.items()}
        answers["environment"].insert(0, ({"event": "say", "text": "installing"}, b""))
        answers["follow"].insert(0, ({"event": "line", "text": "onnx-fp32: 0.4 ms", "seen": 20}, b""))
        answers["fetch"][:0] = [_file(files[0], result), _file("stdout", printed)]
        answers["python"] = [_MARK + (b"True 3.11.2\n" if own_python else b"/usr/bin/python3\n")]
        return answers


def _file(path: str, content: bytes) -> Message:
    return {
        "event": "data",
        "path": path,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }, content


def _line(message: Message) -> bytes:
    return _MARK + json.dumps(message[0]).encode() + b"\n" + message[1]


def _changed(draws: Draws, messages: list[Any], others: list[Any]) -> list[Any]:
    """The same answer with a message changed, left out, doubled, or of another request; or with something before it."""
    made, at, change = list(messages), draws.randrange(len(messages)), draws.random()
    one = made[at]
    if change < 0.08:
        del made[at]
    elif change < 0.16:
        made.insert(at, draws.choice(others))
    elif change < 0.24:
        noise = (
            b"Welcome to Ubuntu\n",
            b"@edgekit \n",
            b"@edgekit {}\n",
            b"@edgekit [1]\n",
            b"\xff\xfe\n",
            b"x" * 100_000 + b"\n",
            b"\x00" * 6_000_000,
            b"@edgekit " + b"[" * 99_999 + b"\n",
            b"\r\n",
        )
        made.insert(at, draws.choice(noise))
    elif change < 0.3:
        made = made * draws.choice((2, 3))
    elif isinstance(one, bytes):
        made[at] = changed_bytes(draws, one)
    elif one[1] and change < 0.55:
        content = (
            changed_bytes(draws, one[1])
            if draws.random() < 0.4
            else json_bytes(draws, changed_tree(draws, json.loads(one[1])))
        )
        told = one[0] if draws.random() < 0.3 else _file(one[0]["path"], content)[0]
        made[at] = (told, content)
    elif "files" in one[0].get("reply", {}) and change < 0.6:
        name = draws.choice(
            (
                "../x.json",
                "results/../../x.json",
                "/etc/passwd",
                "results/\x1b[2J.json",
                "results/a\nb.json",
                "",
                "results/",
                "stdout/x",
                "results/" + "a" * 300 + ".json",
            )
        )
        made[at] = (
            {"reply": {"exit": draws.choice((0, 1, None, -9)), "files": [*one[0]["reply"]["files"], name]}},
            b"",
        )
    else:
        made[at] = _MARK + json_bytes(draws, changed_tree(draws, one[0])).replace(b"\n", b" ") + b"\n" + one[1]
    return made
