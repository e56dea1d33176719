"""What edgekit's code does on a device: it removes its own debris, leaves other files, and says that it is there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgekit.bench.remote import on_device, replies
from edgekit.bench.remote.replies import parse_message


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
    assert isinstance(messages[-1], replies.ProbeReply)
    assert messages[:-1]
    assert all(isinstance(message, replies.AliveEvent) for message in messages[:-1])
