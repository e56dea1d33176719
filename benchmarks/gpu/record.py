"""What a part of the kit found: one JSON file, written anew after every check, so that a part that is cut off loses nothing."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.files import write_json
from edgekit.machine import this_machine
from edgekit.result import now

SEED = 0
# What became of a check. Of these, `failed` and `error` make the kit's exit code 1.
PASSED, MEASURED, FAILED, ERROR, UNEXECUTED, SKIPPED = "passed", "measured", "failed", "error", "unexecuted", "skipped"


class Unexecuted(Exception):
    """A check cannot run on this machine; the message says why."""


@dataclass
class Options:
    """What every part is told.

    Attributes:
        output: folder of the result files.
        carried: folder of what was unpacked: site/, cifar10/, bundle/.
        deadline: of the part, on `time.time()`'s clock.
        rehearse: the same code on the CPU, in small.
    """

    output: Path
    carried: Path
    deadline: float
    rehearse: bool = False

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    @property
    def device(self) -> Any:
        """The torch device that is checked."""
        import torch

        return torch.device("cpu" if self.rehearse else "cuda")

    def needs_cuda(self, what: str) -> None:
        """Raises `Unexecuted` on the CPU."""
        if self.device.type != "cuda":
            raise Unexecuted(f"{what}: needs a CUDA GPU, this is a rehearsal on the CPU")


@dataclass
class Record:
    """The result file of a part.

    Args:
        part: its name; the file is PART.json.
        options: the kit's.
    """

    part: str
    options: Options
    began: float = field(default_factory=time.time)
    checks: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, run: Callable[[], dict[str, Any]], *, needs: float = 0.0) -> dict[str, Any]:
        """Run one check and write down what came of it; an error in it is recorded and the part goes on.

        Args:
            name: of the check.
            run: gives what was found; its `passed` says whether that is right, without it the check is a measurement.
            needs: seconds that it takes at least; with less left it is skipped.
        """
        began = time.time()
        entry: dict[str, Any] = {"name": name}
        if self.options.left < needs:
            entry |= {"outcome": SKIPPED, "why": f"needs {needs:.0f} s, {max(0.0, self.options.left):.0f} s are left"}
        else:
            try:
                found = run()
                passed = found.pop("passed", None)
                entry |= {"outcome": MEASURED if passed is None else PASSED if passed else FAILED, **found}
            except Unexecuted as why:
                entry |= {"outcome": UNEXECUTED, "why": str(why)}
            except Exception as error:  # whatever happens on a machine that nobody has seen yet belongs into the result
                where = traceback.format_exc().splitlines()[-60:]  # with what it came from, which stands first
                entry |= {"outcome": ERROR, "why": f"{type(error).__name__}: {error}"[:2000], "traceback": where}
        entry["seconds"] = round(time.time() - began, 2)
        self.checks.append(entry)
        why = f": {entry['why']}" if "why" in entry else ""
        print(f"  {self.part}: {name}: {entry['outcome']} ({entry['seconds']:.1f} s){why}"[:300], flush=True)
        self.write(complete=False)
        return entry

    def write(self, complete: bool) -> None:
        """The file as it stands; `complete` when every check of the part has had its turn."""
        seconds = round(time.time() - self.began, 1)
        write_json(
            self.options.output / f"{self.part}.json",
            {
                "part": self.part, "complete": complete, "rehearsal": self.options.rehearse, "created": now(), "seconds": seconds,
                "command": ["python", "benchmarks/gpu/kit.py", *sys.argv[1:]], "seed": SEED, **environment(), **self.about,
                "checks": self.checks,
            },
        )  # fmt: skip


def environment() -> dict[str, Any]:
    """The machine, its GPU and the versions of what computes on it."""
    import torch

    found: dict[str, Any] = {"machine": this_machine().model_dump(), "python": platform.python_version()}
    found["torch"] = {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": gpu.name, "compute_capability": f"{gpu.major}.{gpu.minor}", "memory_bytes": gpu.total_memory,
            "multiprocessors": gpu.multi_processor_count, "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }  # fmt: skip
    return found
