"""Build an engine in its own process: progress, cancellation, and error messages for crashes."""

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
# Use the same memory layout in each build, if the system can (Linux) and allows it (some containers do not): TensorRT for RTX orders
# parts of a graph with a free batch by address, and the same engine then has other numbers in its internal names, and other bytes
# (1.7.1; a static batch always gave the same bytes). This makes such differences rare, not impossible.
# personality(2): 0xffffffff queries, 0x40000 is ADDR_NO_RANDOMIZE.
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
_MOST_LOG = 1 << 16  # bytes of the builder's last output


def build(
    onnx: Path,
    engine: Path,
    options: BuildOptions,
    advance: Advance | None = None,
    *,
    timing_cache: Path | None = None,
) -> BuildReport:
    """Build a TensorRT engine from an ONNX file.

    The engine gets its name when it is complete; if the build fails or is cancelled, there is no file. An exception from `advance`
    (also KeyboardInterrupt) ends the building process and is raised here.

    Args:
        onnx: the file; external data beside it.
        engine: the file to write.
        options: see `BuildOptions`.
        advance: called with the progress, in hundredths; without it, a bar is shown.
        timing_cache: a file of kernel times, read and written; only for classic TensorRT.

    Raises:
        RuntimeMissing: this flavor is not installed, or needs a GPU that this machine does not have.
        ExportError: TensorRT refuses the graph (the message names nodes, operators and reasons), fails, or crashes.
    """
    check_capabilities(options.compute_capabilities)
    if not Path(onnx).is_file():
        raise ExportError(f"{onnx}: no such model", "export it again")
    if advance is None:
        with progress(f"build {Path(onnx).stem}", STEPS, unit="%") as shown:
            return build(onnx, engine, options, shown, timing_cache=timing_cache)
    with scratch_folder("build") as scratch:
        unfinished, spec, log = (Path(scratch) / name for name in ("made.engine", "spec.json", "log"))
        request = {
            "onnx": str(Path(onnx).absolute()),
            "engine": str(unfinished),
            "timing_cache": str(timing_cache) if timing_cache is not None else None,
            "options": options.model_dump(mode="json"),
        }
        spec.write_text(json.dumps(request))
        command = [sys.executable, "-I", "-S", "-c", _SAME_ADDRESSES, "-m", _MODULE, str(spec)]
        report = _run(command, log, Path(onnx), options, advance)
        with unfinished.open("rb") as source, atomic_write(engine) as stream:
            shutil.copyfileobj(source, stream)
    return report


def _run(command: list[str], log: Path, onnx: Path, options: BuildOptions, advance: Advance) -> BuildReport:
    latest = BuildProgress()
    done = 0
    with log.open("wb") as errors:
        # In its own session, so that Ctrl-C only reaches this process, which then ends the builder at once.
        process = children.start(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            assert process.stdout is not None
            while line := process.stdout.readline(MOST_JSON):
                latest = parse_progress(line) or latest
                reached = int((latest.done or 0) * STEPS)
                if reached > done:
                    advance(reached - done, latest.phase)
                    done = reached
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
    if latest.report and code == 0:
        advance(STEPS - done)
        return latest.report
    if latest.error:
        raise error_named(latest.error.kind)(latest.error.message, latest.error.hint)
    raise _crashed(code, log, onnx, options)


def parse_progress(line: bytes) -> BuildProgress | None:
    """Parse a line from the builder's process; None if it is invalid, for example cut off when the process was killed."""
    try:
        with understood("the builder", "a line of the builder's"):
            return BuildProgress.model_validate_json(line)
    except Unreadable:
        return None


def _crashed(code: int, log: Path, onnx: Path, options: BuildOptions) -> ExportError:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _MOST_LOG))
        lines = stream.read().decode(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    if code < 0:
        name = signal_name(-code)
        if code == -signal.SIGKILL:
            hint = "it was killed, probably because memory ran out: build with a smaller batch, or end other programs"
        elif options.flags:
            hint = f"leave out the flags {', '.join(options.flags)}"
        else:
            hint = "try another release of TensorRT"
        return ExportError(f"TensorRT crashed with {name} while building {onnx.name}", hint)
    return ExportError(f"the TensorRT builder ended with code {code} while building {onnx.name}: {last[:200]}")
