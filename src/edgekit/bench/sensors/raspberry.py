"""Query a Raspberry Pi's firmware through its program `vcgencmd`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from edgekit.bench.sensors.files import text

# The program is started for every query, so queries are rare.
PERIOD_SECONDS = 1.0
_LIMIT_SECONDS = 2.0
_RAIL = re.compile(r"^\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]\s*$", re.MULTILINE)


def vcgencmd(root: Path = Path("/")) -> str | None:
    """Return the program's path on a Raspberry Pi; None on other machines, where the program may exist but fails."""
    if "raspberry" not in (text(root / "proc/device-tree/model") or "").lower():
        return None
    if root == Path("/"):
        return shutil.which("vcgencmd")
    program = root / "usr/bin/vcgencmd"
    return str(program) if program.is_file() else None


def ask(program: str, question: str) -> str | None:
    """Return the firmware's answer; None if there is none (no permission for /dev/vcio, or an older firmware)."""
    try:
        done = subprocess.run(
            [program, question], capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def rails_watts(program: str) -> float | None:
    """Return the power of all rails that a Raspberry Pi 5's power chip measures, in watts; None on models without it.

    `vcgencmd pmic_read_adc` lists `VDD_CORE_A current(7)=1.11A` and `VDD_CORE_V volt(15)=0.75V`; entries without amperes are skipped.
    """
    values: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in _RAIL.findall(ask(program, "pmic_read_adc") or ""):
        values[unit][rail] = float(value)
    watts = [values["A"][rail] * values["V"][rail] for rail in values["A"] if rail in values["V"]]
    return sum(watts) if watts else None
