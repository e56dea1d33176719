"""The power mode of a Jetson."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.bench.sensors.files import text


def power_mode(root: Path = Path("/")) -> str | None:
    """Return the name of a Jetson's current power mode, for example `15W` or `MAXN_SUPER` (None on other machines).

    nvpmodel writes `pmode:0002` into its status file; /etc/nvpmodel.conf names the modes:
    `< POWER_MODEL ID=2 NAME=MAXN_SUPER >`.
    """
    status = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    return power_modes(root).get(number, f"mode {number}")


def power_modes(root: Path = Path("/")) -> dict[int, str]:
    """Return number → name of all power modes of a Jetson."""
    lines = (text(root / "etc/nvpmodel.conf") or "").splitlines()
    modes = (re.search(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", line) for line in lines if line[:1] != "#")
    return {int(mode[1]): mode[2] for mode in modes if mode}
