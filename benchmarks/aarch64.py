"""Does the device side work on aarch64? Debian's arm64 Python and PyPI's aarch64 wheels, run by QEMU's user-mode emulation.

    python benchmarks/aarch64.py [--bundle runs/digits/export] [--output benchmarks/results/aarch64.json] [--work FOLDER] [--cpu NAME]
    python benchmarks/aarch64.py --bundle classes/ --bundle parts/ --gallery embeds/ shop.gallery photos/ --output result.json

No Arm processor is needed, and no root: packages are only unpacked into FOLDER. Needs Debian (or a derivative whose package
sources have arm64), its `qemu-user-static`, and uv; some 100 MB are downloaded. edgekit's own wheel is installed with
[ort,openvino,litert] exactly as on a device, but for two versions: ONNX Runtime is held at 1.23, since the CPU detection of newer ones ends the
process under emulation, and LiteRT below 2.2: newer ones die there when an interpreter is made.

There `edgekit doctor BUNDLE` proves the golden tensors of every variant on an emulated Cortex-A76; with --gallery, every variant of its bundle also
answers the images of a folder, and the answers are compared with those given here. That is all that is claimed: that
the wheels exist, load and compute what was trained. Nothing is timed, since an emulator's times say nothing about a device.

tests/test_device_aarch64.py runs this very script with a small bundle. Where packages cannot be had, the last line begins with "out of reach:".
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
from edgekit.bundle import Bundle
from edgekit.files import write_json
from edgekit.result import now

EMULATOR = "qemu-aarch64-static"
# A Raspberry Pi 5's, with NEON's dot products, without SVE and SME. With SME (QEMU's `max`) OpenVINO 2026.4 computes one convolution
# wrongly unless the streaming vectors have 512 bits: docs/devices.md tells the whole of it.
CORE = "cortex-a76"
DEBIAN = ("python3", "libstdc++6", "libgomp1")
# The newest that run under emulation.
EMULATED = ("onnxruntime==1.23.*", "ai-edge-litert<2.2")
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
    if subprocess.run(download, env=environment, check=False, stdout=sys.stderr).returncode:
        raise SystemExit(f"out of reach: apt-get cannot download Debian's arm64 packages {', '.join(DEBIAN)}")
    root = folder / "root"
    for package in sorted((folder / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    if not (root / "lib").exists():  # from Debian 13 on, packages no longer bring the link
        (root / "lib").symlink_to("usr/lib")
    return root


def install(packed: Path, site: Path, version: str) -> None:
    """Unpack edgekit's wheel and the aarch64 wheels that it needs, for Python `version`, into the folder `site`."""
    shutil.rmtree(site, ignore_errors=True)
    emulated = site.with_name("emulated.txt")
    emulated.write_text("\n".join(EMULATED))  # in place of the versions that edgekit asks for
    command = ["uv", "pip", "install", "--quiet", "--target", str(site), "--only-binary", ":all:"]
    command += ["--override", str(emulated)]
    command += ["--python-platform", PLATFORM, "--python-version", version, f"{packed}[ort,openvino,litert]"]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:  # a wheel that does not exist is a finding, an index that does not answer is none
        out_of_reach = "failed to fetch" in done.stderr.lower()
        raise SystemExit(f"{done.stderr}{'out of reach: the package index' if out_of_reach else 'not installable'}")


def launcher(folder: Path, root: Path, site: Path, cpu: str) -> Path:
    """A program that is the emulated Python; a script, so that Python can start itself again without the kernel's help."""
    python = root / "usr/bin/python3"
    path = folder / "python"
    words = (
        f"PYTHONHOME={root}/usr",
        f"PYTHONPATH={site}",
        EMULATOR,
        "-cpu",
        cpu,
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


def proved(python: Path, bundle: Path) -> dict[str, Any]:
    """What `edgekit doctor` finds of a bundle under emulation."""
    doctor = json.loads(said_by(python, "-m", "edgekit", "doctor", str(bundle.resolve()), "--json"))
    return {"bundle": {"name": doctor["bundle"], "digest": doctor["digest"]}, "variants": doctor["variants"]}


def answered(python: Path, bundle: Path, gallery: Path, folder: Path) -> dict[str, Any]:
    """How the answers of a gallery under emulation differ from those given here, for each variant of its bundle.

    Returns:
        By variant: `images`; `same`, how many get the same class or are unknown on both; `difference`, the largest one of the similarities.
    """
    rows = []
    for variant in (variant.id for variant in Bundle.open(bundle).manifest.variants):
        words = [
            "predict",
            str(bundle.resolve()),
            str(folder.resolve()),
            "--gallery",
            str(gallery.resolve()),
            "--variant",
            variant,
        ]
        there, here = (
            [json.loads(line) for line in said_by(path, "-m", "edgekit", *words, "--json").splitlines()]
            for path in (python, Path(sys.executable))
        )
        pairs = list(zip(there, here, strict=True))
        rows.append(
            {
                "variant": variant,
                "images": len(pairs),
                "same": sum((a["class"], a["unknown"]) == (b["class"], b["unknown"]) for a, b in pairs),
                "difference": max(abs(a["similarity"] - b["similarity"]) for a, b in pairs),
            }
        )
    return {"bundle": Bundle.open(bundle).manifest.name, "answers": rows}


def prove(bundles: list[Path], galleries: list[list[Path]], work: Path, cpu: str) -> dict[str, Any]:
    """Set everything up below `work`, prove the bundles on QEMU's processor `cpu`, and answer by the galleries."""
    root = system_root(work / "debian")
    site = work / "site"
    version = max(path.name.removeprefix("python") for path in (root / "usr/lib").glob("python3.*"))
    install(wheel.pack(work).path, site, version)
    python = launcher(work, root, site, cpu)
    about = "import json; from edgekit.machine import this_machine; print(this_machine().model_dump_json())"
    machine = json.loads(said_by(python, "-c", about))
    first, *others = [proved(python, bundle) for bundle in (*bundles, *(bundle for bundle, *_ in galleries))]
    emulator = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "created": now(),
        "command": ["python", "benchmarks/aarch64.py", *sys.argv[1:]],
        "what": "golden tensors of every variant on aarch64, under emulation; no latency was measured",
        "emulated": machine["emulated"],
        "emulator": f"{emulator.splitlines()[0]}, -cpu {cpu}",
        "machine": machine,
        **first,
        **({"others": others} if others else {}),
        **({"galleries": [answered(python, *words) for words in galleries]} if galleries else {}),
    }


def main() -> None:
    """Prove a bundle and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="may be repeated (default: runs/digits/export)")
    parser.add_argument(
        "--gallery", type=Path, action="append", nargs=3, default=[], metavar=("BUNDLE", "GALLERY", "FOLDER"),
        help="a bundle, a gallery that it made, and a folder of images to answer; may be repeated",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/aarch64.json")
    parser.add_argument("--work", type=Path, help="keep the unpacked packages here; a temporary folder without it")
    parser.add_argument("--cpu", default=CORE, help="QEMU's name of the processor (default: %(default)s)")
    options = parser.parse_args()
    for program in (EMULATOR, "apt-get", "dpkg-deb", "uv"):
        if shutil.which(program) is None:
            raise SystemExit(f"needs {program}")
    with tempfile.TemporaryDirectory(prefix="edgekit-aarch64-") as temporary:
        work = options.work or Path(temporary)
        bundles = options.bundle or ([] if options.gallery else [Path("runs/digits/export")])
        result = prove(bundles, options.gallery, work.resolve(), options.cpu)
    write_json(options.output, result)
    for found in (result, *result.get("others", [])):
        for variant in found["variants"]:
            name = f"{found['bundle']['name']}: {variant['variant']}"
            print(name, variant["runtime_version"], variant["outcome"], variant["reason"] or "")
    for found in result.get("galleries", []):
        for row in found["answers"]:
            print(
                f"{found['bundle']}: {row['variant']}: {row['same']} of {row['images']} answers of the gallery are the same"
            )
    print(f"emulated: {result['emulated']}; {options.output}")


if __name__ == "__main__":
    main()
