"""A Jetson's power mode."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.bench.sensors.files import text


def power_mode(root: Path = Path("/")) -> str | None:
    """The name of the power mode that a Jetson is in, for instance `15W` or `MAXN_SUPER` (None elsewhere).

    nvpmodel writes `pmode:0002` into its status file; /etc/nvpmodel.conf names the modes:
    `< POWER_MODEL ID=2 NAME=MAXN_SUPER >`.
    """
    status = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    return power_modes(root).get(number, f"mode {number}")


def power_modes(root: Path = Path("/")) -> dict[int, str]:
    """Number → name of every power mode that a Jetson has."""
    lines = (text(root / "etc/nvpmodel.conf") or "").splitlines()
    modes = (re.search(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", line) for line in lines if line[:1] != "#")
    return {int(mode[1]): mode[2] for mode in modes if mode}
