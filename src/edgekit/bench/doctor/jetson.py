"""Find which JetPack a Jetson runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench.sensors.files import text

# Release of Jetson Linux (L4T) → JetPack, from NVIDIA's archives (developer.nvidia.com/embedded/jetpack-archive).
_JETPACK = {
    "35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4",
    "35.6.1": "5.1.5", "36.2.0": "6.0 DP", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1",
    "38.2.0": "7.0", "38.2.1": "7.0", "38.4.0": "7.1",
}  # fmt: skip
_MAJOR = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7"}


@dataclass(frozen=True)
class JetPack:
    """The release of Jetson Linux, and the JetPack that it belongs to (`6.x` where only the major version is known)."""

    linux: str
    version: str | None


def jetpack(root: Path = Path("/")) -> JetPack | None:
    """Return the release from /etc/nv_tegra_release: `# R36 (release), REVISION: 4.3, GCID: …`; None on any other machine."""
    line = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text(root / "etc/nv_tegra_release") or "")
    if line is None:
        return None
    release = f"{line[1]}.{line[2]}"
    major = _MAJOR.get(line[1])
    return JetPack(release, _JETPACK.get(release, f"{major}.x" if major else None))
