"""No process that a command started outlives it where it is killed alone: nobody has told them, the kernel does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.children import PARENT
from tests.helpers import exported
from tests.helpers.patience import until
from tests.helpers.processes import Identity, command_line, descendants, ignores, kill_alone, lives

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")


def running(*command: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, **options,
    )  # fmt: skip


def saying(text: str, count: int) -> Callable[[set[Identity]], bool]:
    """Whether so many of some processes have a text in their command line."""
    return lambda found: sum(text in command_line(pid) for pid, _ in found) >= count


def deaf(count: int) -> Callable[[set[Identity]], bool]:
    """Whether so many of some processes ignore Ctrl-C, which is what workers do when they have asked for the signal, before any work."""
    return lambda found: sum(ignores(pid, signal.SIGINT) for pid, _ in found) >= count


def in_python(code: str) -> subprocess.Popen[str]:
    return running("-c", textwrap.dedent(code))


def test_a_child_outlives_the_thread_that_asked_for_it_and_not_the_process() -> None:
    parent = in_python(
        """
        import sys, threading, time
        from edgekit.children import start
        def work():
            start(["/bin/sleep", "1000"], foreign=True)
            start([sys.executable, "-c", "from edgekit.children import end_with_parent as e; e(); print(1, flush=True); "
                   "import time; time.sleep(1000)"])
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        time.sleep(1000)
        """
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "1\n"  # the Python child has asked for the signal
    until(lambda: saying("/bin/sleep 1000", 1)(descendants(parent.pid)), parent)
    asked = {thread for thread in Path(f"/proc/{parent.pid}/task").iterdir() if thread.name != str(parent.pid)}
    assert len(asked) == 1  # the thread that asked has ended: what is left is the one that starts processes
    assert len(kill_alone(parent, lambda found: len(found) == 2)) == 2


def test_a_child_whose_parent_has_ended_before_it_could_ask_ends_at_once() -> None:
    """What it finds as its parent is another process than the one that its environment names."""
    other = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], check=False, capture_output=True, text=True
    )
    code = "from edgekit.children import end_with_parent as e; e(); print('goes on')"
    environment = {**os.environ, PARENT: other.stdout.strip()}
    child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert (child.returncode, child.stdout) == (1, "")
    child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (0, "goes on\n")


def test_the_parents_name_is_not_handed_down() -> None:
    """A grandchild has another parent than the one that the environment names."""
    code = """
        import os, subprocess, sys
        from edgekit.children import end_with_parent, naming_parent
        grandchild = "from edgekit.children import end_with_parent as e; e(); print('goes on')"
        child = f"from edgekit.children import end_with_parent as e; e(); import subprocess, sys; " \\
                f"subprocess.run([sys.executable, '-c', {grandchild!r}])"
        subprocess.run([sys.executable, "-c", child], env=naming_parent())
        """
    parent = in_python(code)
    assert parent.communicate()[0] == "goes on\n"


def test_a_program_that_is_not_there_says_so_and_output_and_exit_code_come_back() -> None:
    from edgekit.children import start

    with pytest.raises(OSError, match="No such file"):
        start(["/nowhere/program"])
    child = start(["/bin/sh", "-c", "echo $0; exit 3", "a b"], foreign=True, stdout=subprocess.PIPE)
    assert child.communicate()[0] == b"a b\n"
    assert child.returncode == 3


@pytest.mark.slow
def test_export_with_several_jobs(tmp_path: Path) -> None:
    run = exported.write_run(tmp_path / "run")
    command = ["-m", "edgekit", "export", run.path, "--jobs", 2, "--precision", "int8"]
    had = kill_alone(running(*command), deaf(2))
    assert len(had) >= 2


@pytest.mark.slow
def test_doctor(tmp_path: Path) -> None:
    bundle = exported.export(tmp_path / "bundle", targets=("onnx",), precisions=("fp32",))
    hangs = tmp_path / "path" / "onnxruntime"
    hangs.mkdir(parents=True)
    (hangs / "__init__.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('reached').touch()\ntime.sleep(1000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{hangs.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    kill_alone(
        running("-m", "edgekit", "doctor", bundle.path, env=environment), lambda found: (hangs / "reached").exists()
    )


@pytest.mark.parametrize("what", ["start", "run_in_subprocess"])
def test_one_that_computes_in_foreign_code_ends_too(what: str) -> None:
    """It holds Python's lock all the time, so that no Python in it could notice."""
    busy = "import ctypes; ctypes.PyDLL(None).sleep(1000)"
    ways = {
        "start": f"start([sys.executable, '-c', 'from edgekit.children import end_with_parent as e; e(); {busy}']).wait()",
        "run_in_subprocess": "run_in_subprocess(exec, 'import ctypes; ctypes.PyDLL(None).sleep(1000)')",
    }
    parent = in_python(
        f"""
        import sys
        from edgekit.runtimes.isolation import run_in_subprocess
        from edgekit.children import start
        if __name__ == "__main__":
            {ways[what]}
        """
    )
    kill_alone(parent, lambda found: any(_sleeps(pid) for pid, _ in found))


def _sleeps(pid: int) -> bool:
    try:
        return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text() or _system_call(pid) == 230
    except OSError:
        return False


def _system_call(pid: int) -> int | None:
    said = Path(f"/proc/{pid}/syscall").read_text().split()
    return int(said[0]) if said and said[0].isdecimal() else None


def test_the_engine_builder(tmp_path: Path) -> None:
    """With no TensorRT here: the process that would build waits for its file."""
    fifo = tmp_path / "spec.json"
    os.mkfifo(fifo)
    parent = in_python(
        f"""
        import sys
        from edgekit.children import start
        from edgekit.runtimes.tensorrt import launch
        start([sys.executable, "-I", "-S", "-c", launch._SAME_ADDRESSES, "-m", launch._MODULE, {str(fifo)!r}]).wait()
        """
    )
    had = kill_alone(parent, saying("runtimes.tensorrt.builder", 1))
    assert not any(lives(process) for process in had)
