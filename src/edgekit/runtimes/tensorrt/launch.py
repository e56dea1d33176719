"""Building an engine in a process of its own: progress, cancellation, and what a crash looks like from outside."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from edgekit import children
from edgekit.errors import ExportError, error_named, signal_name
from edgekit.files import atomic_write
from edgekit.foreign import MOST_JSON, Unreadable, understood
from edgekit.progress import Advance, progress
from edgekit.runtimes.tensorrt.options import BuildOptions, BuildProgress, BuildReport, check_capabilities
from edgekit.temporary import scratch_folder

STEPS = 100  # of a build's progress
_MODULE = "edgekit.runtimes.tensorrt.builder"
# Lay the builder's memory out alike each time, where the system can (Linux) and lets it (not every container does): TensorRT for RTX orders
# some of a graph with a free batch by address, and the same engine then has other numbers in its internal names, and other bytes
# (1.7.1; a static batch always gave the same). It makes such differences rare, not impossible.
# Of personality(2): 0xffffffff asks, 0x40000 is ADDR_NO_RANDOMIZE.
_SAME_ADDRESSES = """
import ctypes, os, sys
try:
    personality = ctypes.CDLL(None).personality
    now = personality(ctypes.c_ulong(0xffffffff))
    if now >= 0:
        personality(ctypes.c_ulong(now | 0x40000))
except (OSError, AttributeError):
    pass
os.execve(sys.executable, [sys.executable, *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
"""
_MOST_WORDS = 1 << 16  # bytes of what the builder printed last


def build(
    onnx: Path,
    engine: Path,
    options: BuildOptions,
    advance: Advance | None = None,
    *,
    timing_cache: Path | None = None,
) -> BuildReport:
    """Build a TensorRT engine from an ONNX file.

    The engine appears under its name when it is complete, and not at all where the build fails or is cancelled. Whatever `advance` raises
    (KeyboardInterrupt, too) ends the building process and comes out of here.

    Args:
        onnx: the file; external data beside it.
        engine: the file to write.
        options: see `BuildOptions`.
        advance: told of the progress, in hundredths; without it a bar is shown.
        timing_cache: a file of kernel times, read and written; classic TensorRT alone.

    Raises:
        RuntimeMissing: this flavor is not installed, or needs a GPU that is not there.
        ExportError: TensorRT refuses the graph (naming nodes, operators and reasons), fails, or crashes.
    """
    check_capabilities(options.compute_capabilities)
    if not Path(onnx).is_file():
        raise ExportError(f"{onnx}: no such model", "export it again")
    if advance is None:
        with progress(f"build {Path(onnx).stem}", STEPS, unit="%") as shown:
            return build(onnx, engine, options, shown, timing_cache=timing_cache)
    with scratch_folder("build") as scratch:
        made, spec, log = (Path(scratch) / name for name in ("made.engine", "spec.json", "log"))
        asked = {
            "onnx": str(Path(onnx).absolute()),
            "engine": str(made),
            "timing_cache": str(timing_cache) if timing_cache is not None else None,
            "options": options.model_dump(mode="json"),
        }
        spec.write_text(json.dumps(asked))
        command = [sys.executable, "-I", "-S", "-c", _SAME_ADDRESSES, "-m", _MODULE, str(spec)]
        report = _run(command, log, Path(onnx), options, advance)
        with made.open("rb") as source, atomic_write(engine) as stream:
            shutil.copyfileobj(source, stream)
    return report


def _run(command: list[str], log: Path, onnx: Path, options: BuildOptions, advance: Advance) -> BuildReport:
    said = BuildProgress()
    done = 0
    with log.open("wb") as errors:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the builder at once.
        process = children.start(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            assert process.stdout is not None
            while line := process.stdout.readline(MOST_JSON):
                said = parse_progress(line) or said
                reached = int((said.done or 0) * STEPS)
                if reached > done:
                    advance(reached - done, said.phase)
                    done = reached
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
    if said.report and code == 0:
        advance(STEPS - done)
        return said.report
    if said.error:
        raise error_named(said.error.kind)(said.error.message, said.error.hint)
    raise _crashed(code, log, onnx, options)


def parse_progress(line: bytes) -> BuildProgress | None:
    """A line that the builder's process says; None for any other, such as one that was cut off when the process was killed."""
    try:
        with understood("the builder", "a line of the builder's"):
            return BuildProgress.model_validate_json(line)
    except Unreadable:
        return None


def _crashed(code: int, log: Path, onnx: Path, options: BuildOptions) -> ExportError:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _MOST_WORDS))
        words = stream.read().decode(errors="replace").splitlines()
    last = next((line for line in reversed(words) if line.strip()), "")
    if code < 0:
        name = signal_name(-code)
        if code == -signal.SIGKILL:
            hint = "it was killed, most often for want of memory: build with a smaller batch, or end other programs"
        elif options.flags:
            hint = f"leave out the flags {', '.join(options.flags)}"
        else:
            hint = "another release of TensorRT may take the model"
        return ExportError(f"TensorRT crashed with {name} while building {onnx.name}", hint)
    return ExportError(f"the TensorRT builder ended with code {code} while building {onnx.name}: {last[:200]}")
