"""Names and folders of result files."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.result import Latency


def file_name(latency: Latency) -> str:
    """Return the file name for a latency: one for each variant, batch size, number of threads, provider and scenario."""
    parts = [latency.variant, f"b{latency.batch}"]
    if latency.threads:
        parts.append(f"t{latency.threads}")
    if latency.provider:
        parts.append(latency.provider)
    if latency.scenario != "single-stream":
        parts += [latency.scenario, f"s{latency.streams}"]
    if latency.query:
        parts.append(f"q{latency.query}")
    if latency.bound_ms:
        parts.append(f"p99-{latency.bound_ms:g}ms")
    elif latency.rate:
        parts.append(f"r{latency.rate:g}")
    if latency.loadgen:
        parts.append("loadgen")
    return "-".join(parts) + ".json"


def loadgen_folder(output: Path, variant: str, batch: int, scenario: str) -> Path:
    """Return the folder for LoadGen's logs."""
    return output / f"{variant}-b{batch}-{scenario}-loadgen-logs"


def default_output(bundle: Bundle) -> Path:
    """Return the default folder for results: `bench/` of the run that the bundle is in, otherwise `bench-NAME/` in the working folder."""
    run = bundle.path.resolve().parent
    if bundle.path.resolve().name == "export" and (run / "recipe.yaml").is_file():
        return run / "bench"
    return Path("bench-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", bundle.manifest.name).strip(".-") or "bundle"))
