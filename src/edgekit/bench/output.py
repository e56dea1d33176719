"""Where measurements are written."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.result import Latency


def file_name(latency: Latency) -> str:
    """The name of the file that holds a latency: one for each variant, batch size and number of threads."""
    threads = f"-t{latency.threads}" if latency.threads else ""
    return f"{latency.variant}-b{latency.batch}{threads}.json"


def default_output(bundle: Bundle) -> Path:
    """Where a bundle's measurements go: `bench/` of the run that it was exported in, else `bench-NAME/` here."""
    run = bundle.path.resolve().parent
    if bundle.path.resolve().name == "export" and (run / "recipe.yaml").is_file():
        return run / "bench"
    return Path("bench-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", bundle.manifest.name).strip(".-") or "bundle"))
