"""Does the device side work on aarch64? Debian's arm64 Python and PyPI's aarch64 wheels, run by QEMU's user-mode emulation.

    python benchmarks/aarch64.py [--bundle runs/digits/export] [--output benchmarks/results/aarch64.json] [--work FOLDER]

No Arm processor is needed, and no root: packages are only unpacked into FOLDER. Needs Debian (or a derivative whose package
sources have arm64), its `qemu-user-static`, and uv; some 60 MB are downloaded. edgekit's own wheel is installed with [ort,openvino]
exactly as on a device, only that ONNX Runtime is held at 1.23: the CPU detection of newer ones ends the process under emulation.

There `edgekit doctor BUNDLE` proves the golden tensors of every variant on an emulated Cortex-A76. That is all that is claimed: that
the wheels exist, load and compute what was trained. Nothing is timed, since an emulator's times say nothing about a device.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgekit.bench.remote import wheel
from edgekit.files import write_json
from edgekit.result import now

EMULATOR = "qemu-aarch64-static"
# A Raspberry Pi 5's, with NEON's dot products and without SVE. On QEMU's `max`, which has SVE, OpenVINO 2026.4 gives wrong logits for
# batches above 1; whether a processor with SVE shows that too is not known, and the doctor would say so there.
CORE = "cortex-a76"
DEBIAN = ("python3", "libstdc++6", "libgomp1")
ONNXRUNTIME = "onnxruntime==1.23.*"
PLATFORM = "aarch64-manylinux_2_36"  # Debian 12's C library


def system_root(folder: Path) -> Path:
    """Unpack Debian's arm64 Python and what it needs, asked for with a package database of our own; the system's is not touched."""
    for name in ("lists/partial", "archives/partial", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text("")
    (folder / "apt.conf").write_text(
        f"""APT::Architecture "arm64"; APT::Architectures {{ "arm64"; }};
Dir::State "{folder}"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}";
Acquire::Languages "none"; APT::Sandbox::User ""; Debug::NoLocking "1";
"""
    )
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False)  # a source without arm64 is no harm
    download = ["apt-get", "install", "-yqq", "--download-only", "--no-install-recommends", *DEBIAN]
    subprocess.run(download, env=environment, check=True, stdout=sys.stderr)
    root = folder / "root"
    for package in sorted((folder / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    if not (root / "lib").exists():  # from Debian 13 on, packages no longer bring the link
        (root / "lib").symlink_to("usr/lib")
    return root


def launcher(folder: Path, root: Path, site: Path) -> Path:
    """A program that is the emulated Python; a script, so that Python can start itself again without the kernel's help."""
    python = root / "usr/bin/python3"
    path = folder / "python"
    words = (
        f"PYTHONHOME={root}/usr",
        f"PYTHONPATH={site}",
        EMULATOR,
        "-cpu",
        CORE,
        "-L",
        str(root),
        "-0",
        str(path),
        str(python.resolve()),
    )
    path.write_text(f'#!/bin/sh\nexec env {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
    return path


def said_by(python: Path, *arguments: str) -> str:
    """What the emulated Python prints."""
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    done = subprocess.run([str(python), *arguments], capture_output=True, text=True, env=environment, check=False)
    if not done.stdout:
        raise SystemExit(
            f"{' '.join(arguments[:4])} printed nothing and ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return done.stdout


def prove(bundle: Path, work: Path) -> dict[str, Any]:
    """Set everything up below `work` and prove a bundle there."""
    root = system_root(work / "debian")
    site = work / "site"
    version = max(path.name.removeprefix("python") for path in (root / "usr/lib").glob("python3.*"))
    packed = wheel.pack(work)
    shutil.rmtree(site, ignore_errors=True)
    install = ["uv", "pip", "install", "--quiet", "--target", str(site), "--only-binary", ":all:"]
    install += ["--python-platform", PLATFORM, "--python-version", version]
    subprocess.run([*install, f"{packed.path}[ort,openvino]", ONNXRUNTIME], check=True, stdout=sys.stderr)
    python = launcher(work, root, site)
    about = "import json; from edgekit.machine import this_machine; print(this_machine().model_dump_json())"
    machine = json.loads(said_by(python, "-c", about))
    doctor = json.loads(said_by(python, "-m", "edgekit", "doctor", str(bundle.resolve()), "--json"))
    emulator = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    return {
        "created": now(),
        "command": ["python", "benchmarks/aarch64.py", *sys.argv[1:]],
        "what": "golden tensors of every variant on aarch64, under emulation; no latency was measured",
        "emulated": machine["emulated"],
        "emulator": f"{emulator}, -cpu {CORE}",
        "machine": machine,
        "bundle": {"name": doctor["bundle"], "digest": doctor["digest"]},
        "variants": doctor["variants"],
    }


def main() -> None:
    """Prove a bundle and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("runs/digits/export"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/aarch64.json")
    parser.add_argument("--work", type=Path, help="keep the unpacked packages here; a temporary folder without it")
    options = parser.parse_args()
    for program in (EMULATOR, "apt-get", "dpkg-deb", "uv"):
        if shutil.which(program) is None:
            raise SystemExit(f"needs {program}")
    with tempfile.TemporaryDirectory(prefix="edgekit-aarch64-") as temporary:
        work = options.work or Path(temporary)
        result = prove(options.bundle, work.resolve())
    write_json(options.output, result)
    for variant in result["variants"]:
        print(variant["variant"], variant["runtime_version"], variant["outcome"], variant["reason"] or "")
    print(f"emulated: {result['emulated']}; {options.output}")


if __name__ == "__main__":
    main()
