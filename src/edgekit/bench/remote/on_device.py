"""The program that runs on the device: one request, one reply. Standard library only, as nothing is installed there yet.

Its source goes over the SSH connection to `python3 -I -c …`, followed by a line of JSON (the request: `op` and its arguments) and,
for `store`, the bytes of files. It answers with lines that begin with `MARK`; other lines, from a login shell, are skipped:
`{"event": …}` any number of times (every few seconds one that it is alive), then `{"reply": …}` or `{"error": …}`.
No name is passed through a shell.

All files are in one private folder, `remote/` in edgekit's cache on the device:

    objects/SHA256        the bundle's files and the wheel, by content; `.part` during the transfer
    wheels/SHA256/        an unpacked wheel, for PYTHONPATH
    venvs/KEY/            a private environment with edgekit's dependencies and runtimes; complete if it has `edgekit.json`
    runs/ID/              one bench: bundle/ (links to objects), results/, stdout, stderr, `error` if it failed, `exit` once it has ended
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any, BinaryIO

MARK = b"@edgekit "
_BLOCK = 1 << 18
_MOST_TEXT = 2000  # characters of a program's output in one message
_ALIVE_SECONDS = 10.0
_KEEP_SECONDS = 30 * 86400.0  # an unused object is removed after this time
_PICK_UP_SECONDS = 86400.0  # older results are not returned; the bench runs again
_MADE_SECONDS = 60.0  # a scratch folder is locked a moment after it is created
_DEAD_SECONDS = 3600.0  # a killed bench is removed after this time
# Name patterns: a key, a digest, the random part of tempfile's names.
_KEY, _OBJECT, _RANDOM = "[0-9a-f]{16}", "[0-9a-f]{64}", "[a-z0-9_]{8}"
_SCRATCH = rf"edgekit\.{_RANDOM}\.tmp"
# The packages that edgekit needs in addition to a runtime.
CORE = {"click": "click", "numpy": "numpy", "PIL": "pillow", "pydantic": "pydantic", "yaml": "pyyaml", "rich": "rich"}


def root() -> Path:
    """Return the folder of edgekit's remote benches on this device."""
    cache = os.environ.get("EDGEKIT_CACHE")
    base = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit"
    return base / "remote"


_speaking = threading.RLock()
_silent = threading.Event()


def say(**line: Any) -> None:
    """Send one message to the client."""
    with _speaking:
        sys.stdout.buffer.write(MARK + json.dumps(line).encode() + b"\n")
        sys.stdout.buffer.flush()


def _say_alive() -> None:
    """Send `alive` regularly during long work, because the client gives up on a silent device."""
    while not _silent.wait(_ALIVE_SECONDS):
        with contextlib.suppress(OSError, ValueError):
            say(event="alive")


def probe(_: BinaryIO) -> dict[str, Any]:
    """Describe this device, and list which of edgekit's packages this Python lacks."""
    folder = root()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(OSError):
        remove_debris()
    # In another interpreter, because this one is isolated, and a bench may also import from the user's site or PYTHONPATH.
    code = f"import importlib.util as u; print(*[n for n in {sorted(CORE)!r} if u.find_spec(n) is None])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "architecture": platform.machine(),
        "root": str(folder),
        "missing": [CORE[name] for name in found.stdout.split()],
        "gpu": Path("/dev/nvidia0").exists(),
    }


def offer(_: BinaryIO, objects: dict[str, int]) -> dict[str, Any]:
    """Return which objects (SHA-256 -> size) are missing, each with the number of bytes that arrived before, and the free space."""
    folder = root() / "objects"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    missing = {}
    for digest, size in objects.items():
        path, part = folder / digest, folder / f"{digest}.part"
        if path.is_file() and path.stat().st_size == size and _sha256(path) == digest:
            os.utime(path)
        else:
            missing[digest] = min(part.stat().st_size, size) if part.is_file() else 0
    return {"missing": missing, "free": shutil.disk_usage(folder).free}


def store(stdin: BinaryIO, objects: list[tuple[str, int, int]]) -> dict[str, Any]:
    """Store the bytes of objects (digest, size, offset), each from its offset on; return the digests of damaged objects.

    An object exists only when it is complete and has its digest.
    """
    return {"damaged": [digest for digest, size, offset in objects if not _store(stdin, digest, size, offset)]}


def _store(stdin: BinaryIO, digest: str, size: int, offset: int) -> bool:
    path = root() / "objects" / digest
    part = path.with_suffix(".part")
    with open(part, "r+b" if part.exists() else "w+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # another client may send the same object
        stream.truncate(offset)
        stream.seek(offset)
        remaining = size - offset
        while remaining:
            block = stdin.read(min(_BLOCK, remaining))
            if not block:
                raise SystemExit(1)  # the connection is lost; the bytes so far stay for the next try
            stream.write(block)
            remaining -= len(block)
        stream.flush()
        os.fsync(stream.fileno())
        if _sha256(part) != digest:
            part.unlink()
            return False
        os.replace(part, path)
    return True


def environment(stdin: BinaryIO, key: str, wheel: str, name: str, extras: list[str], system: bool) -> dict[str, Any]:
    """Make a virtual environment with the dependencies of edgekit and its extras.

    Args:
        stdin: at its end the client is gone, and the installation stops.
        key: identifies the environment.
        wheel: digest of the wheel, an object.
        name: the wheel's file name.
        extras: extras to install, one at a time, so that an impossible one does not block the others.
        system: whether it sees the system's packages (JetPack installs TensorRT as one).
    """
    folder = root() / "venvs" / key
    ready, python = folder / "edgekit.json", folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _end_with(stdin)
        installed: list[str] = json.loads(ready.read_text())["extras"] if ready.is_file() else []
        if not ready.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            say(event="say", text="making a virtual environment")
            _make_environment(folder, system)
        failed = {}
        for extra in [extra for extra in extras if extra not in installed]:
            say(event="say", text=f"installing edgekit's dependencies with [{extra}]")
            with _scratch(root()) as place:
                link = place / name  # pip parses a wheel's file name
                _link(root() / "objects" / wheel, link)
                reason = _install(python, f"{link}[{extra}]")
            if reason:
                failed[extra] = reason
            else:
                installed.append(extra)
                _write(ready, json.dumps({"extras": installed}).encode())
    return {"python": str(python), "extras": installed, "failed": failed}


def start(_: BinaryIO, run: str, python: str, wheel: str, options: list[str], files: dict[str, str]) -> dict[str, Any]:
    """Start `edgekit bench` on a bundle made of objects (path in the bundle -> digest), or find the one that was started before.

    It goes on if the connection is lost; `follow` finds it again.
    """
    folder = root() / "runs" / run
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return {"state": "running", "folder": str(folder)}
    ended = folder / "exit"
    if ended.is_file() and time.time() - ended.stat().st_mtime < _PICK_UP_SECONDS:
        return {"state": "ended", "folder": str(folder)}
    for old in folder.iterdir():
        if old.name != "lock":
            _remove(old)
    for path, digest in files.items():
        target = folder / "bundle" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(root() / "objects" / digest, target)
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    private = Path(python).is_relative_to(root() / "venvs")
    inherited = [] if private else [os.environ.get("PYTHONPATH", "")]
    environ["PYTHONPATH"] = os.pathsep.join(entry for entry in (str(_unpacked(wheel)), *inherited) if entry)
    environ["EDGEKIT_ERROR_FILE"] = str(folder / "error")
    _silent.set()
    beat.join()  # a process must have only one thread when it forks
    command = [python, "-m", "edgekit", "bench", str(folder / "bundle"), "--output", str(folder / "results"), "--json"]
    if os.fork() == 0:
        _supervise(folder, [*command, *options], environ, lock)
    return {"state": "started", "folder": str(folder)}


def _supervise(folder: Path, command: list[str], environ: dict[str, str], lock: int) -> None:
    """Run the bench in its own session, and write its exit code. The lock is held meanwhile."""
    os.setsid()
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)  # the connection may close now
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job ignores SIGINT, which the bench would inherit
        with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
            child = subprocess.Popen(
                command, cwd=folder, env=environ, stdout=out, stderr=err, stdin=nowhere, pass_fds=[lock]
            )
            _write(folder / "pid", str(child.pid).encode())
            code = child.wait()
        _write(folder / "exit", str(code).encode())
    finally:
        os._exit(0)


def follow(stdin: BinaryIO, run: str, seen: int) -> dict[str, Any]:
    """Send the bench's stderr from byte `seen` on, until the bench has ended."""
    folder = root() / "runs" / run
    while True:
        over = not _alive(folder)  # checked before reading, so that its last output is not missed
        with contextlib.suppress(FileNotFoundError), open(folder / "stderr", "rb") as log:
            log.seek(seen)
            *lines, rest = log.read().split(b"\n")
            if over and rest:
                lines.append(rest)
            for line in lines:
                seen += len(line) + 1
                say(event="line", text=line.decode(errors="replace")[-_MOST_TEXT:], seen=seen)
        if over:
            break
        if select.select([stdin], [], [], 0.2)[0]:
            raise SystemExit(1)  # the client is gone; the bench goes on
    ended = folder / "exit"
    results = [
        path.relative_to(folder).as_posix()
        for path in sorted([folder / "stdout", *(folder / "results").rglob("*")])
        if path.is_file() and not path.is_symlink()
    ]
    failed = folder / "error"
    error = failed.read_text("utf-8", "replace")[:_MOST_TEXT] if failed.is_file() else ""
    return {"exit": int(ended.read_text()) if ended.is_file() else None, "files": results, "error": error}


def stop(_: BinaryIO, run: str) -> dict[str, Any]:
    """Ask a bench to end and keep its partial results, as Ctrl-C does."""
    folder = root() / "runs" / run
    for _try in range(50):  # it may be forked but not started yet
        if not _alive(folder):
            return {"stopped": False}
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / "pid").read_text()), signal.SIGINT)
            return {"stopped": True}
        time.sleep(0.1)
    return {"stopped": False}


def fetch(_: BinaryIO, run: str, paths: list[str]) -> dict[str, Any]:
    """Send files of a bench, each announced with its size and digest."""
    for path in paths:
        file = root() / "runs" / run / path
        digest = _sha256(file)
        with _speaking, open(file, "rb") as stream:
            say(event="data", path=path, bytes=file.stat().st_size, sha256=digest)
            shutil.copyfileobj(stream, sys.stdout.buffer, _BLOCK)
    return {}


def finish(_: BinaryIO, run: str, keep: bool) -> dict[str, Any]:
    """Remove a bench's folder, or keep it under a name that no later bench uses. The environment stays for the next bench."""
    folder = root() / "runs" / run
    kept = folder.with_name(f"{run}-kept-{time.strftime('%Y%m%d-%H%M%S')}")
    if keep and folder.is_dir():
        os.replace(folder, kept)
    else:
        _remove(folder)
    return {"folder": str(kept)}


def remove_debris() -> None:
    """Remove objects unused for 30 days, killed benches, and leftovers of killed commands.

    They are recognized by their names. Locked or recently changed ones stay, and so do all other files.
    """
    for folder, pattern, seconds in (
        (root() / "objects", rf"{_OBJECT}(\.part)?", _KEEP_SECONDS),
        (root() / "wheels", _OBJECT, _KEEP_SECONDS),
        (root() / "wheels", rf"tmp{_RANDOM}", _DEAD_SECONDS),  # of older versions
    ):
        for path in _named(folder, pattern):
            if _untouched(path) > seconds:
                _remove(path)
    for path in _named(root(), rf"tmp{_RANDOM}"):  # of older versions: a folder with a wheel in it, and nothing else
        if _untouched(path) > _DEAD_SECONDS and all(inner.suffix == ".whl" for inner in path.glob("*")):
            _remove(path)
    for path in [*_named(root(), _SCRATCH), *_named(root() / "wheels", _SCRATCH)]:
        if _untouched(path) > _MADE_SECONDS:
            _remove_unlocked(path, path)
    for path in _named(root() / "venvs", _KEY):
        if not (path / "edgekit.json").exists():
            _remove_unlocked(path, path.with_suffix(".lock"), unless=path / "edgekit.json")
    for path in _named(root() / "runs", _KEY):
        if _untouched(path) > (_KEEP_SECONDS if (path / "exit").exists() else _DEAD_SECONDS):
            _remove_unlocked(path, path / "lock")


def _untouched(path: Path) -> float:
    """Return the seconds since a file, or a folder and its entries, was changed."""
    inner = path.iterdir() if path.is_dir() and not path.is_symlink() else []
    return time.time() - max(entry.lstat().st_mtime for entry in [path, *inner])


def _remove_unlocked(path: Path, lock: Path, unless: Path | None = None) -> None:
    """Remove a folder if nobody holds its lock and `unless` does not exist by then."""
    with _locked(lock) as ours:
        if ours and not (unless and unless.exists()):
            _remove(path)


def _named(folder: Path, pattern: str) -> list[Path]:
    """Return the entries of a folder whose names match a pattern."""
    try:
        return [folder / name for name in os.listdir(folder) if re.fullmatch(pattern, name)]
    except OSError:
        return []


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock an existing file or folder while the block runs; yield whether that was possible."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Create a folder that is removed when the block ends and locked until then, so that `remove_debris` recognizes abandoned ones."""
    folder = Path(tempfile.mkdtemp(prefix="edgekit.", suffix=".tmp", dir=parent))
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_environment(folder: Path, system: bool) -> None:
    options = ["--system-site-packages"] if system else []
    uv = shutil.which("uv")
    if util.find_spec("ensurepip"):
        reason = _run([sys.executable, "-m", "venv", *options, str(folder)])
    elif uv:
        reason = _run([uv, "venv", "--quiet", "--python", sys.executable, *options, str(folder)])
    else:
        reason = "it has no ensurepip; on Debian and Ubuntu install the package python3-venv"
    if reason:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"{sys.executable} cannot make a virtual environment: {reason}")


def _install(python: Path, what: str) -> str:
    """Install into an environment; return the reason if it failed."""
    if (python.parent / "pip").exists():
        return _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", what])
    return _run([shutil.which("uv") or "uv", "pip", "install", "--quiet", "--python", str(python), what])


def _run(command: list[str]) -> str:
    """Run a program; return its last error line if it failed, preferably one that begins with ERROR."""
    environ = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"}}
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environ, check=False)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1][:_MOST_TEXT]


def _end_with(stdin: BinaryIO) -> None:
    """End this process and its children when the client is gone."""

    def watch() -> None:
        os.read(stdin.fileno(), 1)  # returns at the end of the connection; nothing else is sent
        os.killpg(os.getpgrp(), signal.SIGKILL)

    if os.getpgrp() != os.getpid():
        os.setpgrp()
    threading.Thread(target=watch, daemon=True).start()


def _unpacked(wheel: str) -> Path:
    folder = root() / "wheels" / wheel
    if folder.is_dir():
        os.utime(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(folder.parent) as temporary:
        with zipfile.ZipFile(root() / "objects" / wheel) as archive:
            archive.extractall(temporary)
        with contextlib.suppress(OSError):  # another client has done it already
            os.replace(temporary, folder)
    return folder


def _alive(folder: Path) -> bool:
    if not (folder / "lock").exists():
        return False
    with _locked(folder / "lock") as ours:
        return not ours


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


beat = threading.Thread(target=_say_alive, daemon=True)


def main() -> None:
    """Answer the request on standard input."""
    stdin = sys.stdin.buffer
    request = json.loads(stdin.readline())
    verbs = (probe, offer, store, environment, start, follow, stop, fetch, finish)
    verb: Any = {verb.__name__: verb for verb in verbs}[request.pop("op")]
    beat.start()
    try:
        say(reply=verb(stdin, **request))
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        say(error=f"{error.filename or root()}: {error.strerror or error}", full=full)
    except (RuntimeError, zipfile.BadZipFile) as error:
        say(error=str(error)[:_MOST_TEXT], full=False)
    finally:
        _silent.set()


if __name__ == "__main__":
    main()
